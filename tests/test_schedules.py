"""Schedules of steps: their closed forms, loops written by hand, and the identities of runs that follow one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ppfl.config.errors import ConfigError
from ppfl.config.run import load
from ppfl.core.errors import UserError
from ppfl.core.plugins import discover
from ppfl.engine.lockstep import Lockstep
from ppfl.interfaces.schedule import Scheduled
from tests import examples
from tests.algorithms.cases import sections
from tests.engine.build import config, engine, ffgg
from tests.engine.interrupted import go_on, merged
from tests.engine.test_virtual_clock import SMALL, EventLoop, clock, locals_of, theta
from tests.numpy_reference import Array, Client, random_clients, shared_gradient, write_clients
from tests.ranks import on_ranks

NAMES = examples.names("schedules")
COSINE = {"name": "cosine", "warmup": 2}
LINEAR = {"name": "linear", "horizon": 30, "end": 0.1}
MAPPINGS: list[dict[str, Any]] = [{}, {"clients_per_chunk": 2}, {"client_state": "file"}]
"""As lanes, vectorized, and one after the other."""
SCHEDULED = [name for name in examples.names("algorithms") if issubclass(examples.kind("algorithms", name), Scheduled)]


def make(name: str, **settings: Any) -> Any:
    return examples.make("schedules", name, **settings)


@pytest.mark.parametrize("name", NAMES)
def test_factors_of_a_run_are_above_0_and_at_most_1(name: str) -> None:
    factors = [make(name, warmup=3).factor(t, 20) for t in range(20)]
    assert all(0.0 < factor <= 1.0 for factor in factors)
    assert factors[:4] == [1 / 4, 2 / 4, 3 / 4, 1.0]
    assert factors[3:] == sorted(factors[3:], reverse=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_says_whether_longer_runs_have_other_factors(name: str) -> None:
    schedules = [make(name)]
    if "horizon" in type(schedules[0]).model_fields:
        schedules.append(make(name, horizon=40))
    for schedule in schedules:
        short, long = ([schedule.factor(t, num_rounds) for t in range(20)] for num_rounds in (20, 40))
        assert (short != long) == schedule.depends_on_num_rounds


def test_constant_is_1_after_the_warmup() -> None:
    assert [make("constant", warmup=1).factor(t, 9) for t in (0, 1, 2, 8)] == [0.5, 1.0, 1.0, 1.0]


def test_linear_and_cosine_go_from_1_to_their_end_at_the_horizon() -> None:
    linear, cosine = (make(name, warmup=10, horizon=110, end=0.2) for name in ("linear", "cosine"))
    for round, way in ((10, 0.0), (35, 0.25), (60, 0.5), (109, 0.99), (110, 1.0), (500, 1.0)):
        assert linear.factor(round, 200) == pytest.approx(1 - 0.8 * way, rel=1e-14)
        assert cosine.factor(round, 200) == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi * way)), rel=1e-14)
    assert [make("linear").factor(t, 4) for t in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert make("cosine").factor(2, 4) == pytest.approx(0.5)


def test_step_decays_at_its_stretches() -> None:
    schedule = make("step", every=3, decay=0.5, warmup=2)
    assert [schedule.factor(t, 99) for t in (2, 4, 5, 7, 8, 11)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.125]


def test_the_steps_of_a_round_are_those_of_the_method_and_of_its_parts() -> None:
    tuner = {"name": "gradient_descent", "steps": 2, "lr": 0.5, "lr_schedule": {"name": "linear"}}
    method = config(algorithm={**ffgg(tuner, 0.1), "lr_schedule": COSINE}).algorithm
    at: Any = method.at(1, 10)
    assert at.lr == pytest.approx(0.1 * 2 / 3)
    assert at.fine_tuner.lr == pytest.approx(0.5 * 0.9)
    assert list(method.schedules()) == ["lr_schedule", "fine_tuner.lr_schedule"]
    plain = config(algorithm=ffgg({"name": "gradient_descent", "steps": 2, "lr": 0.5}, 0.1)).algorithm
    assert plain.at(1, 10) is plain


def gradient_of_w(client: Client, theta: Array, w: Array) -> Array:
    return client["B"].T @ (client["A"] @ theta + client["B"] @ w - client["y"])


def alternate(clients: list[Client], rounds: int, shared: Callable[[int], float], local: Callable[[int], float]) -> Any:
    """w_m ← w_m − η_t ∇_2, twice; v ← 0.9 v + mean ∇_1; θ ← θ − γ_t v: FFGG by gradient descent, heavy ball."""
    point, ws = np.zeros(6), [np.zeros(4) for _ in clients]
    velocity = np.zeros(6)
    for t in range(rounds):
        for _ in range(2):
            ws = [w - local(t) * gradient_of_w(client, point, w) for client, w in zip(clients, ws, strict=True)]
        gradients = [shared_gradient(client, point, w) for client, w in zip(clients, ws, strict=True)]
        velocity = 0.9 * velocity + np.mean(gradients, axis=0)
        point = point - shared(t) * velocity
    return point, ws


def simultaneous(clients: list[Client], rounds: int, lr: Callable[[int], float]) -> Any:
    """(θ_m, w_m) ← (θ_m, w_m) − η_t ∇, twice; θ ← mean θ_m."""
    point, ws = np.zeros(6), [np.zeros(4) for _ in clients]
    for t in range(rounds):
        ends = []
        for m, client in enumerate(clients):
            mine = point
            for _ in range(2):
                of_theta, of_w = shared_gradient(client, mine, ws[m]), gradient_of_w(client, mine, ws[m])
                mine, ws[m] = mine - lr(t) * of_theta, ws[m] - lr(t) * of_w
            ends.append(mine)
        point = np.mean(ends, axis=0)
    return point, ws


def assert_near(run: Any, point: Array, ws: list[Array]) -> None:
    assert np.linalg.norm(theta(run) - point) <= 1e-12 * np.linalg.norm(point)
    for m, w in enumerate(ws):
        assert np.linalg.norm(run.group.state(m)["local"]["w"].numpy() - w) <= 1e-12 * np.linalg.norm(w)


def cosine_by_hand(t: int) -> float:
    return (t + 1) / 3 if t < 2 else 0.5 + 0.5 * math.cos(math.pi * (t - 2) / 18)


def linear_by_hand(t: int) -> float:
    return 1 - 0.9 * t / 30


@pytest.mark.parametrize("how", MAPPINGS, ids=str)
def test_gradient_descent_on_theta_and_on_w_follows_a_loop_written_by_hand(tmp_path: Path, how: Any) -> None:
    clients = random_clients(4)
    tuner = {"name": "gradient_descent", "steps": 2, "lr": 0.3, "lr_schedule": LINEAR}
    run = engine(
        problem={"name": "quadratic", "file": str(write_clients(tmp_path / "problem.h5", clients))},
        algorithm={**ffgg(tuner, 0.05), "lr_schedule": COSINE},
        server_optimizer={"name": "momentum"},
        engine=how,
    )
    start = [run.group.state(m)["local"]["w"].numpy() for m in range(4)]
    assert not np.any(start)
    list(run)
    assert_near(run, *alternate(clients, 20, lambda t: 0.05 * cosine_by_hand(t), lambda t: 0.3 * linear_by_hand(t)))


@pytest.mark.parametrize("how", MAPPINGS, ids=str)
def test_a_server_optimizer_follows_a_loop_written_by_hand(tmp_path: Path, how: Any) -> None:
    """Its lr is a factor on the direction, as the algorithm's is: the same loop."""
    clients = random_clients(4)
    run = engine(
        problem={"name": "quadratic", "file": str(write_clients(tmp_path / "problem.h5", clients))},
        algorithm=ffgg({"name": "gradient_descent", "steps": 2, "lr": 0.3, "lr_schedule": LINEAR}, 0.1),
        server_optimizer={"name": "momentum", "lr": 0.5, "lr_schedule": COSINE},
        engine=how,
    )
    list(run)
    assert_near(run, *alternate(clients, 20, lambda t: 0.05 * cosine_by_hand(t), lambda t: 0.3 * linear_by_hand(t)))


def test_runs_computed_together_follow_the_schedule_of_their_server() -> None:
    sections = {"rounds": 6, "server_optimizer": {"name": "adam", "lr": 0.05, "lr_schedule": {"name": "linear"}}}
    alone = [engine(seed=seed, **sections) for seed in (0, 1)]
    for run in alone:
        list(run)
    lockstep = Lockstep([engine(seed=seed, **sections).setup for seed in (0, 1)])
    list(lockstep.run())
    assert [theta(run).tobytes() for run in lockstep.runs] == [theta(run).tobytes() for run in alone]
    plain = engine(rounds=6, server_optimizer={"name": "adam", "lr": 0.05})
    list(plain)
    assert theta(plain).tobytes() != theta(alone[0]).tobytes()


def test_a_server_that_takes_no_steps_refuses_a_schedule_of_them() -> None:
    with pytest.raises(UserError, match="takes no steps"):
        engine(
            algorithm=examples.section("algorithms", "local_only"),
            server_optimizer={"name": "sgd", "lr_schedule": LINEAR},
        )


@pytest.mark.parametrize("how", MAPPINGS, ids=str)
def test_local_training_follows_a_loop_written_by_hand(tmp_path: Path, how: Any) -> None:
    clients = random_clients(4)
    run = engine(
        problem={"name": "quadratic", "file": str(write_clients(tmp_path / "problem.h5", clients))},
        algorithm={"name": "fedsim", "lr": 0.2, "local_steps": 2, "lr_schedule": COSINE},
        engine=how,
    )
    list(run)
    assert_near(run, *simultaneous(clients, 20, lambda t: 0.2 * cosine_by_hand(t)))


def scheduled(name: str, problem: str, schedule: dict[str, Any] | None) -> dict[str, Any]:
    """Return sections in which all steps of a method follow a schedule."""
    document = sections(name, problem)
    settings = {**document["algorithm"], "lr_schedule": schedule}
    if "fine_tuner" in settings and name != "fedbabu":
        settings["fine_tuner"] = {**settings["fine_tuner"], "lr_schedule": schedule}
    return {**document, "algorithm": settings}


@pytest.mark.parametrize("name", SCHEDULED)
def test_a_factor_of_1_changes_no_bit_and_another_one_does(name: str) -> None:
    """Every method: with a schedule that falls, rounds other than the first have other steps."""
    runs = {}
    for key, schedule in (("none", None), ("constant", {"name": "constant"}), ("linear", {"name": "linear"})):
        run = engine(**scheduled(name, "quadratic", schedule))
        list(run)
        states = [run.group.state(client) for client in run.group.clients]
        tensors = [value for state in states for group in state.values() for value in group.values()]
        runs[key] = b"".join(value.numpy().tobytes() for value in (*run.server["shared"].values(), *tensors))
    assert runs["none"] == runs["constant"]
    assert runs["none"] != runs["linear"]


@pytest.mark.parametrize("name", ["ffgg", "fedavg"])
def test_a_run_that_goes_on_on_other_ranks_has_the_bits_of_one_in_one_piece(tmp_path: Path, name: str) -> None:
    document = {**scheduled(name, "quadratic", COSINE), "rounds": 7, "evaluate": {"every": 2}}
    whole = merged(on_ranks(1, lambda c: go_on(c, tmp_path / "whole", None, **document)))
    pieces: dict[Any, bytes] = {}
    for size, stop_after in ((2, 3), (3, None)):
        runs = on_ranks(size, lambda c, stop=stop_after: go_on(c, tmp_path / "pieces", stop, **document))
        pieces = {key: value for key, value in pieces.items() if key[0] == "scores"} | merged(runs)
    assert whole == pieces


def test_an_asynchronous_server_optimizer_takes_the_factor_of_its_step() -> None:
    algorithm = ffgg({"name": "gradient_descent", "steps": 2, "lr": "theory"})
    server = {"name": "momentum", "lr": 0.5, "lr_schedule": COSINE}
    rounds = engine(problem=SMALL, algorithm=algorithm, rounds=30, cohort=1, server_optimizer=server)
    list(rounds)
    arrivals = clock(problem=SMALL, algorithm=algorithm, rounds=30, rules={"concurrency": 1}, server_optimizer=server)
    assert theta(arrivals).tobytes() == theta(rounds).tobytes()


@pytest.mark.parametrize("name", ["ffgg", "fedsim"])
def test_one_asynchronous_client_at_a_time_has_the_steps_of_rounds(name: str) -> None:
    """J = 1: clients and the server take the factors of the server's step number, which is the round."""
    if name == "ffgg":
        algorithm = ffgg({"name": "gradient_descent", "steps": 2, "lr": "theory", "lr_schedule": LINEAR})
    else:
        algorithm = {"name": "fedsim", "lr": 0.1, "local_steps": 2}
    algorithm = {**algorithm, "lr_schedule": COSINE}
    rounds = engine(problem=SMALL, algorithm=algorithm, rounds=30, cohort=1)
    list(rounds)
    arrivals = clock(problem=SMALL, algorithm=algorithm, rounds=30, rules={"concurrency": 1})
    assert theta(arrivals).tobytes() == theta(rounds).tobytes()
    assert locals_of(arrivals) == locals_of(rounds)


def test_a_buffered_server_follows_an_event_loop_written_by_hand(tmp_path: Path) -> None:
    """`rounds` counts arrivals, and the schedule ends with the last step of the server: 100 of 300 arrivals. A client
    takes the factor of the version of θ that it was sent."""
    clients = random_clients(6)
    tuner = {"name": "gradient_descent", "steps": 1, "lr": 0.5, "start": "zero", "lr_schedule": {"name": "linear"}}
    run = clock(
        problem={"name": "quadratic", "file": str(write_clients(tmp_path / "problem.h5", clients))},
        algorithm={**ffgg(tuner, 0.2), "lr_schedule": {"name": "linear"}},
        rounds=300,
        rules={"buffer": 3},
    )
    drawn = run.setup.compute_times
    assert drawn is not None
    times = np.array([[drawn.seconds(0, m, k) for k in range(200)] for m in range(6)])

    def tuned(client: Client, theta: Array, version: int) -> Array:
        return -0.5 * (1 - version / 100) * gradient_of_w(client, theta, np.zeros(4))

    loop = EventLoop(clients, times, 0.2, lambda version: 1 - version / 100, tuned)
    want, _, _ = loop.run(300, "constant", 3, None)
    assert np.linalg.norm(theta(run) - want) <= 1e-10 * np.linalg.norm(want)


def test_the_final_stage_takes_full_steps() -> None:
    """A schedule that has fallen to nothing would tune nothing there."""
    tuner = {"name": "gradient_descent", "steps": 2, "lr": 0.1, "lr_schedule": {"name": "linear"}}
    setup = engine(algorithm=ffgg(tuner), evaluate={"tuned": {"epochs": 1}}).setup
    assert setup.tuned_fine_tuner is not None
    assert setup.tuned_fine_tuner.lr == 0.1  # type: ignore[attr-defined]


def document(folder: Path, **algorithm: Any) -> Any:
    """Return the configuration of a file."""
    tuner = {"name": "gradient_descent", "steps": 2, "lr": 0.1, **algorithm.pop("fine_tuner", {})}
    sections = {"name": "s", "rounds": 9, "problem": SMALL, "algorithm": {**ffgg(tuner, 0.1), **algorithm}}
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump(sections))
    return load(path)


def test_no_schedule_is_as_if_the_key_were_not_there(tmp_path: Path) -> None:
    """Digests are older than the key."""
    plain = document(tmp_path)
    assert "lr_schedule" not in plain.to_yaml()
    assert "lr_schedule" not in str(plain.scientific())
    assert document(tmp_path, lr_schedule=None, fine_tuner={"lr_schedule": None}).digest == plain.digest
    assert document(tmp_path, lr_schedule={"name": "cosine"}).digest != plain.digest
    given = load(
        tmp_path / "s.yaml", ["server_optimizer={name: sgd, lr_schedule: {name: linear}}", "algorithm.lr_schedule=null"]
    )
    assert given.digest != plain.digest
    assert given.schedules_over_rounds == ("server_optimizer.lr_schedule",)
    with pytest.raises(ConfigError, match=r"server_optimizer.lr_schedule.warmup.*less than 9"):
        load(tmp_path / "s.yaml", ["server_optimizer={name: sgd, lr_schedule: {name: linear, warmup: 9}}"])


def test_a_schedule_is_written_and_read_again(tmp_path: Path) -> None:
    given = document(tmp_path, lr_schedule={"name": "cosine"}, fine_tuner={"lr_schedule": LINEAR})
    (tmp_path / "again.yaml").write_text(given.to_yaml())
    assert load(tmp_path / "again.yaml").digest == given.digest


def test_the_fine_tuner_of_the_final_stage_is_the_methods_own_without_its_schedule(tmp_path: Path) -> None:
    tuner = {"name": "gradient_descent", "steps": 2, "lr": 0.1}
    document(tmp_path, fine_tuner={"lr_schedule": LINEAR})
    path = tmp_path / "s.yaml"
    assert load(path, [f"evaluate.tuned.fine_tuner={yaml.safe_dump(tuner, default_flow_style=True)}"]).digest == (
        load(path).digest
    )


def test_schedules_over_the_rounds_of_a_run_are_told(tmp_path: Path) -> None:
    """Such a run cannot be made longer: it would have been another one from its first round on."""
    assert document(tmp_path).schedules_over_rounds == ()
    given = document(tmp_path, lr_schedule={"name": "cosine"}, fine_tuner={"lr_schedule": {"name": "linear"}})
    assert given.schedules_over_rounds == ("algorithm.lr_schedule", "algorithm.fine_tuner.lr_schedule")
    given = document(tmp_path, lr_schedule={"name": "constant"}, fine_tuner={"lr_schedule": LINEAR})
    assert given.schedules_over_rounds == ()


def test_all_fine_tuners_that_have_a_step_can_follow_a_schedule() -> None:
    for kind in discover("ppfl.fine_tuners").values():
        assert ("lr" in kind.model_fields) == issubclass(kind, Scheduled), kind
