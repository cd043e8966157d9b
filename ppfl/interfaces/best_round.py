"""The section `evaluate.best_round:`: rounds are judged on validation samples, never on test samples."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from ppfl.core.plugins import Settings


class BestRound(Settings):
    """Which round is the best one, and when a run ends because none has been better for long."""

    metric: Literal["loss", "accuracy"] = "loss"
    """Mean over clients of this score of their validation samples: the lowest loss is best, or the highest accuracy."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """By how much more than this a round is better than the best one before, to be the best one itself."""
    patience: PositiveInt | None = None
    """Evaluations in a row without a better round after which the run ends; null: it goes to its last round."""

    @property
    def series(self) -> str:
        """Name of the score."""
        return f"validation_{self.metric}"

    def is_better(self, value: float, best: float) -> bool:
        """Say whether a score is better than the best one before; NaN is never, and all else is better than NaN.

        >>> from ppfl.interfaces.best_round import BestRound
        >>> BestRound(min_delta=0.25).is_better(1.0, best=1.25), BestRound(min_delta=0.25).is_better(0.75, best=1.25)
        (False, True)
        >>> BestRound(metric="accuracy").is_better(0.75, best=0.5)
        True
        """
        if math.isnan(best):
            return not math.isnan(value)
        gain = best - value if self.metric == "loss" else value - best
        return gain > self.min_delta
