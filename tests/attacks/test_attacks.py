"""Attacks: their formulas, what they leave alone, and that ranks do not change a bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.interfaces.aggregator import NotFiniteError, TooFewVectorsError
from ppfl.interfaces.attack import Knowledge
from ppfl.interfaces.attack_with_factor import AttackWithFactor
from ppfl.interfaces.pre_aggregator import RandomKey
from ppfl.rows import client_rows
from ppfl.rows.client_matrix import ClientMatrix
from tests import examples
from tests.aggregators import dense_reference
from tests.aggregators.tables import ON_VECTORS, RULES, attack, matrix_of, rule, settings_for, vectors
from tests.attacks import formulas
from tests.ranks import on_ranks

DIMENSION = 229
HOSTILE = (0, 3, 4)


OPTIMAL = pytest.mark.parametrize(
    "name", [name for name in ON_VECTORS if issubclass(examples.kind("attacks", name), AttackWithFactor)]
)


@pytest.fixture(autouse=True)
def _narrow_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_rows, "BLOCK_COLUMNS", 64)


def rows_of(matrix: ClientMatrix) -> np.ndarray:
    units = torch.eye(matrix.num_vectors, dtype=torch.float64)
    return np.stack([matrix.select(unit.nonzero()[:, 0]).combine(torch.ones(1)).numpy() for unit in units])


def attacked(
    chosen: Any, x: np.ndarray, num_ranks: int = 1, key: RandomKey | None = None, aggregator: Any = None
) -> np.ndarray:
    marked = torch.zeros(len(x), dtype=torch.bool)
    marked[list(HOSTILE)] = True
    key = key or RandomKey(3, 5)
    aggregator = aggregator or rule("median", len(x))

    def run(communicator: Any) -> np.ndarray:
        matrix = matrix_of(communicator, x)
        knowledge = Knowledge(key, lambda changed: aggregator(changed, key))
        result = rows_of(chosen(matrix, marked, knowledge))
        np.testing.assert_array_equal(rows_of(matrix), x)
        return result

    found = on_ranks(num_ranks, run)
    assert all(result.tobytes() == found[0].tobytes() for result in found)
    return found[0]


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("name", [name for name in ON_VECTORS if hasattr(formulas, name)])
def test_formulas(name: str, num_ranks: int) -> None:
    x = vectors(11, DIMENSION, "generic").astype(np.float64)
    honest, own = np.delete(x, HOSTILE, axis=0), x[list(HOSTILE)]
    chosen = attack(name)
    want = getattr(formulas, name)(honest, own, **chosen.model_dump(exclude={"name"}))
    got = attacked(chosen, x, num_ranks)[list(HOSTILE)]
    np.testing.assert_allclose(got, np.broadcast_to(want, own.shape), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ON_VECTORS)
def test_honest_vectors_stay_and_ranks_do_not_change_a_bit(name: str) -> None:
    x = vectors(11, DIMENSION, "generic")
    alone = attacked(attack(name), x)
    assert alone.dtype == np.float32
    assert (np.delete(alone, HOSTILE, axis=0) == np.delete(x, HOSTILE, axis=0)).all()
    assert (alone[list(HOSTILE)] != x[list(HOSTILE)]).any(axis=1).all()
    for num_ranks in (2, 3, 4):
        assert attacked(attack(name), x, num_ranks).tobytes() == alone.tobytes()


@pytest.mark.parametrize("name", ON_VECTORS)
def test_attackers_ignore_honest_vectors_that_are_not_finite(name: str) -> None:
    x = vectors(11, DIMENSION, "generic")
    x[7, 3] = np.nan
    got = attacked(attack(name), x)[list(HOSTILE)]
    assert np.isinf(got).all() if name == "inf" else np.isfinite(got).all()


@OPTIMAL
@pytest.mark.parametrize("error", [NotFiniteError([7]), TooFewVectorsError("2 vectors")])
def test_a_rule_that_does_not_survive_honest_vectors_is_left_to_say_so(name: str, error: ValueError) -> None:
    """The server asks it in a moment, and finds that the run has diverged; the search finds nothing."""

    def aggregator(changed: ClientMatrix, key: RandomKey) -> torch.Tensor:
        raise error

    x = vectors(11, DIMENSION, "generic")
    x[7, 3] = np.nan
    assert np.isfinite(attacked(attack(name, factor="optimal"), x, aggregator=aggregator)[list(HOSTILE)]).all()
    if isinstance(error, NotFiniteError):
        assert np.isfinite(attacked(attack(name, factor="optimal"), x, aggregator=rule("mean", 11))[0]).all()


@pytest.mark.parametrize("unit", [1e100, 1e-100])
@pytest.mark.parametrize("direction", ["unit", "sign", "std"])
@pytest.mark.parametrize("name", ["min_max", "min_sum"])
def test_hiding_does_not_depend_on_the_unit(name: str, direction: str, unit: float) -> None:
    """Also where squares of squares overflow: of a run that diverges, attackers are not to be the reason."""
    x = vectors(11, DIMENSION, "generic").astype(np.float64)
    got, want = (attacked(attack(name, direction=direction), scale * x)[list(HOSTILE)] for scale in (unit, 1.0))
    np.testing.assert_allclose(got / unit, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("direction", ["unit", "sign", "std"])
@pytest.mark.parametrize("name", ["min_max", "min_sum"])
def test_hiding_beside_one_honest_vector_that_is_far_off(name: str, direction: str) -> None:
    """The direction may be far shorter than what lies between the others and the mean."""
    x = vectors(11, DIMENSION, "generic").astype(np.float64)
    x[1] *= 1e6
    want = getattr(formulas, name)(np.delete(x, HOSTILE, axis=0), x[list(HOSTILE)], direction)
    got = attacked(attack(name, direction=direction), x)[list(HOSTILE)]
    np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), rtol=0, atol=1e-12 * np.abs(x).max())


@pytest.mark.parametrize("name", ["min_max", "min_sum"])
def test_a_mean_that_is_nearly_zero_has_a_direction(name: str) -> None:
    """Its square underflows, and with a direction that short γ is huge."""
    x = np.random.default_rng(0).standard_normal((11, DIMENSION))
    honest = [row for row in range(len(x)) if row not in HOSTILE]
    half = len(honest) // 2
    x[honest[half:]] = -x[honest[:half]]
    x[honest, -1] = 1e-158
    (got, *_) = attacked(attack(name), x)[list(HOSTILE)]
    assert np.isfinite(got).all()
    squares = ((got - x[honest]) ** 2).sum(axis=1)
    between = ((x[honest][:, None] - x[honest][None]) ** 2).sum(axis=2)
    reached, bound = (squares.max(), between.max()) if name == "min_max" else (squares.sum(), between.sum(1).max())
    assert reached == pytest.approx(bound, rel=1e-6)


def test_gaussian_draws_are_keyed_by_seed_round_attacker_and_block() -> None:
    x = np.zeros((11, 4000))
    chosen = attack("gaussian")
    got = attacked(chosen, x)[list(HOSTILE)]
    assert abs(got.mean()) < 0.1
    assert got.std() == pytest.approx(3.0, rel=0.05)
    blocks = got.reshape(3, -1, 8).reshape(-1, 8)
    assert len(np.unique(blocks, axis=0)) == len(blocks)
    assert (attacked(chosen, x, key=RandomKey(3, 5)) == attacked(chosen, x)).all()
    for key in (RandomKey(3, 6), RandomKey(4, 5)):
        assert (attacked(chosen, x, key=key)[list(HOSTILE)] != got).all()


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("direction", ["unit", "sign", "std"])
@pytest.mark.parametrize("name", ["min_max", "min_sum"])
def test_who_hides_among_honest_vectors_goes_as_far_as_distances_allow(
    name: str, direction: str, num_ranks: int
) -> None:
    """A bisection on the vectors themselves finds the same; the bound holds, and is reached."""
    x = vectors(11, DIMENSION, "generic").astype(np.float64)
    honest, own = np.delete(x, HOSTILE, axis=0), x[list(HOSTILE)]
    got = attacked(attack(name, direction=direction), x, num_ranks)[list(HOSTILE)]
    want = getattr(formulas, name)(honest, own, direction)
    np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), rtol=1e-12, atol=1e-12)
    squares = ((honest[:, None] - honest[None]) ** 2).sum(axis=2)
    to_honest = ((got[0] - honest) ** 2).sum(axis=1)
    reached, bound = (to_honest.max(), squares.max()) if name == "min_max" else (to_honest.sum(), squares.sum(1).max())
    assert reached == pytest.approx(bound, rel=1e-12)


@pytest.mark.parametrize("direction", ["unit", "sign", "std"])
@pytest.mark.parametrize("name", ["min_max", "min_sum"])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_hiding_survives_vectors_far_from_zero_and_honest_ones_alike(name: str, direction: str, offset: float) -> None:
    x = vectors(11, DIMENSION, "generic").astype(np.float64)
    shifted = attacked(attack(name, direction=direction), x + offset)[list(HOSTILE)]
    want = getattr(formulas, name)(np.delete(x, HOSTILE, axis=0) + offset, x[list(HOSTILE)], direction)
    np.testing.assert_allclose(shifted - offset, np.broadcast_to(want - offset, shifted.shape), rtol=0, atol=1e-8)
    alike = np.ones_like(x)
    assert (attacked(attack(name, direction=direction), alike) == alike).all()
    # whose mean is not quite any of them
    alike = np.full_like(x, 0.1)
    np.testing.assert_allclose(attacked(attack(name, direction=direction), alike), alike, rtol=1e-12)


@pytest.mark.parametrize("direction", ["unit", "sign", "std"])
@pytest.mark.parametrize("name", ["min_max", "min_sum"])
def test_a_round_with_one_honest_vector_is_answered_with_it(name: str, direction: str) -> None:
    """Sampled cohorts may have such rounds, and honest vectors may be NaN."""
    x = vectors(5, DIMENSION, "generic")
    x[2, 0] = np.nan
    got = attacked(attack(name, direction=direction), x)[list(HOSTILE)]
    assert (got == x[1]).all()


def test_one_honest_vector_has_no_distances_to_hide_in() -> None:
    for name in ("min_max", "min_sum", "little_is_enough"):
        with pytest.raises(ValueError, match="name: one honest vector has no"):
            attack(name).check(3, 2)


HARMFUL = (0.64, 0.81, 1.06, 1.22, 1.73, 1.9, 2.98, 3.0, 3.66, 5.0)
"""The factors of a grid of 60 between 0.05 and 5 that do the most damage to some rule."""
LEAST_SHARE = {
    ("multi_krum", "little_is_enough"): 0.85,
    ("centered_clipping", "little_is_enough"): 0.75,
    ("multi_krum", "sign_flip"): 0.755,
}
"""Of the most damage, where the line search ends at another peak; the numbers of docs/methods.md."""


def damages(rule_name: str, name: str, factors: Sequence[Any]) -> list[float]:
    """Return how far each factor takes the aggregate of 11 vectors from the honest mean, f = 3."""
    x = vectors(11, DIMENSION, "generic").astype(np.float64)
    aggregator = rule(rule_name, 11, **({"f": 3} if "f" in settings_for(rule_name, 11) else {}))
    mean = np.delete(x, HOSTILE, axis=0).mean(axis=0)

    def damage(factor: Any) -> float:
        sent = attacked(attack(name, factor=factor), x, aggregator=aggregator)
        moved = on_ranks(1, lambda c: aggregator(matrix_of(c, sent), RandomKey()))[0].numpy()
        return float(np.linalg.norm(moved - mean))

    return [damage(factor) for factor in factors]


@OPTIMAL
@pytest.mark.parametrize("rule_name", RULES)
def test_the_optimal_factor_does_no_less_damage_than_the_first_that_is_tried(name: str, rule_name: str) -> None:
    optimal, first = damages(rule_name, name, ["optimal", 1.0])
    assert optimal >= first


@pytest.mark.slow
@OPTIMAL
@pytest.mark.parametrize("rule_name", [name for name in RULES if hasattr(dense_reference, name)])
def test_the_optimal_factor_does_nearly_the_most_damage(name: str, rule_name: str) -> None:
    """To the rules that come with ppfl."""
    optimal, *harmful = damages(rule_name, name, ["optimal", *HARMFUL])
    share, least = optimal / max(harmful), LEAST_SHARE.get((rule_name, name))
    assert share >= 0.94 if least is None else abs(share - least) < 0.005


def test_mimic_counts_from_the_start_again() -> None:
    x = vectors(11, DIMENSION, "generic")
    assert (attacked(attack("mimic", client=9), x) == attacked(attack("mimic", client=1), x)).all()


def test_label_flip_mirrors_labels_alone() -> None:
    data = {"x": torch.ones(3, 2), "y": torch.tensor([0, 4, 9])}
    poisoned = attack("label_flip").poison(data, 10)
    assert poisoned["y"].tolist() == [9, 5, 0]
    assert poisoned["x"] is data["x"]
    assert data["y"].tolist() == [0, 4, 9]
