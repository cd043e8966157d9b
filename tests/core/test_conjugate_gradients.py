"""Conjugate gradients whose bits depend on their numbers alone."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch

from ppfl.core import conjugate_gradients as module
from ppfl.core import matvec
from ppfl.core.conjugate_gradients import can_solve, solve, solve_all
from ppfl.core.matvec import Matrices, by_columns
from ppfl.fine_tuners.conjugate_gradient import ConjugateGradient

TYPES = [torch.float64, torch.float32]


@pytest.fixture(params=["compiled", "plain"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        for one in (module, matvec):
            monkeypatch.setattr(one, "compiled_loops", lambda: None)
    else:
        assert matvec.compiled_loops() is not None


def systems(number: int, length: int, dtype: torch.dtype = torch.float64, rank: int | None = None) -> Any:
    draw = np.random.default_rng(length)
    roots = torch.tensor(draw.standard_normal((number, rank or length + 2, length))).to(dtype)
    targets, starts = torch.tensor(draw.standard_normal((2, number, length))).to(dtype)
    return [by_columns(root.T @ root) for root in roots], targets, starts


class Matrix:
    """All of an objective that the fine-tuner asks for; without a constant Hessian it takes the general way."""

    def __init__(self, *, is_known: bool) -> None:
        self._is_known = is_known

    def local_system(self, shared: Any, data: Any) -> Any:
        return (data["matrix"], data["target"]) if self._is_known else None

    def local_gradient(self, shared: Any, local: Any, data: Any) -> Any:
        return {"w": data["matrix"] @ local["w"] - data["target"]}

    def local_hessian_product(self, shared: Any, local: Any, direction: Any, data: Any) -> Any:
        return {"w": data["matrix"] @ direction["w"]}


def tuned(steps: int, data: dict[str, torch.Tensor], start: torch.Tensor, way: Literal["general", "loop"]) -> Any:
    tuner = ConjugateGradient(name="conjugate_gradient", steps=steps)
    return tuner.tune(Matrix(is_known=way == "loop"), {}, {"w": start}, data, {})  # type: ignore[arg-type]


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("length", [1, 3, 8, 13, 50])
@pytest.mark.parametrize("steps", [1, 3, 80])
def test_it_is_the_general_way(length: int, steps: int) -> None:
    """After so many steps that the residual is no more than its rounding, too."""
    (matrix,), (target,), (start,) = systems(1, length)
    found, wanted = (tuned(steps, {"matrix": matrix, "target": target}, start, way) for way in ("loop", "general"))
    assert found.num_gradients == wanted.num_gradients == 1.0 + steps
    scale = float(wanted.local["w"].abs().max())
    torch.testing.assert_close(found.local["w"], wanted.local["w"], rtol=0, atol=1e-10 * scale)


@pytest.mark.usefixtures("_way")
def test_as_many_steps_as_unknowns_solve_a_system() -> None:
    (matrix,), (target,), (start,) = systems(1, 12)
    torch.testing.assert_close(matrix @ solve(matrix, target, start, 12), target, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 50])
def test_lanes_and_both_ways_have_equal_bits(length: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of lanes that share a matrix four, two or one go together; here seven do, three do, and one is alone."""
    matrices, targets, starts = systems(11, length, dtype)
    shared = [matrices[number] for number in (2, 1, 1, 2, 2, 0, 2, 2, 1, 2, 2)]
    together = solve_all(Matrices(shared), targets, starts, 6)
    alone = [solve(*one, 6) for one in zip(shared, targets, starts, strict=True)]
    assert torch.equal(together, torch.stack(alone))
    for one in (module, matvec):
        monkeypatch.setattr(one, "compiled_loops", lambda: None)
    assert torch.equal(solve_all(Matrices(shared), targets, starts, 6), together)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("steps", [3, 300])
def test_singular_systems_do_not_drift(steps: int) -> None:
    (matrix,), _, (start,) = systems(1, 20, rank=5)
    # w = 0 is a solution, and so is all of the null space
    found = solve(matrix, torch.zeros(20, dtype=torch.float64), start, steps)
    assert float((matrix @ found).abs().max()) < (1e-9 if steps > 5 else float((matrix @ start).abs().max()))
    null = torch.eye(20, dtype=torch.float64) - torch.linalg.pinv(matrix) @ matrix
    torch.testing.assert_close(null @ found, null @ start, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("_way")
def test_directions_of_no_positive_curvature_are_not_followed() -> None:
    start = torch.ones(9, dtype=torch.float64)
    for matrix in (-torch.eye(9, dtype=torch.float64), torch.zeros(9, 9, dtype=torch.float64)):
        assert torch.equal(solve(matrix, 2 * start, start, 4), start)


@pytest.mark.usefixtures("_way")
def test_what_is_not_finite_stays_so() -> None:
    (matrix,), (target,), (start,) = systems(1, 9)
    target[3] = torch.nan
    assert solve(matrix, target, start, 3).isnan().all()
    others, targets, starts = systems(20, 9)
    wanted = torch.stack([solve(*one, 3) for one in zip(others, targets, starts, strict=True)])
    targets[::2] = target
    assert torch.equal(solve_all(Matrices(others), targets, starts, 3)[1::2], wanted[1::2])


def test_other_shapes_and_types_are_refused() -> None:
    """Addresses would be read beyond the end."""
    matrices, targets, starts = systems(3, 9)
    for wrong in (
        (matrices[:2], targets, starts),
        (matrices, targets[:, :8], starts),
        (matrices, targets, starts[:2]),
        ([matrix[:8] for matrix in matrices], targets, starts),
        (matrices, targets.float(), starts),
        (matrices, targets, starts.float()),
        ([matrix.float() for matrix in matrices], targets, starts),
    ):
        with pytest.raises(ValueError, match="systems"):
            solve_all(Matrices(wrong[0]), *wrong[1:], 3)


def test_what_is_differentiated_goes_the_general_way() -> None:
    (matrix,), (target,), (start,) = systems(1, 6)
    assert can_solve(matrix)
    assert not can_solve(matrix.clone().requires_grad_())
    assert not can_solve(matrix.to(torch.bfloat16))

    def total(scale: torch.Tensor) -> torch.Tensor:
        moved: torch.Tensor = tuned(3, {"matrix": matrix, "target": target * scale}, start, "loop").local["w"].sum()
        return moved

    one = torch.tensor(1.0, dtype=torch.float64)
    slope = torch.func.grad(total)(one)
    torch.testing.assert_close(slope, (total(one + 1e-6) - total(one - 1e-6)) / 2e-6, rtol=1e-6, atol=1e-6)
