"""Step sizes of θ: what `lr: theory` means, and which steps must diverge."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from ppfl.interfaces.method import ExactFineTuner

if TYPE_CHECKING:
    from ppfl.interfaces.method import FineTuner, ServerOptimizer
    from ppfl.interfaces.problem import Problem

logger = logging.getLogger("ppfl")


def step_size(lr: float | Literal["theory"]) -> float:
    """Return a resolved step size; `theory` has been replaced by then."""
    assert not isinstance(lr, str), "the algorithm was not resolved"
    return lr


def resolve_local_lr(lr: float | Literal["theory"], problem: Problem) -> float:
    """Return the step of gradient descent on w: 1/max_m λ_max(∇²_22 f_m) when `lr` is `theory`.

    Raises ValueError, naming the bound, for a step above 2/max_m λ_max(∇²_22 f_m), with which some client diverges.
    """
    constants = problem.theory.constants()
    if constants is None:
        if lr == "theory":
            raise ValueError(
                "fine_tuner.lr: 'theory' needs a problem that knows its curvature (quadratic); give a number"
            )
        return float(lr)
    curvature = constants.local_smoothness
    if lr == "theory":
        return _inverse(curvature)
    if lr * curvature > 2.0:
        raise ValueError(
            f"fine_tuner.lr: {lr:g} must diverge: gradient descent on w takes steps of at most "
            f"2/max_m λ_max(∇²_22 f_m) = {2.0 / curvature:g}"
        )
    return lr


def resolve_shared_lr(
    lr: float | Literal["theory"],
    problem: Problem,
    fine_tuner: FineTuner,
    full_cohort: bool,
    optimizer: ServerOptimizer,
) -> float:
    """Return γ: 1/max_m λ_max(S_m) for exact w and 1/max_m λ_max(∇²_11 f_m) for inexact w when `lr` is `theory`.

    S_m is the Hessian of F_m(θ) = min_w f_m(θ, w). Full cohort, exact w, no momentum: the rounds are gradient descent
    on a quadratic with Hessian mean S_m, and γ > 2/λ_max(mean S_m) diverges: ValueError with the bound. Elsewhere a
    large step is only warned of.
    """
    constants = problem.theory.constants()
    exact = isinstance(fine_tuner, ExactFineTuner)
    if constants is None:
        if lr == "theory":
            raise ValueError("lr: 'theory' needs a problem that knows its curvature (quadratic); give a number")
        return float(lr)
    curvature = constants.smoothness if exact else constants.joint_smoothness
    if lr == "theory":
        lr = _inverse(curvature)
    step = lr * optimizer.lr
    if exact and full_cohort and lr > optimizer.largest_step(constants.mean_smoothness):
        raise ValueError(
            f"lr: {step:g} (server_optimizer.lr included) must diverge: with all clients and exact w the step is at "
            f"most 2/λ_max(mean S_m) = {2.0 * _inverse(constants.mean_smoothness):g}"
        )
    usual = 2.0 * _inverse(curvature)
    if step * curvature > 2.0:
        logger.warning("algorithm.lr: %g is large for this problem: steps above %g often diverge", step, usual)
    return lr


def resolve_training_lr(lr: float | Literal["theory"], curvature: float | None, key: str = "lr") -> float:
    """Return 1/curvature when `lr` is `theory`; a curvature of None is not known, one of 0 has no largest step.

    Raises ValueError for `theory` where the curvature is not known; warns of steps above 2/curvature.

    >>> from ppfl.interfaces.step_sizes import resolve_training_lr
    >>> resolve_training_lr("theory", curvature=4.0), resolve_training_lr(0.1, curvature=None)
    (0.25, 0.1)
    >>> resolve_training_lr("theory", curvature=None)
    Traceback (most recent call last):
    ValueError: lr: 'theory' needs a problem that knows its curvature (quadratic); give a number
    """
    if lr == "theory":
        if curvature is None:
            raise ValueError(f"{key}: 'theory' needs a problem that knows its curvature (quadratic); give a number")
        return _inverse(curvature)
    if curvature is not None and lr * curvature > 2.0:
        usual = 2.0 / curvature
        logger.warning("algorithm.%s: %g is large for this problem: steps above %g often diverge", key, lr, usual)
    return lr


def refuse_divergence(lr: float | Literal["theory"], curvature: float | None, bound: str) -> None:
    """Raise ValueError, naming the bound, for a step of gradient descent above 2/curvature; None is not known."""
    if lr != "theory" and curvature is not None and lr * curvature > 2.0:
        raise ValueError(f"lr: {lr:g} must diverge: the steps are at most {bound} = {2.0 / curvature:g}")


def _inverse(curvature: float) -> float:
    """Return 1/λ, or 1 where nothing curves (no parameters on that side) and any step will do."""
    return 1.0 / curvature if curvature > 0 else 1.0
