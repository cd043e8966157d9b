"""What rules owe besides their formulas: identities, exact distances, NaN and inf, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.plugins import discover
from ppfl.interfaces.aggregator import NotFiniteError, TooFewVectorsError
from ppfl.rows import client_rows
from ppfl.rows.gram import smallest
from tests.aggregators import dense_reference
from tests.aggregators.tables import BEFORE, RULES, aggregate, asks_for, rule, settings_for, vectors
from tests.ranks import client_matrix_of, on_ranks

BY_DISTANCES = [name for name in RULES if asks_for(name, "gram")]


@pytest.fixture(autouse=True)
def _narrow_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_rows, "BLOCK_COLUMNS", 64)


def alone(chosen: Any, x: np.ndarray) -> np.ndarray:
    result: np.ndarray = on_ranks(1, lambda communicator: aggregate(communicator, chosen, x))[0]
    return result


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *((name, {"f": 0}) for name in ("trimmed_mean", "meamed", "mda", "monna", "caf", "cge")),
        ("multi_krum", {"f": 0}),
        ("multi_krum", {"f": 2, "keep": 9}),
        ("centered_clipping", {"radius": "infinite"}),
        ("centered_clipping", {"radius": 1e9, "steps": 1}),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rules_that_are_the_mean(name: str, arguments: dict[str, Any], dtype: type) -> None:
    x = vectors(9, 140, "generic").astype(dtype)
    tolerance = 1e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(alone(rule(name, 9, **arguments), x), x.mean(axis=0, dtype=np.float64), atol=tolerance)


@pytest.mark.parametrize(
    ("before", "arguments"),
    [("nnm", {"f": 0}), ("arc", {"f": 0}), ("bucketing", {"size": 1}), ("clipping", {"threshold": 1e9})],
)
def test_steps_that_change_nothing_under_the_mean(before: str, arguments: dict[str, Any]) -> None:
    x = vectors(9, 140, "generic").astype(np.float64)
    document = {"name": "mean", "before": [{"name": before, **arguments}]}
    chosen = discover("ppfl.aggregators")["mean"].model_validate(document)
    np.testing.assert_allclose(alone(chosen, x), x.mean(axis=0), atol=1e-13)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", BY_DISTANCES)
def test_a_large_common_offset_chooses_the_same_vectors(name: str, seed: int) -> None:
    """Differences of 1e-2 at 1e4 in float32, and of 1e-4 at 1e6 in float64: lost without centring."""
    noise = np.random.default_rng(seed).standard_normal((10, 200))
    for x in ((1e4 + 1e-2 * noise).astype(np.float32), 1e6 + 1e-4 * noise):
        wide = x.astype(np.float64)
        # without the offset, exactly: the subtraction loses nothing
        want = getattr(dense_reference, name)(wide - wide[3], **settings_for(name, 10)) + wide[3]
        spacing = np.spacing(x[0, 0])
        np.testing.assert_allclose(alone(rule(name, 10), x), want, rtol=0, atol=8 * spacing)


@pytest.mark.parametrize("huge", [1e12, 1e60])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", BY_DISTANCES)
def test_a_huge_first_vector_does_not_blur_the_others(name: str, seed: int, huge: float) -> None:
    """Centred by an attacker's, or summed to bits counted from it, the distances between the others would be noise."""
    x = vectors(10, 140, "generic", seed).astype(np.float64)
    x[0] = huge
    want = getattr(dense_reference, name)(x, **settings_for(name, 10))
    np.testing.assert_allclose(alone(rule(name, 10), x), want, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("before", [None, *sorted(set(BEFORE) - {"bucketing"})])
@pytest.mark.parametrize("name", RULES)
def test_vectors_that_are_not_finite_count_as_byzantine(name: str, before: str | None, bad: float) -> None:
    """The same as the rule with f smaller by their number on the others; the mean alone refuses."""
    x = vectors(11, 140, "generic")
    broken = np.insert(x, 4, 1.0, axis=0)
    broken[4, 17] = bad
    chosen, smaller = rule(name, 12, before), rule(name, 12, before).without(1)
    if name == "mean" and before is None:
        with pytest.raises(NotFiniteError, match="vectors 4 have NaN or inf"):
            alone(chosen, broken)
        return
    for got in on_ranks(3, lambda communicator: aggregate(communicator, chosen, broken)):
        assert got.tobytes() == alone(smaller, x).tobytes()


def test_f_shrinks_by_the_vectors_left_out_and_not_below_zero() -> None:
    chosen = rule("multi_krum", 50, "nnm", f=2, keep=4)
    assert [(c.f, c.keep, c.before[0].f) for c in map(chosen.without, (1, 2, 9))] == [(1, 3, 2), (0, 2, 1), (0, 1, 0)]


def test_too_few_finite_vectors_are_refused() -> None:
    x = vectors(7, 140, "generic")
    x[:5] = np.nan
    with pytest.raises(TooFewVectorsError, match=r"N >= 2f \+ 3 with f = 0, here at least 3 vectors; there are 2"):
        alone(rule("krum", 7, f=2), x)


@pytest.mark.parametrize(
    ("name", "arguments", "before", "num_vectors", "message"),
    [
        *(
            (name, {"f": 5}, [], 10, rf"{name} needs f < N/2 with f = 5, here at least 11 vectors; there are 10$")
            for name in ("trimmed_mean", "meamed", "mda", "monna", "caf", "cge")
        ),
        ("krum", {"f": 4}, [], 10, r"krum needs N >= 2f \+ 3 with f = 4, here at least 11 vectors; there are 10$"),
        ("multi_krum", {"f": 4}, [], 10, r"multi_krum needs N >= 2f \+ 3 with f = 4"),
        ("multi_krum", {"f": 1, "keep": 11}, [], 10, "multi_krum needs N >= keep with keep = 11"),
        ("median", {}, [{"name": "nnm", "f": 5}], 10, r"before\[0\] nnm needs f < N/2 with f = 5"),
        ("median", {}, [{"name": "clipping", "threshold": 1}, {"name": "arc", "f": 5}], 10, r"before\[1\] arc needs"),
        (
            "trimmed_mean", {"f": 2}, [{"name": "bucketing", "size": 3}], 10,
            r"trimmed_mean needs f < N/2 with f = 2, here at least 5 vectors; there are 4 \(10 before bucketing\)",
        ),
        (
            "trimmed_mean", {"f": 2}, [{"name": "bucketing", "size": 3}, {"name": "nnm"}], 10,
            r"before\[1\] nnm needs .* there are 4 \(10 before bucketing\)",
        ),
    ],
)  # fmt: skip
def test_undefined_cases_are_refused_with_the_inequality(
    name: str, arguments: dict[str, Any], before: list[dict[str, Any]], num_vectors: int, message: str
) -> None:
    document = {"name": name, **arguments, "before": before}
    chosen = discover("ppfl.aggregators")[name].model_validate(document)
    with pytest.raises(ValueError, match=message):
        chosen.check(num_vectors)
    chosen.check(30)


def test_the_smallest_defined_cases_are_accepted() -> None:
    for name, arguments, num_vectors in (
        ("trimmed_mean", {"f": 5}, 11), ("krum", {"f": 4}, 11), ("median", {}, 1),
        ("multi_krum", {"f": 0, "keep": 3}, 3),
    ):  # fmt: skip
        chosen = rule(name, num_vectors, **arguments)
        chosen.check(num_vectors)
        assert np.isfinite(alone(chosen, vectors(max(num_vectors, 2), 140, "generic")[:num_vectors])).all()


def test_ties_go_to_the_lowest_index() -> None:
    square = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    np.testing.assert_array_equal(alone(rule("krum", 4, f=0), square), square[0])
    np.testing.assert_allclose(
        alone(rule("monna", 4, f=1), square), (square[0] + square[1] + square[3]) / 3, atol=1e-15
    )
    np.testing.assert_allclose(alone(rule("mda", 4, f=1), square), square[:3].mean(axis=0), atol=1e-15)
    np.testing.assert_allclose(alone(rule("multi_krum", 4, f=0, keep=2), square), square[:2].mean(axis=0), atol=1e-15)
    np.testing.assert_allclose(alone(rule("meamed", 3, f=1), np.array([[0.0], [1.0], [2.0]])), [0.5], atol=1e-15)
    # also when rounding would decide otherwise
    for angle in np.linspace(0.1, 3.0, 20):
        turned = square @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + 0.1
        np.testing.assert_array_equal(alone(rule("krum", 4, f=0), turned), turned[0])
    rounded = torch.tensor([[1.0 + 4e-16, 1.0, 1.0 - 4e-16, 0.5, 2.0]], dtype=torch.float64)
    assert smallest(rounded, 2).tolist() == [[True, False, False, True, False]]


def test_meamed_of_mixed_vectors_does_not_round_them_before_it_chooses() -> None:
    """−1, 0 and 1 − 2**-30, of which float32 makes a tie."""
    x = torch.ones(2, 1)
    mixing = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, -(2.0**-30)]], dtype=torch.float64)
    mixed = client_matrix_of(SoloCommunicator(), x).mix(mixing)
    assert float(rule("meamed", 3, f=1).rule(mixed)) == 0.5
