"""What compute times owe a virtual clock: positive, and functions of (seed, client, job) alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from ppfl.interfaces.compute_times import RandomComputeTimes
from tests import examples

NAMES = examples.names("compute_times")
RANDOM = [name for name in NAMES if issubclass(examples.kind("compute_times", name), RandomComputeTimes)]
CLIENTS, NUM_JOBS = range(5), 150  # more jobs than are drawn at once


def times_of(name: str, **settings: Any) -> Any:
    times = examples.make("compute_times", name, **settings)
    times.check(CLIENTS)
    return times


def table(times: Any, seed: int = 3) -> np.ndarray:
    """Return all times, (clients, jobs)."""
    return np.array([[times.seconds(seed, client, job) for job in range(NUM_JOBS)] for client in CLIENTS])


@pytest.mark.parametrize("name", NAMES)
def test_times_are_positive_numbers_of_seconds(name: str) -> None:
    found = table(times_of(name))
    assert np.isfinite(found).all()
    assert (found > 0).all()
    assert isinstance(times_of(name).seconds(3, 0, 0), float)


@pytest.mark.parametrize("name", NAMES)
def test_times_depend_on_nothing_but_seed_client_and_job(name: str) -> None:
    """Asked in another order, of another instance: ranks and resumed runs ask for some of them only."""
    want, times = table(times_of(name)), times_of(name)
    everything = [*itertools.product(CLIENTS, range(NUM_JOBS))]
    for position in np.random.default_rng(0).permutation(len(everything)):
        client, job = everything[position]
        assert times.seconds(3, client, job) == want[client, job]


@pytest.mark.parametrize("name", RANDOM)
def test_times_that_vary_are_new_for_every_seed_client_and_job(name: str) -> None:
    one, other = (table(times_of(name), seed) for seed in (3, 4))
    if len(np.unique(one[0])) == 1:  # a law without chance
        assert len(np.unique([one, other])) == 1
    else:
        assert len(np.unique([one, other])) == one.size + other.size


@pytest.mark.parametrize("name", RANDOM)
def test_means_and_stragglers_are_the_stated_ones(name: str) -> None:
    plain, slow = times_of(name), times_of(name, mean_seconds=2.0, stragglers=2, straggler_factor=8.0)
    many = [plain.seconds(5, client, job) for client in range(40) for job in range(200)]
    assert np.mean(many) == pytest.approx(1.0, rel=0.05)
    np.testing.assert_allclose(table(slow)[:2], 16.0 * table(plain)[:2], rtol=1e-12)
    np.testing.assert_allclose(table(slow)[2:], 2.0 * table(plain)[2:], rtol=1e-12)
    with pytest.raises(ValueError, match="stragglers: 6 slow clients wanted, 5 have training samples"):
        times_of(name, stragglers=6)
