"""What delays cost asynchronous runs: nothing when overpersonalized, a floor otherwise, and all with the usual step."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.build import EXACT, SLIM, ffgg
from tests.engine.test_virtual_clock import COMMON, EXPONENTIAL, STRAGGLER, clock


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "times"), [("constant", {"name": "fixed"}), ("delay_adaptive", EXPONENTIAL), ("delay_adaptive", STRAGGLER)]
)
def test_delays_cost_no_accuracy_when_overpersonalized(step: str, times: Any) -> None:
    """‖F‖ ≤ 1e-10 in as many gradients as synchronous rounds need (1065 × 8 clients), and a little more."""
    engine = clock(problem={**SLIM, "targets": "common"}, times=times, rules={"step": step}, rounds=11_000)
    assert float(engine.trail[-1].metrics["operator_norm"]) <= 1e-10  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["constant", "delay_adaptive"])
def test_delays_cost_accuracy_otherwise(step: str) -> None:
    """Each client its own target: a floor that more arrivals do not lower."""
    evaluate = {"every": 400, "tuned": {"epochs": 0}}
    engine = clock(problem=SLIM, rules={"step": step}, rounds=4000, evaluate=evaluate)
    found = [float(scored.metrics["operator_norm"]) for scored in engine.trail]  # type: ignore[attr-defined]
    assert min(found[4:]) > 1e-3
    assert found[-1] > min(found[4:]) / 10


@pytest.mark.slow
def test_the_usual_step_is_too_long(caplog: pytest.LogCaptureFixture) -> None:
    """γ = 1/L without regard to M diverges where 1/(L·M) converges: the reason for the step rules."""
    clients = {"clients": 32, "rows": 200}
    steady = clock(problem={**COMMON, **clients}, times={"name": "fixed"}, rounds=3000)
    constants = steady.setup.problem.theory.constants()
    assert constants is not None
    usual = ffgg(EXACT, 32.0 / constants.smoothness)
    wild = clock(problem={**COMMON, **clients}, times={"name": "fixed"}, rounds=3000, algorithm=usual)
    start = float(steady.trail[0].metrics["operator_norm"])  # type: ignore[attr-defined]
    assert float(steady.trail[-1].metrics["operator_norm"]) < start / 2  # type: ignore[attr-defined]
    assert wild.status == "diverged" or float(wild.trail[-1].metrics["operator_norm"]) > 1e3 * start  # type: ignore[attr-defined]
    assert "large for this problem" in caplog.text
