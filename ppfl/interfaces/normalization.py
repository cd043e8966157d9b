"""The section `normalize` of a data set: what samples are brought to before a model sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from ppfl.core.errors import UserError
from ppfl.core.plugins import Settings, refusal

if TYPE_CHECKING:
    import torch

_MIN_STD = 1e-6
"""Below it a division makes noise of rounding errors; a number that never varies has 1 here."""


class Normalization(Settings):
    """x ← (x − mean)/std, channel by channel, of samples that lie in [0, 1] or are used as they are.

    Samples stay in memory as they are stored, and are normalized when they are drawn.
    """

    mean: tuple[float, ...] = Field(strict=False, min_length=1)
    """One number a channel; a feature vector has a channel a feature."""
    std: tuple[float, ...] = Field(strict=False, min_length=1)
    """As many, none below 1e-6."""

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.std) != len(self.mean):
            raise refusal("std", f"{len(self.mean)} numbers, as many as `mean` has")
        if min(self.std) < _MIN_STD:
            raise refusal("std", f"numbers of at least {_MIN_STD:g}")
        return self

    def check(self, input_shape: tuple[int, ...], vocabulary_size: int | None) -> None:
        """Raise UserError for samples that have other channels, or are tokens."""
        if vocabulary_size is not None:
            raise UserError("problem.dataset.normalize: for numbers; samples are tokens")
        if len(self.mean) != input_shape[0]:
            raise UserError(
                f"problem.dataset.normalize.mean: has {len(self.mean)} numbers; samples of shape {input_shape} have "
                f"{input_shape[0]} channels"
            )

    def applied(self, x: torch.Tensor) -> torch.Tensor:
        """Return samples (S, channels, height, width) or (S, features), floating point, as models see them."""
        import torch

        shape = (-1, *(1 for _ in x.shape[2:]))
        mean, std = (torch.tensor(one, dtype=x.dtype, device=x.device).view(shape) for one in (self.mean, self.std))
        return (x - mean) / std
