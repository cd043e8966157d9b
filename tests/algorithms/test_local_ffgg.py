"""What the paper says of Local FFGG, run: local steps cost nothing when one θ fits everybody, and a floor otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.algorithms import reference
from tests.engine.build import EXACT, SLIM, engine, norms
from tests.numpy_reference import best_local, random_clients, shared_gradient, write_clients

STEPS = 5
ROUNDS = {0: 250, 1: 400, 10: 300}
"""Enough for ‖F‖ ≤ 1e-10, by ζ: a fifth of what FFGG needs, as there are five steps in a round."""
TOGETHER = {"clients_per_chunk": 8}
EVERY_50 = {"every": 50, "tuned": {"epochs": 0}}


def local_ffgg(**settings: object) -> dict[str, object]:
    return {"name": "local_ffgg", "lr": "theory", "local_steps": STEPS, "fine_tuner": EXACT, **settings}


def test_follows_the_loop(tmp_path: Path) -> None:
    clients = random_clients(5)
    theta, tuned = np.zeros(6), [np.zeros(4)] * 5
    for _ in range(20):
        ends = []
        for number, client in enumerate(clients):
            own = theta
            for _ in range(3):
                tuned[number] = best_local(client, own)
                own = own - 0.1 * shared_gradient(client, own, tuned[number])
            ends.append(own)
        theta = np.mean(ends, axis=0)
    path = write_clients(tmp_path / "problem.h5", clients)
    algorithm = local_ffgg(lr=0.1, local_steps=3)
    running = engine(problem={"name": "quadratic", "file": str(path)}, algorithm=algorithm, rounds=20)
    list(running)
    np.testing.assert_allclose(running.server["shared"]["theta"].numpy(), theta, rtol=1e-10)
    for number, w in enumerate(tuned):
        np.testing.assert_allclose(running.group.state(number)["local"]["w"].numpy(), w, rtol=1e-9)


def test_every_repetition_draws_for_itself() -> None:
    """Redrawn starts differ between repetitions, between rounds, and from those of the round before or after."""
    tuner = {"name": "gradient_descent", "steps": 1, "lr": "theory", "start": "redraw"}
    setup = engine(algorithm=local_ffgg(local_steps=3, fine_tuner=tuner)).setup
    drawn = [
        setup.algorithm.draws(setup.problem.objective, client, round, 1) for client in range(2) for round in range(4)
    ]
    values = {value.numpy().tobytes() for draws in drawn for value in draws.values()}
    assert len(values) == 2 * 4 * 3


def test_theory_is_that_of_exact_or_inexact_tuning() -> None:
    exact = engine(algorithm=local_ffgg())
    inexact = engine(algorithm=local_ffgg(fine_tuner={"name": "conjugate_gradient", "steps": 3}))
    constants = exact.setup.problem.theory.constants()
    assert constants is not None
    assert exact.setup.algorithm.lr == 1 / constants.smoothness  # type: ignore[attr-defined]
    assert inexact.setup.algorithm.lr == 1 / constants.joint_smoothness  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("zeta", [0, 1, 10])
def test_reaches_1e_10_when_overpersonalized(zeta: int) -> None:
    problem = {**SLIM, "targets": "common", "zeta": zeta}
    found = norms(problem=problem, algorithm=local_ffgg(), rounds=ROUNDS[zeta], engine=TOGETHER)
    assert found[ROUNDS[zeta]] <= 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("zeta", [1, 10])
def test_stalls_where_predicted_when_not_overpersonalized(zeta: int) -> None:
    """The floor is that of Local GD on F_m: Σ_m (I − (I − γS_m)ᴴ)(θ − θ_m*) = 0, and no lower."""
    problem = {**SLIM, "zeta": zeta}
    running = engine(problem=problem, algorithm=local_ffgg(), rounds=200, engine=TOGETHER, evaluate=EVERY_50)
    found = {scored.round: float(scored.metrics["operator_norm"]) for scored in running}
    bowls = []
    for client in running.setup.problem.client_data.clients:
        data = {key: value.numpy() for key, value in running.setup.problem.client_data.data(client, 0).items()}
        projection = data["cross"] @ data["local_inverse"]
        hessian = data["shared_curvature"] - projection @ data["cross"].T
        bowls.append(reference.Bowl(hessian, data["shared_linear"] - projection @ data["local_linear"]))
    lr = running.setup.algorithm.lr  # type: ignore[attr-defined]
    end = reference.local_gd_fixed_point(bowls, lr, STEPS)
    floor = np.linalg.norm(np.mean([bowl.gradient(end) for bowl in bowls], axis=0))
    assert found[150] == pytest.approx(floor, rel=1e-3)
    assert found[200] == pytest.approx(floor, rel=1e-4)
    assert floor > 1e-3


@pytest.mark.slow
def test_does_not_stall_where_all_hessians_agree() -> None:
    """ζ = 0: all S_m are equal, and steps towards own targets average out exactly."""
    found = norms(problem=SLIM, algorithm=local_ffgg(), rounds=ROUNDS[0], engine=TOGETHER)
    assert found[ROUNDS[0]] <= 1e-10
