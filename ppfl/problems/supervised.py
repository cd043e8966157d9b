"""Classification with a model, a data set and a split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import PositiveInt, ValidationInfo, field_validator

from ppfl.core.dataset import Dataset
from ppfl.core.model import Model
from ppfl.core.plugins import ChosenFrom, refusal
from ppfl.core.problem import ProblemSettings
from ppfl.core.split import Split

if TYPE_CHECKING:
    from ppfl.core.problem import Placement, Problem


class SupervisedSettings(ProblemSettings):
    """f_m(θ, w) = mean cross-entropy of the model with parameters (θ, w) over training samples of client m."""

    has_labels: ClassVar[bool] = True
    has_body: ClassVar[bool] = True

    name: Literal["supervised"]
    dataset: Annotated[Dataset, ChosenFrom("ppfl.datasets")]
    """Where the samples come from and which client has which."""
    model: Annotated[Model, ChosenFrom("ppfl.models")]
    """From samples to logits."""
    split: Split
    """Which parameters of the model are local."""
    batch_size: PositiveInt | Literal["all"]
    """Samples per client and round, drawn without replacement; `all`: everything a client has to train on."""

    @field_validator("split")
    @classmethod
    def _names_exist(cls, split: Split, info: ValidationInfo) -> Split:
        if "model" in info.data:
            try:
                split.local_names(info.data["model"].parameter_names())
            except ValueError as error:
                raise refusal("local", f"globs over parameter names; {error}") from error
        return split

    def build(self, placement: Placement, clients_per_chunk: int) -> Problem:
        """Load this rank's samples and put the model together. Collective.

        Raises UserError, on every rank, for data that cannot be used and for a model that the samples do not suit.
        """
        from ppfl.problems._supervised_problem import build_supervised

        return build_supervised(self, placement, clients_per_chunk)
