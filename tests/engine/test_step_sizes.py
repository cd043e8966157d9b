"""What `lr: theory` means for θ, and which steps are refused: those that do diverge."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest

from ppfl.core.errors import UserError
from tests.engine.build import COMPARISON, EXACT, engine, ffgg, scores

CG = {"name": "conjugate_gradient", "steps": 2}
SMALL = {**COMPARISON, "clients": 4, "rows": 120, "shared_dimension": 10, "local_dimension": 5}


def constants() -> Any:
    return engine(problem=SMALL).setup.problem.theory.constants()


def lr_of(algorithm: dict[str, Any], **sections: Any) -> float:
    return float(engine(problem=SMALL, algorithm=algorithm, **sections).setup.algorithm.lr)  # type: ignore[attr-defined]


def test_theory_is_one_over_the_curvature_that_the_fine_tuner_leaves() -> None:
    assert lr_of(ffgg(EXACT)) == pytest.approx(1 / constants().smoothness)
    assert lr_of(ffgg(CG)) == pytest.approx(1 / constants().joint_smoothness)


def test_the_bound_is_where_gradient_descent_starts_to_diverge() -> None:
    bound = 2 / constants().mean_smoothness
    first, last = (s.metrics["distance"] for s in scores(problem=SMALL, algorithm=ffgg(EXACT, bound * 0.99)))
    assert last < first
    with pytest.raises(UserError, match=r"^algorithm\.lr: .* must diverge.* = " + f"{bound:g}"):
        engine(problem=SMALL, algorithm=ffgg(EXACT, bound * 1.01))


def test_what_is_refused_does_diverge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refused step, forced through, makes ‖θ − θ*‖ grow."""
    bound = 2 / constants().mean_smoothness
    forced = lambda lr, *_: lr  # noqa: E731
    monkeypatch.setattr("ppfl.algorithms._fine_tuned.resolve_shared_lr", forced)
    found = scores(problem=SMALL, algorithm=ffgg(EXACT, bound * 1.05), rounds=300)
    assert found[-1].metrics["distance"] > 100 * found[0].metrics["distance"]


def test_the_servers_own_lr_counts() -> None:
    bound = 2 / constants().mean_smoothness
    optimizer = {"name": "sgd", "lr": 10.0}
    assert math.isclose(lr_of(ffgg(EXACT, bound * 0.099), server_optimizer=optimizer), bound * 0.099)
    with pytest.raises(UserError, match="must diverge"):
        engine(problem=SMALL, algorithm=ffgg(EXACT, bound * 0.101), server_optimizer=optimizer)


@pytest.mark.parametrize(
    "sections",
    [{"cohort": 2}, {"server_optimizer": {"name": "momentum"}}, {"algorithm": ffgg(CG, 50.0)}],
    ids=["sampled cohort", "momentum", "inexact w"],
)
def test_elsewhere_a_large_step_is_only_warned_of(sections: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ppfl"):
        engine(**{"problem": SMALL, "algorithm": ffgg(EXACT, 50.0), **sections})
    assert "algorithm.lr: 50 is large" in caplog.text


def test_theory_needs_curvatures() -> None:
    digits = {"name": "digits", "partition": {"name": "iid", "clients": 3}}
    model = {"name": "mlp", "hidden": [8]}
    problem = {"name": "supervised", "dataset": digits, "model": model, "split": {"local": ["head.*"]}, "batch_size": 8}
    with pytest.raises(UserError, match=r"^algorithm\.lr: 'theory' needs a problem that knows its curvature"):
        engine(problem=problem, algorithm=ffgg({"name": "gradient_descent", "steps": 1, "lr": 0.1}))
