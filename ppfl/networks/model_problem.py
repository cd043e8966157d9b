"""What the settings of all problems with a model have in common: the model, samples, and a split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import PositiveInt, ValidationInfo, field_validator, model_validator

from ppfl.core.errors import UserError
from ppfl.core.plugins import ChosenFrom, refusal
from ppfl.interfaces.dataset import Dataset
from ppfl.interfaces.own_tokens import OwnTokens, refuse_shared_rows, with_own_names
from ppfl.interfaces.partition import Partition
from ppfl.interfaces.problem import ProblemSettings
from ppfl.interfaces.split import ModelSplit, Parts
from ppfl.interfaces.task import Task
from ppfl.networks.lora import adapted
from ppfl.networks.mixture import mixed
from ppfl.networks.model import Model, Stage
from ppfl.networks.own_rows import with_own_rows
from ppfl.networks.training import Training

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.plugins import Example


class ModelProblemSettings(ProblemSettings):
    """A model, a data set with labels, and which parameters of the model are local.

    Such a problem says what it makes of them; scores of a part of the samples and short number types are for these
    alone:

    >>> from typing import Literal
    >>> from ppfl.networks.model_problem import ModelProblemSettings
    >>> class Margin(ModelProblemSettings):
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

    silent: ClassVar[frozenset[str]] = frozenset({"training", "own_tokens"})
    dataset: Annotated[Dataset, ChosenFrom("ppfl.datasets")]
    """Where the samples come from and which client has which."""
    model: Annotated[Model, ChosenFrom("ppfl.models")]
    """From samples to logits."""
    own_tokens: OwnTokens | None = None
    """Which tokens are each client's own, with local rows of the input and the output layer; null: one vocabulary for
    all clients."""
    split: ModelSplit
    """Which parameters of the model are local, which are frozen, and where there are factors of low rank."""
    batch_size: PositiveInt | Literal["all"]
    """Samples per client and round, drawn without replacement; `all`: everything a client has to train on."""
    training: Training | None = None
    """How clients train, whatever the method."""

    def stages(self, input_shape: tuple[int, ...], num_classes: int, num_own_tokens: int = 0) -> tuple[Stage, ...]:
        """Return the stages of the model with the parameters of LoRA, of a mixture of adaptors, or of own tokens.

        num_own_tokens: among num_classes, of the client with most of them. Raises UserError where shapes do not suit.
        """
        model = self.split_model
        stages = adapted(model.stages(input_shape, num_classes - num_own_tokens), self.split.lora)
        if self.own_tokens is not None:
            stages = with_own_rows(stages, model.token_rows, num_own_tokens)
        return mixed(stages, self.split.floral)

    def parts_of(self, stages: Sequence[Stage]) -> Parts:
        """Return the names of the local and of the frozen parameters. Raises UserError for globs that do not fit."""
        names, where = tuple(name for stage in stages for name in stage.parameters), "frozen"
        try:
            self.split.frozen_names(names)
            where = "local"
            return self.split.parts(names)
        except ValueError as error:
            raise UserError(f"problem.split.{where}: {error}; allowed: globs over parameter names") from error

    @property
    def has_classes(self) -> bool:
        """Whether labels are classes, which can be counted and flipped."""
        task = getattr(self, "task", None)
        return task.has_classes if isinstance(task, Task) else True

    @property
    def known_clients(self) -> int | None:
        """Number of clients of a partition, which leaves none of them without training samples; None: its data tell."""
        partition = getattr(self.dataset, "partition", None)
        return partition.clients or None if isinstance(partition, Partition) else None

    @property
    def split_model(self) -> Model:
        """The model as the split needs it."""
        return self.model.for_split(self.split)

    @model_validator(mode="after")
    def _can_have_own_tokens(self) -> Self:
        if self.own_tokens is None:
            return self
        task = getattr(self, "task", None)
        if not isinstance(task, Task) or not task.predicts_tokens:
            raise refusal("own_tokens", "null, but for tasks whose labels are tokens, next_token and ranking")
        if not self.split_model.token_rows:
            raise refusal("own_tokens", "null, but for models with rows of tokens, lstm and transformer")
        if self.split.lora is not None or self.split.floral is not None:
            raise refusal("own_tokens", "null beside `split.lora` or `split.floral`: own rows have no factors")
        if self.training is not None and self.training.proximal:
            raise refusal("own_tokens", "null beside `training.proximal`, which knows one start for all clients")
        return self

    @field_validator("split")
    @classmethod
    def _names_exist(cls, split: ModelSplit, info: ValidationInfo) -> ModelSplit:
        model = info.data["model"].for_split(split) if "model" in info.data else None
        of_model = model.parameter_names() if model is not None else None
        token_rows = model.token_rows if model is not None and info.data.get("own_tokens") is not None else ()
        if of_model is None:  # the globs are compared with the names when the problem is built
            return split
        where = "lora.layers" if split.floral is None else "floral.layers"
        try:
            names = with_own_names(split.names(of_model), token_rows)
            where = "frozen"
            split.frozen_names(names)
            where = "local"
            refuse_shared_rows(split.parts(names).local, names, token_rows)
        except ValueError as error:
            what = "layers" if where.endswith("layers") else "parameter names"
            raise refusal(where, f"globs over {what}; {error}") from error
        return split
