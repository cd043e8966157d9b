"""Who takes part: sampling, empty ranks, weights."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ppfl.engine.participants import CohortSampler
from tests.engine.build import COMPARISON, scores
from tests.ranks import on_ranks


def sampler(cohort: Any, samples: tuple[int, ...] = (1,) * 10, seed: int = 0) -> CohortSampler:
    return CohortSampler(SimpleNamespace(num_train_samples=samples), cohort, seed)  # type: ignore[arg-type]


SIZES = [("all", 10), (1, 1), (1.0, 10), (0.25, 2), (0.35, 4), (0.01, 1), (10, 10)]


@pytest.mark.parametrize(("cohort", "size"), SIZES)
def test_sizes(cohort: Any, size: int) -> None:
    """A fraction is rounded half to even."""
    assert len(sampler(cohort)(0)) == size


def test_uniform_without_replacement_and_new_each_round() -> None:
    draw = sampler(3)
    counts = Counter(client for round in range(2000) for client in draw(round))
    assert sum(counts.values()) == 6000
    assert all(500 <= counts[client] <= 700 for client in range(10))
    assert draw(5) == sampler(3)(5)


def test_clients_without_samples_never_take_part() -> None:
    draw = sampler(2, (0, 3, 0, 1, 2))
    assert set().union(*(draw(round) for round in range(100))) == {1, 3, 4}


@pytest.mark.parametrize(("cohort", "samples"), [(11, (1,) * 10), (3, (0, 1, 2))])
def test_more_than_there_are_is_refused(cohort: int, samples: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="clients wanted"):
        sampler(cohort, samples)


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_a_rank_without_clients_in_the_cohort_takes_part(num_ranks: int) -> None:
    problem = {**COMPARISON, "clients": 4, "rows": 120, "shared_dimension": 10, "local_dimension": 3}

    def run(communicator: Any) -> Any:
        return scores(communicator, problem=problem, cohort=1, rounds=5)[-1].metrics

    alone = on_ranks(1, run)[0]
    for metrics in on_ranks(num_ranks, run):
        assert metrics.keys() == alone.keys()
        assert all(np.array_equal(metrics[name], alone[name]) for name in alone)
