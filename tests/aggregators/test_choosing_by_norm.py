"""Which vectors are the longest: norms to choose by are exact, and equal for those clipped to the same bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.plugins import discover
from ppfl.interfaces.pre_aggregator import RandomKey
from ppfl.rows.client_matrix import ClientMatrix
from ppfl.rows.gram import TIE
from tests.aggregators.tables import aggregate, vectors
from tests.ranks import client_matrix_of, on_ranks

NUM_VECTORS, DIMENSION, F = 10, 9000, 3


def rows(seed: int, dtype: type = np.float32) -> np.ndarray:
    """Return vectors of different lengths, all far above 1."""
    scales = np.random.default_rng(seed).uniform(1.0, 3.0, (NUM_VECTORS, 1))
    return (scales * vectors(NUM_VECTORS, DIMENSION, "generic", seed)).astype(dtype)


def cge(*before: dict[str, Any], f: int = F) -> Any:
    return discover("ppfl.aggregators")["cge"].model_validate({"name": "cge", "f": f, "before": list(before)})


def step(**settings: Any) -> Any:
    return discover("ppfl.pre_aggregators")[settings["name"]].model_validate(settings)


def matrix(x: np.ndarray) -> ClientMatrix:
    return client_matrix_of(SoloCommunicator(), torch.from_numpy(x))


def norms(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.linalg.norm(x.astype(np.float64), axis=1)
    return found


def assert_mean(got: np.ndarray, of: np.ndarray) -> None:
    np.testing.assert_allclose(got, of.mean(axis=0, dtype=np.float64), rtol=0, atol=1e-6 * np.abs(of).max())


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_longest_are_left_out(dtype: type, num_ranks: int) -> None:
    x = rows(0, dtype)
    kept = np.sort(norms(x).argsort()[: NUM_VECTORS - F])
    for got in on_ranks(num_ranks, lambda communicator: aggregate(communicator, cge(), x)):
        assert_mean(got, x[kept])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(8))
def test_after_clipping_ties_go_to_the_lowest_index(seed: int, dtype: type) -> None:
    """All are as long as the bound: the first N − f are kept."""
    x = rows(seed, dtype)
    clipped = x / norms(x)[:, None]
    got = on_ranks(2, lambda communicator: aggregate(communicator, cge({"name": "clipping", "threshold": 1.0}), x))[0]
    assert_mean(got, clipped[: NUM_VECTORS - F])


@pytest.mark.parametrize("seed", range(8))
def test_after_arc_the_longest_is_tied_with_the_next(seed: int) -> None:
    """k = ⌊2 · 1/10 · 9⌋ = 1: the longest is clipped to the second, and the one of them with the higher index goes."""
    x = rows(seed)
    first, second = norms(x).argsort()[::-1][:2]
    clipped = x.astype(np.float64)
    clipped[first] *= norms(x)[second] / norms(x)[first]
    got = on_ranks(1, lambda communicator: aggregate(communicator, cge({"name": "arc"}, f=1), x))[0]
    assert_mean(got, np.delete(clipped, max(first, second), axis=0))


def test_shorter_vectors_stay_before_those_that_are_clipped() -> None:
    x = rows(3)
    bound = float(np.median(norms(x)))
    chosen = cge({"name": "clipping", "threshold": bound}, f=4)
    clipped = x * np.minimum(1.0, bound / norms(x))[:, None]
    shorter = np.flatnonzero(norms(x) < bound)
    kept = np.sort([*shorter, np.flatnonzero(norms(x) >= bound)[0]])
    assert len(kept) == NUM_VECTORS - 4
    assert_mean(on_ranks(1, lambda communicator: aggregate(communicator, chosen, x))[0], clipped[kept])


@pytest.mark.parametrize("seed", range(4))
def test_what_is_known_of_norms_survives_what_keeps_vectors_apart(seed: int) -> None:
    """Multiples, an other order, a selection and a second clipping of rows that are equally long."""
    clipped = step(name="clipping", threshold=1.0)(matrix(rows(seed)), RandomKey())
    equal = torch.ones(NUM_VECTORS, dtype=torch.float64)
    apart = [
        clipped,
        step(name="bucketing", size=1)(clipped, RandomKey(seed)),
        step(name="clipping", threshold=2.0)(clipped, RandomKey()),
        step(name="arc", f=2)(clipped, RandomKey()),
        clipped.select(torch.arange(NUM_VECTORS).flip(0)),
        clipped.mix(-torch.eye(NUM_VECTORS)),
    ]
    for changed in apart:
        assert torch.equal(changed.exact_norms(), equal)
    assert torch.equal(clipped.mix(3.0 * torch.eye(NUM_VECTORS)).exact_norms(), 3.0 * equal)
    # the numbers in these rows do not tell: they were clipped by norms that are good to 8e-7
    assert float((clipped.squared_norms().sqrt() - 1.0).abs().max()) > 10 * TIE


def test_norms_of_sums_are_those_of_their_numbers() -> None:
    x = rows(1)
    clipped = step(name="clipping", threshold=1.0)(matrix(x), RandomKey())
    mixing = torch.from_numpy(np.random.default_rng(1).random((4, NUM_VECTORS)))
    mixing[2] = 0.0
    mixing[2, 5] = 0.5
    want = norms(mixing.numpy() @ (x / norms(x)[:, None].astype(np.float32)))
    np.testing.assert_allclose(clipped.mix(mixing).exact_norms(), want, rtol=1e-5)
    assert float(clipped.mix(mixing).exact_norms()[2]) == 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms_are_exact(dtype: type) -> None:
    x = rows(2, dtype)
    np.testing.assert_allclose(matrix(x).exact_norms(), norms(x), rtol=1e-14)
    np.testing.assert_allclose(matrix(x).mix(2.0 * torch.eye(NUM_VECTORS)).exact_norms(), 2 * norms(x), rtol=1e-14)
