"""Where theory says that baselines end on quadratics, and their loops; tests/crosscheck has a loop for every method."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppfl.core.rng import generator
from tests.algorithms import reference
from tests.engine.build import engine
from tests.numpy_reference import Array, random_clients, write_clients

CLIENTS = random_clients(6, rows=40)
BOWLS = [reference.bowl(client) for client in CLIENTS]
LARGEST = max(np.linalg.eigvalsh(bowl.Q)[-1] for bowl in BOWLS)
STAR = reference.minimizer(BOWLS)
LR = 0.2
TOLERANCE = 1e-10


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Return a function that makes an engine for an algorithm, with everything shared."""
    path = write_clients(tmp_path / "problem.h5", CLIENTS)
    problem = {"name": "quadratic", "file": str(path), "split": {"local": []}}
    together = {"clients_per_chunk": len(CLIENTS)}

    def make(name: str, settings: dict[str, Any], **others: Any) -> Any:
        return engine(problem=problem, algorithm={"name": name, **settings}, engine=together, **others)

    return make


@pytest.fixture
def run(start: Any) -> Any:
    """Return a function that runs an algorithm to the end and returns the engine."""

    def finish(name: str, settings: dict[str, Any], **others: Any) -> Any:
        running = start(name, settings, **others)
        list(running)
        assert running.status == "complete"
        return running

    return finish


def vector(params: Any) -> Array:
    return np.concatenate([params["theta"].numpy(), params["w"].numpy()])


def shared(running: Any) -> Array:
    return vector(running.server["shared"])


def views(running: Any) -> Array:
    group = running.group
    return np.stack([vector(running.setup.algorithm.view(running.server, group.state(m))[0]) for m in group.clients])


def assert_near(found: Array, wanted: Array, tolerance: float = TOLERANCE) -> None:
    assert np.linalg.norm(found - wanted) <= tolerance * np.linalg.norm(wanted)


# --- FedAvg, Local GD, FedProx


@pytest.mark.parametrize("name", ["fedavg", "local_gd"])
def test_local_gd_follows_the_loop_and_stalls_where_predicted(run: Any, name: str) -> None:
    x = np.zeros_like(STAR)
    for _ in range(20):
        x = reference.prox_round(BOWLS, x, LR, 5)
    assert_near(shared(run(name, {"lr": LR, "local_steps": 5}, rounds=20)), x)
    end = reference.local_gd_fixed_point(BOWLS, LR, 5)
    assert_near(shared(run(name, {"lr": LR, "local_steps": 5}, rounds=60)), end)
    assert np.linalg.norm(end - STAR) > 1e-2 * np.linalg.norm(STAR)


def test_one_local_step_is_gradient_descent(run: Any) -> None:
    running = run("local_gd", {"lr": "theory", "local_steps": 1}, rounds=100)
    assert running.setup.algorithm.lr == pytest.approx(1 / LARGEST)
    assert_near(shared(running), STAR)


@pytest.mark.parametrize(("penalty", "rounds", "bias"), [(0.5, 40, 0.4), (5.0, 200, 0.15), (20.0, 700, 0.05)])
def test_fedprox_ends_where_its_rounds_stand_still(run: Any, penalty: float, rounds: int, bias: float) -> None:
    """The larger μ, the nearer to the minimizer, and the more rounds."""
    lr = 1 / (LARGEST + penalty)
    end = reference.fixed_point(lambda x: reference.prox_round(BOWLS, x, lr, 5, penalty), len(STAR))
    assert_near(shared(run("fedprox", {"lr": "theory", "local_steps": 5, "penalty": penalty}, rounds=rounds)), end)
    assert bias / 3 < np.linalg.norm(end - STAR) / np.linalg.norm(STAR) < bias


# --- Scaffold


@pytest.mark.parametrize("cohort", ["all", 2])
def test_scaffold_follows_the_loop(run: Any, cohort: Any) -> None:
    running = run("scaffold", {"lr": LR, "local_steps": 5}, rounds=20, cohort=cohort)
    cohorts = [sorted(running.setup.cohort(round)) for round in range(20)]
    x, c, of_client = reference.scaffold(BOWLS, cohorts, LR, 5)
    assert_near(shared(running), x)
    assert_near(vector(running.server["control"]), c)
    for m, wanted in enumerate(of_client):
        assert_near(vector(running.group.state(m)["control"]), wanted)


@pytest.mark.parametrize("cohort", ["all", 2])
def test_scaffold_reaches_the_minimizer_where_local_gd_does_not(run: Any, cohort: Any) -> None:
    assert_near(shared(run("scaffold", {"lr": LR, "local_steps": 5}, rounds=300, cohort=cohort)), STAR)


def test_scaffold_theta_reaches_the_solution_of_the_personalized_problem(tmp_path: Path) -> None:
    path = write_clients(tmp_path / "problem.h5", CLIENTS)
    settings = {"name": "scaffold_theta", "lr": LR, "local_steps": 5}
    running = engine(problem={"name": "quadratic", "file": str(path)}, algorithm=settings, rounds=200)
    assert float(list(running)[-1].metrics["operator_norm"]) <= TOLERANCE


# --- L2GD

P, PENALTY = 0.3, 2.0


def coins(running: Any, rounds: int) -> list[bool]:
    seed = running.setup.problem.objective.seed
    return [generator(seed, "l2gd coin", round=k).random() < P for k in range(rounds)]


@pytest.mark.parametrize("rounds", [1, 2, 3, 10, 200])
def test_l2gd_follows_the_loop(run: Any, rounds: int) -> None:
    """Also right after averaging rounds, and through several of them in a row."""
    running = run("l2gd", {"lr": 2.0, "penalty": PENALTY, "probability": P}, rounds=rounds)
    x, averaged = reference.l2gd(BOWLS, coins(running, rounds), 2.0, PENALTY, P)
    assert np.linalg.norm(views(running) - x) <= TOLERANCE
    if rounds == 200:
        assert any(b - a == 1 for a, b in pairwise(averaged))
        assert 0.2 < len(averaged) / rounds < 0.4


def test_l2gd_ends_near_the_minimizer_of_its_objective(start: Any) -> None:
    """On average over the second half of a run: the smaller α, the nearer; and far from the minimizer of the mean."""
    wanted = reference.l2gd_minimizer(BOWLS, PENALTY)
    means = []
    for lr, rounds in ((0.5, 300), (0.05, 1000)):
        evaluate = {"every": 10, "tuned": {"epochs": 0}}
        running = start("l2gd", {"lr": lr, "penalty": PENALTY, "probability": P}, rounds=rounds, evaluate=evaluate)
        late = [views(running) - wanted for scored in running if scored.round > rounds / 2]
        means.append(np.mean([np.linalg.norm(difference) for difference in late]) / np.linalg.norm(wanted))
    assert means[1] < means[0] / 2.5 < 0.2
    assert np.linalg.norm(wanted - STAR) > 0.3 * np.linalg.norm(wanted)


def test_l2gd_theory(run: Any) -> None:
    running = run("l2gd", {"lr": "theory", "penalty": PENALTY, "probability": P}, rounds=1)
    bound = len(BOWLS) / (2 * max(LARGEST / (1 - P), PENALTY / P))
    assert running.setup.algorithm.lr == pytest.approx(bound)


@pytest.mark.slow
def test_l2gd_theta_follows_the_loop_and_ends_near_its_minimizer(tmp_path: Path) -> None:
    """The penalty is on θ_m alone; w_m takes part in the gradient steps."""
    path = write_clients(tmp_path / "problem.h5", CLIENTS)
    num_shared = CLIENTS[0]["H"].shape[1]

    def finish(lr: float, rounds: int) -> Any:
        settings = {"name": "l2gd_theta", "lr": lr, "penalty": PENALTY, "probability": P}
        running = engine(problem={"name": "quadratic", "file": str(path)}, algorithm=settings, rounds=rounds)
        list(running)
        return running

    for rounds in (1, 2, 10, 200):
        running = finish(2.0, rounds)
        x, _ = reference.l2gd(BOWLS, coins(running, rounds), 2.0, PENALTY, P, num_shared)
        assert np.linalg.norm(pairs(running) - x) <= TOLERANCE
    wanted = reference.l2gd_minimizer(BOWLS, PENALTY, num_shared)
    distances = [np.linalg.norm(pairs(finish(lr, rounds)) - wanted) for lr, rounds in ((1.0, 400), (0.05, 6000))]
    assert distances[1] < distances[0] / 2.5
    assert distances[1] < 0.1 * np.linalg.norm(wanted)
    assert np.linalg.norm(wanted - reference.l2gd_minimizer(BOWLS, PENALTY)) > 0.1 * np.linalg.norm(wanted)


def pairs(running: Any) -> Array:
    """Return (θ_m, w_m) of every client."""
    group = running.group
    viewed = [running.setup.algorithm.view(running.server, group.state(m)) for m in group.clients]
    return np.stack([np.concatenate([shared["theta"].numpy(), local["w"].numpy()]) for shared, local in viewed])


# --- pFedMe, local_only


def test_pfedme_with_exact_inner_solutions_deploys_proximal_points(run: Any) -> None:
    settings = {"lr": "theory", "local_steps": 1, "penalty": 1.5, "inner_lr": "theory", "inner_steps": 60}
    running = run("pfedme", settings, rounds=80)
    weights = [np.linalg.solve(b.Q + 1.5 * np.eye(len(STAR)), b.Q) for b in BOWLS]
    end = np.linalg.solve(sum(weights), sum(w @ b.minimizer for w, b in zip(weights, BOWLS, strict=True)))
    assert_near(shared(running), end, 1e-8)
    points = [np.linalg.solve(b.Q + 1.5 * np.eye(len(STAR)), b.c + 1.5 * end) for b in BOWLS]
    assert_near(views(running), np.stack(points), 1e-8)


def test_local_only_finds_every_clients_own_minimizer(run: Any) -> None:
    running = run("local_only", {"lr": "theory", "local_steps": 10}, rounds=30)
    assert_near(views(running), np.stack([bowl.minimizer for bowl in BOWLS]), 1e-8)
    assert not shared(running).any()


# --- the final stage


def test_fedavg_and_fine_tuning(run: Any) -> None:
    """`tuned` personalizes the whole model, from θ, where nothing is local; without a fine-tuner there is no stage."""
    from ppfl.engine.evaluate import score_stages

    def stages(tuned: dict[str, Any]) -> Any:
        running = run("fedavg", {"lr": LR, "local_steps": 5}, rounds=5, evaluate={"every": 100, "tuned": tuned})
        return score_stages([running])[0].scores, shared(running)

    tuner = {"name": "gradient_descent", "steps": 2, "lr": "theory"}
    found, x = stages({"epochs": 3, "fine_tuner": tuner})
    for m, bowl in enumerate(BOWLS):
        constant = (CLIENTS[m]["b"] @ CLIENTS[m]["b"] + CLIENTS[m]["y"] @ CLIENTS[m]["y"]) / 2
        for stage, z in (("personal", x), ("tuned", reference.descend(bowl.gradient, x, 1 / LARGEST, 6))):
            assert found[stage]["loss"][m] == pytest.approx(z @ bowl.Q @ z / 2 - bowl.c @ z + constant, rel=1e-10)
    assert (found["global"]["loss"] == found["personal"]["loss"]).all()
    assert list(stages({"epochs": 3})[0]) == ["global", "personal"]
