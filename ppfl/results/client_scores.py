"""Scores of single clients: which way is better, and how the worst of them fare."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_LARGER_IS_BETTER = re.compile(r"(^|_)(accuracy|hit_rate|ndcg|r2)(_|$)")
_WORST = 0.1


class Worst(NamedTuple):
    """The tenth of clients that fares worst."""

    mean: float
    """Over ⌈M/10⌉ clients."""
    percentile: float
    """The score that a tenth of clients does not reach: the 10th percentile, where lower is better the 90th."""


def larger_is_better(metric: str) -> bool:
    """Say which way a score is better, such as `test_accuracy`, whatever it is of; losses, errors, norms and costs are
    where they are lower.

    >>> from ppfl.results.client_scores import larger_is_better
    >>> [larger_is_better(name) for name in ("newcomers_5_test_accuracy", "test_hit_rate_at_5", "test_loss")]
    [True, True, False]
    """
    return _LARGER_IS_BETTER.search(metric) is not None


def worst_tenth(metric: str, values: npt.NDArray[np.float64]) -> Worst:
    """Return how the worst clients fare, given the scores of all that count, (M,); NaN of none, and where any is NaN.

    >>> import numpy as np
    >>> from ppfl.results.client_scores import worst_tenth
    >>> worst_tenth("test_loss", np.arange(11.0))
    Worst(mean=9.5, percentile=9.0)
    """
    if not len(values) or np.isnan(values).any():
        return Worst(math.nan, math.nan)
    from_worst = np.sort(values)
    if not larger_is_better(metric):
        from_worst = from_worst[::-1]
    share = _WORST if larger_is_better(metric) else 1 - _WORST
    return Worst(float(from_worst[: -(-len(values) // 10)].mean()), float(np.quantile(values, share)))
