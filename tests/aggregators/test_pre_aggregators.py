"""What everything that comes before a rule has to satisfy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.interfaces.pre_aggregator import RandomKey
from ppfl.rows import client_rows
from ppfl.rows.client_matrix import ClientMatrix
from tests import examples
from tests.aggregators.tables import BEFORE, matrix_of, step, vectors
from tests.ranks import on_ranks

EACH = pytest.mark.parametrize("name", BEFORE)


@pytest.fixture(autouse=True)
def _narrow_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_rows, "BLOCK_COLUMNS", 64)


def matrix(x: np.ndarray) -> ClientMatrix:
    return matrix_of(SoloCommunicator(), x)


def mixing(name: str, x: np.ndarray, num_ranks: int = 1, key: RandomKey | None = None) -> list[torch.Tensor]:
    """Return the weights that every rank finds."""
    chosen = examples.kind("pre_aggregators", name).model_validate(step(name, len(x)))

    def go(communicator: Any) -> torch.Tensor:
        found: torch.Tensor = chosen.mixing(matrix_of(communicator, x), key or RandomKey(3, 5))
        assert found.shape == (chosen.num_outputs(len(x)), len(x))
        return found

    return on_ranks(num_ranks, go)


@EACH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_vectors", [3, 10, 11])
def test_new_vectors_are_the_weighted_sums_of_the_old_ones(name: str, num_vectors: int, dtype: type) -> None:
    x = vectors(num_vectors, 333, "generic").astype(dtype)
    (weights,) = mixing(name, x)
    assert weights.dtype == torch.float64
    assert weights.device.type == "cpu"
    want = weights.numpy() @ x
    assert np.isfinite(want).all()
    assert (np.abs(want).max(axis=1) > 0).all()
    new = examples.kind("pre_aggregators", name).model_validate(step(name, num_vectors))(matrix(x), RandomKey(3, 5))
    for row, unit in enumerate(torch.eye(new.num_vectors, dtype=torch.float64)):
        np.testing.assert_allclose(new.combine(unit), want[row], rtol=0, atol=1e-6 * np.abs(want).max())
    lengths = np.linalg.norm(want, axis=1)
    np.testing.assert_allclose(new.exact_norms(), lengths, rtol=1e-6)


@EACH
@pytest.mark.parametrize("kind", ["generic", "ties"])
def test_ranks_find_the_same_bits(name: str, kind: str) -> None:
    x = vectors(11, 333, kind)
    (alone,) = mixing(name, x)
    for num_ranks in (2, 3, 4):
        assert all(torch.equal(found, alone) for found in mixing(name, x, num_ranks))


@EACH
def test_the_moment_decides_what_is_drawn_and_nothing_else_does(name: str) -> None:
    x = vectors(11, 333, "generic")
    first, again = (mixing(name, x, key=RandomKey(1, 2))[0] for _ in range(2))
    assert torch.equal(first, again)
    others = [mixing(name, x, key=key)[0] for key in (RandomKey(1, 3), RandomKey(2, 2))]
    # either nothing is drawn, or both the seed and the round count
    assert len({torch.equal(first, other) for other in others}) == 1


@EACH
def test_a_number_of_vectors_below_the_bound_is_refused_by_the_rule(name: str) -> None:
    chosen = examples.kind("pre_aggregators", name).model_validate(step(name, 11))
    fewest = chosen.bound().fewest
    rule = examples.make("aggregators", "mean", before=[step(name, 11)])
    rule.check(fewest)
    if fewest > 1:
        with pytest.raises(ValueError, match=rf"before\[0\] {name} needs"):
            rule.check(fewest - 1)
