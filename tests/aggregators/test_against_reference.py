"""Every rule, alone and after every pre-aggregator, equals the dense reference, on 1 and 3 ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ppfl.core.plugins import discover
from ppfl.core.rng import generator
from ppfl.interfaces.pre_aggregator import RandomKey
from ppfl.rows import client_rows
from tests import examples
from tests.aggregators import dense_reference
from tests.aggregators.tables import BEFORE, RULES, aggregate, asks_for, most, rule, settings_for, vectors
from tests.ranks import on_ranks

DIMENSION = 333
TOLERANCE = 1e-6


@pytest.fixture(autouse=True)
def _narrow_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five blocks of columns, spread over the ranks."""
    monkeypatch.setattr(client_rows, "BLOCK_COLUMNS", 64)


WITH_REFERENCE = [name for name in RULES if hasattr(dense_reference, name)]
BEFORE_WITH_REFERENCE = [name for name in BEFORE if hasattr(dense_reference, name)]


def test_every_rule_that_comes_with_ppfl_has_a_reference() -> None:
    for folder, compared in (("aggregators", WITH_REFERENCE), ("pre_aggregators", BEFORE_WITH_REFERENCE)):
        missing = examples.names_of_files(folder) - set(compared)
        assert not missing, f"write {', '.join(missing)} in tests/aggregators/dense_reference.py"


def prepared(wide: np.ndarray, before: str) -> np.ndarray:
    settings = settings_for(before, len(wide), "pre_aggregators")
    if before == "bucketing":
        settings["order"] = generator(3, "bucketing", round=5).permutation(len(wide))
    result: np.ndarray = getattr(dense_reference, before)(wide, **settings)
    return result


def expected(name: str, x: np.ndarray, before: str | None = None) -> np.ndarray:
    wide = x.astype(np.float64)
    if before is not None:
        wide = prepared(wide, before)
    result: np.ndarray = getattr(dense_reference, name)(wide, **settings_for(name, len(wide)))
    return result


def assert_close(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == np.float32
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("kind", ["generic", "ties"])
@pytest.mark.parametrize("num_vectors", [3, 10, 50])
@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_rules(name: str, num_vectors: int, kind: str, num_ranks: int) -> None:
    x = vectors(num_vectors, DIMENSION, kind)
    chosen = rule(name, num_vectors)
    for got in on_ranks(num_ranks, lambda communicator: aggregate(communicator, chosen, x)):
        assert_close(got, expected(name, x))


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("num_vectors", [10, 50])
@pytest.mark.parametrize("before", BEFORE_WITH_REFERENCE)
@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_rules_after_something(name: str, before: str, num_vectors: int, num_ranks: int) -> None:
    x = vectors(num_vectors, DIMENSION, "generic")
    chosen = rule(name, num_vectors, before)
    for got in on_ranks(num_ranks, lambda communicator: aggregate(communicator, chosen, x)):
        assert_close(got, expected(name, x, before))


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("num_vectors", [3, 10, 50])
@pytest.mark.parametrize("before", [None, "bucketing", "clipping", "nnm"])
def test_centered_clipping_from_zero(before: str | None, num_vectors: int, steps: int, num_ranks: int) -> None:
    x = vectors(num_vectors, DIMENSION, "generic")
    settings = {"radius": float(np.linalg.norm(x, axis=1).mean()), "steps": steps, "start": "zero"}
    chosen = rule("centered_clipping", num_vectors, before, **settings)
    wide = x.astype(np.float64)
    if before is not None:
        wide = prepared(wide, before)
    for got in on_ranks(num_ranks, lambda communicator: aggregate(communicator, chosen, x)):
        assert_close(got, dense_reference.centered_clipping(wide, **settings))


@pytest.mark.parametrize("before", [None, *BEFORE_WITH_REFERENCE])
@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_float64_keeps_its_digits(name: str, before: str | None) -> None:
    x = vectors(20, DIMENSION, "generic").astype(np.float64) / 3
    got = on_ranks(2, lambda communicator: aggregate(communicator, rule(name, 20, before), x))[0]
    want = expected(name, x, before)
    assert np.abs(got - want).max() <= 1e-10 * np.abs(want).max()


@pytest.mark.parametrize("name", sorted(set(WITH_REFERENCE) - {"caf", "mda"}))  # whose references take too long
def test_blocks_of_the_width_that_is_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    x = vectors(30, 2 * client_rows.BLOCK_COLUMNS + 100, "generic")
    for got in on_ranks(2, lambda communicator: aggregate(communicator, rule(name, 30), x)):
        assert_close(got, expected(name, x))


def test_a_chain_is_followed_in_its_order() -> None:
    x = vectors(12, DIMENSION, "generic")
    steps = [{"name": "nnm"}, {"name": "clipping", "threshold": 3.0}, {"name": "bucketing", "size": 3}]
    document = {"name": "trimmed_mean", "f": 1, "before": steps}
    chosen = discover("ppfl.aggregators")["trimmed_mean"].model_validate(document)
    order = generator(3, "bucketing", round=5).permutation(12)
    mixed = dense_reference.clipping(dense_reference.nnm(x.astype(np.float64), 1), 3.0)
    want = dense_reference.trimmed_mean(dense_reference.bucketing(mixed, 3, order), 1)
    for got in on_ranks(2, lambda communicator: aggregate(communicator, chosen, x)):
        assert_close(got, want)


def test_buckets_are_new_in_every_round_and_the_same_for_the_same_seed() -> None:
    x = vectors(10, DIMENSION, "generic")
    chosen = rule("median", 10, "bucketing")

    def run(key: RandomKey) -> Any:
        return on_ranks(1, lambda communicator: aggregate(communicator, chosen, x, key))[0].tobytes()

    assert run(RandomKey(1, 2)) == run(RandomKey(1, 2))
    assert len({run(RandomKey(1, 2)), run(RandomKey(1, 3)), run(RandomKey(2, 2))}) == 3


@pytest.mark.parametrize("num_vectors", [20, 50])
def test_mda_beyond_enumeration(num_vectors: int) -> None:
    f = 8
    x = vectors(num_vectors, DIMENSION, "generic")
    chosen = rule("mda", num_vectors, f=f)
    got = on_ranks(1, lambda communicator: aggregate(communicator, chosen, x))[0]
    assert_close(got, dense_reference.mda_by_balls(x.astype(np.float64), f))


def test_the_geometric_median_minimizes() -> None:
    """Unit vectors towards the rows cancel; beyond the dense reference, which follows the same steps."""
    x = vectors(10, DIMENSION, "generic").astype(np.float64)
    found = on_ranks(1, lambda communicator: aggregate(communicator, rule("geometric_median", 10), x))[0]
    away = found - x
    assert np.linalg.norm((away / np.linalg.norm(away, axis=1, keepdims=True)).sum(axis=0)) <= 1e-8


@pytest.mark.parametrize("before", [None, *BEFORE])
@pytest.mark.parametrize("name", RULES)
def test_ranks_do_not_change_a_bit(name: str, before: str | None) -> None:
    x = vectors(11, DIMENSION, "generic")
    chosen = rule(name, 11, before)
    alone = on_ranks(1, lambda communicator: aggregate(communicator, chosen, x))[0]
    for num_ranks in (2, 3, 4):
        for got in on_ranks(num_ranks, lambda communicator: aggregate(communicator, chosen, x)):
            assert got.tobytes() == alone.tobytes()


@pytest.mark.parametrize("name", sorted(set(RULES) - {"mda"}))  # whose subsets of least diameter tie as a rule
def test_the_order_of_clients_does_not_matter(name: str) -> None:
    x = vectors(11, DIMENSION, "generic")
    chosen = rule(name, 11)
    order = np.random.default_rng(1).permutation(11)
    one, other = (on_ranks(1, lambda c, rows=rows: aggregate(c, chosen, rows))[0] for rows in (x, x[order]))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in RULES if not asks_for(name, "exact_norms")])
def test_a_common_shift_is_followed(name: str) -> None:
    x = vectors(11, DIMENSION, "generic").astype(np.float64)
    chosen = rule(name, 11)
    one, moved = (on_ranks(1, lambda c, rows=rows: aggregate(c, chosen, rows))[0] for rows in (x, x + 10.0))
    np.testing.assert_allclose(moved, one + 10.0, rtol=1e-9)


@pytest.mark.parametrize("name", sorted(set(RULES) - {"mean", "centered_clipping"}))  # which give way by the radius
def test_f_vectors_far_away_are_kept_out(name: str) -> None:
    """Also in the first row, by which others would be centred: 1e30 beside numbers around 1."""
    num_vectors = 12
    x = vectors(num_vectors, DIMENSION, "generic")
    x[1] -= 5.0
    honest = x[most(num_vectors) :]
    x[: most(num_vectors)] = 1e30
    got = on_ranks(1, lambda communicator: aggregate(communicator, rule(name, num_vectors), x))[0]
    assert (got >= honest.min(axis=0) - 0.5).all()
    assert (got <= honest.max(axis=0) + 0.5).all()
