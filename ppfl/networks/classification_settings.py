"""What the settings of all classification problems have in common: class labels, and a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import PositiveInt, ValidationInfo, field_validator

from ppfl.core.plugins import ChosenFrom, refusal
from ppfl.interfaces.dataset import Dataset, Partition
from ppfl.interfaces.problem import ProblemSettings
from ppfl.interfaces.split import ModelSplit, Parts
from ppfl.networks.lora import adapted
from ppfl.networks.model import Model, Stage
from ppfl.networks.training import Training

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
    >>> section.parts.local, section.known_clients
    (('head.weight', 'head.bias'), 6)
    """

    example: ClassVar[Example] = {
        "dataset": {"name": "digits", "partition": {"name": "iid", "clients": 6}},
        "model": {"name": "mlp", "hidden": [8]},
        "split": {"local": ["head.*"]},
        "batch_size": 16,
    }

    silent: ClassVar[frozenset[str]] = frozenset({"training"})
    dataset: Annotated[Dataset, ChosenFrom("ppfl.datasets")]
    """Where the samples come from and which client has which."""
    model: Annotated[Model, ChosenFrom("ppfl.models")]
    """From samples to logits."""
    split: ModelSplit
    """Which parameters of the model are local, which are frozen, and where there are factors of low rank."""
    batch_size: PositiveInt | Literal["all"]
    """Samples per client and round, drawn without replacement; `all`: everything a client has to train on."""
    training: Training | None = None
    """How clients train, whatever the method."""

    @property
    def parts(self) -> Parts:
        """Names of the local and of the frozen parameters."""
        return self.split.parts(self.split.names(self.model.parameter_names()))

    def stages(self, input_shape: tuple[int, ...], num_classes: int) -> tuple[Stage, ...]:
        """Return the stages of the model with the parameters of LoRA. Raises UserError where shapes do not suit."""
        return adapted(self.model.stages(input_shape, num_classes), self.split.lora)

    @property
    def known_clients(self) -> int | None:
        """Number of clients of a partition, which leaves none of them without training samples."""
        partition = getattr(self.dataset, "partition", None)
        return partition.clients if isinstance(partition, Partition) else None

    @field_validator("split")
    @classmethod
    def _names_exist(cls, split: ModelSplit, info: ValidationInfo) -> ModelSplit:
        if "model" not in info.data:
            return split
        where = "lora.layers"
        try:
            names = split.names(info.data["model"].parameter_names())
            where = "frozen"
            split.frozen_names(names)
            where = "local"
            split.parts(names)
        except ValueError as error:
            what = "layers" if where == "lora.layers" else "parameter names"
            raise refusal(where, f"globs over {what}; {error}") from error
        return split
