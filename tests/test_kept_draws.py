"""Problems of one seed share what is drawn for them, and nobody can tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ppfl.problems import _quadratic_generators as module
from ppfl.problems._quadratic_generators import Recipe

ORDER = [(0, 0.0), (0, 0.3), (0, None), (1, 0.3), (0, 2.0), (0, 0.3)]
"""Seeds and ζ of problems that are drawn one after another."""


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Begin and end without what another test has drawn."""
    module._kept_uniform.cache_clear()
    yield
    module._kept_uniform.cache_clear()


def drawn(order: list[tuple[int, float | None]], rows: int = 20) -> list[bytes]:
    """Return the bytes of all matrices of all clients."""
    found = []
    for seed, zeta in order:
        client = Recipe(3, 4, 2, rows, zeta, "own", noise=0.1).clients_of(seed)
        found += [matrix.tobytes() for m in (0, 1, 2, 1) for matrix in client(m).values()]
    return found


def test_kept_draws_are_those_of_a_problem_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = drawn(ORDER)
    monkeypatch.setattr(module, "_MAX_KEPT_BYTES", 0)
    assert drawn(ORDER) == kept


def test_those_of_one_seed_are_drawn_once_unless_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    purposes: Counter[str] = Counter()
    generator = module.generator

    def counted(seed: int, purpose: str, **place: Any) -> np.random.Generator:
        purposes[purpose] += 1
        return generator(seed, purpose, **place)

    monkeypatch.setattr(module, "generator", counted)
    drawn([(0, 0.0), (0, 0.3), (0, 2.0)])
    assert purposes["quadratic matrices of all"] == 1
    assert purposes["quadratic matrices of a client"] == 3
    purposes.clear()
    drawn([(1, 0.3)])
    drawn([(0, 0.3)])  # the last seed alone is kept
    assert purposes["quadratic matrices of all"] == 2
    purposes.clear()
    large = module._MAX_KEPT_BYTES // (8 * 10 * 4) + 1
    drawn([(0, 0.0), (0, 0.3)], rows=large)
    assert purposes["quadratic matrices of all"] == 2


def test_where_zeta_is_0_all_matrices_are_those_of_all_clients() -> None:
    """(U + ζ U_m)/d with ζ = 0 is U/d, to the bit."""
    draw = Recipe(3, 4, 2, 20, 0.0, "own", noise=0.1).clients_of(7)
    drawn = zip("HAB", module._uniform(7, 20, 4, 2, None), module._uniform(7, 20, 4, 2, 1), (4, 4, 2), strict=True)
    for name, of_all, own, dimension in drawn:
        assert np.array_equal(draw(1)[name], (0.0 * own + of_all) / dimension)
        assert draw(2)[name] is draw(1)[name]
