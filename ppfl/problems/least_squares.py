"""Classification by least squares on one-hot labels, whose linear heads have a closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from ppfl.core.plugins import refusal
from ppfl.networks.model_problem import ModelProblemSettings

if TYPE_CHECKING:
    from ppfl.interfaces.placement import Placement
    from ppfl.interfaces.problem import Problem


class LeastSquaresSettings(ModelProblemSettings):
    """f_m(θ, w) = mean over training samples of client m of ½‖model(x; θ, w) − e_y‖² + (ridge/2)‖w‖², e_y one-hot.

    With the last layer local, weight and bias, w*(θ) is unique and known, and ∇F_m(θ) = ∇_1 f_m(θ, w*(θ)).
    """

    name: Literal["least_squares"]
    ridge: Annotated[float, Field(ge=1e-8)] = 1e-3
    """Weight of ½‖w‖², over local parameters alone; smaller ones are lost in rounding."""

    @model_validator(mode="after")
    def _has_its_own_ridge(self) -> Self:
        for key in ("weight_decay", "proximal", "nonconvex_penalty"):
            if getattr(self.training, key, None) is not None:
                raise refusal(f"training.{key}", "nothing here: its own `ridge` is the term beside the squared error")
        return self

    def build(self, placement: Placement, clients_per_chunk: int | None) -> Problem:
        """Load this rank's samples and put the model together. Collective.

        Raises UserError, on every rank, for data that cannot be used and for a model that the samples do not suit.
        """
        from ppfl.problems._least_squares_problem import build_least_squares

        return build_least_squares(self, self.ridge, placement, clients_per_chunk)
