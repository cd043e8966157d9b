"""The projection on the simplex is what a general solver finds, and nearer than its neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from ppfl.rows.simplex import on_simplex


def solved(point: np.ndarray) -> np.ndarray:
    """Return argmin ‖a − v‖² over the simplex by a general method."""
    number = len(point)
    found = minimize(
        lambda a: ((a - point) ** 2).sum(), np.full(number, 1 / number), jac=lambda a: 2 * (a - point), method="SLSQP",
        bounds=[(0, 1)] * number, constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-15, "maxiter": 500},
    )  # fmt: skip
    # it may say that it has not converged where it has: what it found is compared
    return np.asarray(found.x)


@pytest.mark.parametrize("number", [1, 2, 5, 12])
@pytest.mark.parametrize("width", [0.01, 0.3, 3.0])
def test_it_is_what_a_general_solver_finds(number: int, width: float) -> None:
    points = width * np.random.default_rng(number).standard_normal((6, number)) + 1 / number
    found = on_simplex(torch.from_numpy(points)).numpy()
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-14)
    assert (found >= 0).all()
    for point, mine in zip(points, found, strict=True):
        theirs = solved(point)
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
        assert ((mine - point) ** 2).sum() <= ((theirs - point) ** 2).sum() * (1 + 1e-12)


def test_what_is_on_it_stays_and_what_is_infinitely_far_is_left_out() -> None:
    rows = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [-torch.inf, 0.5, 0.1], [-torch.inf, -torch.inf, 7.0]])
    wanted = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.7, 0.3], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(on_simplex(rows.double()), wanted.double(), rtol=0, atol=1e-7)


def test_equal_entries_stay_equal_wherever_they_are() -> None:
    point = torch.tensor([[0.4, 0.1, 0.4, 0.1, 0.4, -3.0]], dtype=torch.float64)
    places = torch.tensor([5, 3, 0, 4, 1, 2])
    found = on_simplex(point)
    assert torch.equal(on_simplex(point[:, places]), found[:, places])
    assert len(found[0, [0, 2, 4]].unique()) == len(found[0, [1, 3]].unique()) == 1
