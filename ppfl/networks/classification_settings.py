"""What the settings of all classification problems have in common: class labels, and a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import PositiveInt, ValidationInfo, field_validator

from ppfl.core.plugins import ChosenFrom, refusal
from ppfl.interfaces.dataset import Dataset, Partition
from ppfl.interfaces.problem import ProblemSettings
from ppfl.interfaces.split import Split
from ppfl.interfaces.task import Task
from ppfl.networks.model import Model

if TYPE_CHECKING:
    from ppfl.core.plugins import Example


class ClassificationSettings(ProblemSettings):
    """A model, a data set with class labels, and which parameters of the model are local.

    Such a problem says what it makes of them; attacks on labels and short number types are for these alone:

    >>> from typing import Literal
    >>> from ppfl.networks.classification_settings import ClassificationSettings
    >>> class Margin(ClassificationSettings):
    ...     name: Literal["margin"]
    >>> section = Margin.model_validate({"name": "margin", **Margin.example})
    >>> section.split.local_names(section.model.parameter_names()), section.known_clients
    (('head.weight', 'head.bias'), 6)
    """

    example: ClassVar[Example] = {
        "dataset": {"name": "digits", "partition": {"name": "iid", "clients": 6}},
        "model": {"name": "mlp", "hidden": [8]},
        "split": {"local": ["head.*"]},
        "batch_size": 16,
    }

    dataset: Annotated[Dataset, ChosenFrom("ppfl.datasets")]
    """Where the samples come from and which client has which."""
    model: Annotated[Model, ChosenFrom("ppfl.models")]
    """From samples to logits."""
    split: Split
    """Which parameters of the model are local."""
    batch_size: PositiveInt | Literal["all"]
    """Samples per client and round, drawn without replacement; `all`: everything a client has to train on."""

    @property
    def has_classes(self) -> bool:
        """Whether labels are classes, which can be counted and flipped."""
        task = getattr(self, "task", None)
        return task.has_classes if isinstance(task, Task) else True

    @property
    def known_clients(self) -> int | None:
        """Number of clients of a partition, which leaves none of them without training samples."""
        partition = getattr(self.dataset, "partition", None)
        return partition.clients if isinstance(partition, Partition) else None

    @field_validator("split")
    @classmethod
    def _names_exist(cls, split: Split, info: ValidationInfo) -> Split:
        if "model" in info.data:
            try:
                split.local_names(info.data["model"].parameter_names())
            except ValueError as error:
                raise refusal("local", f"globs over parameter names; {error}") from error
        return split
