"""Clients of different sizes side by side: each gets what it gets alone, those with fewer mini-batches wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import torch

from ppfl.core.params import add_scaled, subtract
from ppfl.core.types import Data, Draws, Params, State
from ppfl.engine.mapping.mapping import stack_states
from ppfl.engine.mapping.padding import stack_draws
from ppfl.fine_tuners.adam import Adam
from ppfl.fine_tuners.exact import Exact
from ppfl.interfaces.client_data import Joined, join, num_samples
from ppfl.interfaces.local_training import LocalTraining
from ppfl.interfaces.method import ClientStep, FineTuner
from ppfl.interfaces.mini_batches import MiniBatchFineTuner, UnequalClientsError
from ppfl.interfaces.problem import Problem
from ppfl.interfaces.split import refuse_split
from tests import examples
from tests.supervised_problems import CNN, PROBLEMS, make

SIZES = (3, 7, 20, 8)
SPLITS = {"head": ["head.*"], "input": ["hidden1.*"], "shared": []}
BATCHES: dict[str, dict[str, Any]] = {
    "epochs": {"epochs": 2, "batch_size": 4},
    "steps": {"local_steps": 5, "batch_size": 4},
    "all": {"local_steps": 2, "batch_size": "all"},
}
TRAINING = [
    name for name in examples.names("algorithms") if issubclass(examples.kind("algorithms", name), LocalTraining)
]
TUNERS = [
    name for name in examples.names("fine_tuners") if issubclass(examples.kind("fine_tuners", name), MiniBatchFineTuner)
]
TUNED = [
    name for name in examples.names("algorithms") if "fine_tuner" in examples.kind("algorithms", name).model_fields
]
SGD = examples.kind("server_optimizers", "sgd").model_validate({"name": "sgd"})


def samples(size: int, client: int) -> Data:
    draw = torch.Generator().manual_seed(client)
    x = torch.rand(size, 1, 8, 8, generator=draw, dtype=torch.float64)
    return {"x": x, "y": torch.randint(10, (size,), generator=draw)}


def stack_data(datas: list[Data]) -> Data:
    return Joined(join(datas), [num_samples(data) for data in datas]).stacked()[0]


DATAS = [samples(size, client) for client, size in enumerate(SIZES)]


def method(name: str, problem: Problem, **settings: Any) -> Any:
    """Return an algorithm with settings of its own and those that are given, as far as it has them; None where it is
    not made for the split or has no mini-batches."""
    section = examples.section("algorithms", name)
    fields = examples.kind("algorithms", name).model_fields
    if "batch_size" in settings and "batch_size" in fields:
        section = {key: value for key, value in section.items() if key not in ("local_steps", "epochs")}
    section |= {key: value for key, value in settings.items() if key in fields}
    if not examples.accepts("algorithms", name, section):
        assert fields["batch_size"].annotation == Literal["all"]
        return None
    algorithm = examples.kind("algorithms", name).model_validate(section)
    try:
        refuse_split(algorithm, problem)
    except ValueError:
        return None
    return algorithm.resolve(problem, 1.0, SGD)


def states_of(algorithm: Any, problem: Problem) -> list[State]:
    """Return states of clients, all numbers of which differ."""
    start = [
        algorithm.init_client(problem.objective.init_shared(), problem.objective.redraw_local(client, 3))
        for client in range(len(SIZES))
    ]
    return [
        {group: {name: value + 0.01 * client for name, value in of.items()} for group, of in state.items()}
        for client, state in enumerate(start)
    ]


def side_by_side(one: Callable[..., ClientStep], message: Params, states: list[State], draws: list[Draws]) -> Any:
    """Return uplinks, states and reports of all clients by one call, on padded data."""
    told: dict[str, Any] = {}

    def call(state: State, data: Data, draw: Draws) -> tuple[Params, State, Params]:
        step = one(message, state, data, draw)
        told.update(step.report)
        return step.uplink, step.state, {k: v for k, v in step.report.items() if isinstance(v, torch.Tensor)}

    uplinks, new_states, tensors = torch.func.vmap(call)(stack_states(states), stack_data(DATAS), stack_draws(draws))
    return uplinks, new_states, {**told, **tensors}


def check(algorithm: Any, problem: Problem, round: int = 1) -> None:
    """Compare a call for all clients with one for each of them."""
    objective, message = problem.objective, problem.objective.init_shared()
    server = algorithm.init_server(message, SGD)
    message = algorithm.downlink(server, round)
    message = {name: value + 0.01 for name, value in message.items()}
    states = states_of(algorithm, problem)
    draws = [algorithm.draws(objective, client, round, size) for client, size in enumerate(SIZES)]

    def one(*inputs: Any) -> ClientStep:
        step: ClientStep = algorithm.client(objective, *inputs)
        return step

    uplinks, new_states, told = side_by_side(one, message, states, draws)
    for row, (state, data, draw) in enumerate(zip(states, DATAS, draws, strict=True)):
        alone = one(message, state, data, draw)
        near(uplinks, alone.uplink, row)
        assert new_states.keys() == alone.state.keys()
        for group, of in alone.state.items():
            near(new_states[group], of, row)
        assert told.keys() == alone.report.keys()
        for name, value in alone.report.items():
            found = told[name][row] if isinstance(told[name], torch.Tensor) else told[name]
            assert float(found) == pytest.approx(float(value), rel=1e-12, abs=0)
        if isinstance(algorithm, LocalTraining):
            assert all(isinstance(value, float) for value in alone.report.values())


def near(found: Params, wanted: Params, row: int) -> None:
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name][row], value, rtol=1e-10, atol=1e-10)


def problem_of(split: str, **keys: Any) -> Problem:
    return make({**keys, "split": {"local": SPLITS[split]}})


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("batches", BATCHES)
@pytest.mark.parametrize("name", TRAINING)
def test_local_training(name: str, batches: str, split: str) -> None:
    problem = problem_of(split)
    if algorithm := method(name, problem, **BATCHES[batches]):
        check(algorithm, problem)


def test_no_method_was_left_out() -> None:
    """Each is made for one of the splits, and has mini-batches unless it says that it takes all samples."""
    problems = [problem_of(split) for split in SPLITS]
    for name in TRAINING:
        takes_all = examples.kind("algorithms", name).model_fields["batch_size"].annotation == Literal["all"]
        for batches, settings in BATCHES.items():
            is_tried = any(method(name, problem, **settings) for problem in problems)
            assert is_tried == (batches == "all" or not takes_all)
    assert set(TUNERS) >= {"sgd", "adam"}
    assert set(TUNED) >= {"ffgg", "local_ffgg", "fedalt"}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("tuner", TUNERS)
@pytest.mark.parametrize("name", TUNED)
def test_fine_tuners_of_methods(name: str, tuner: str, split: str) -> None:
    problem = problem_of(split)
    section = examples.section("fine_tuners", tuner, batch_size=4, epochs=2, start="redraw")
    fine_tuner = examples.kind("fine_tuners", tuner).model_validate(section)
    if algorithm := method(name, problem, fine_tuner=fine_tuner, epochs=1, batch_size=4):
        check(algorithm, problem)


@pytest.mark.parametrize("settings", PROBLEMS, ids=str)
@pytest.mark.parametrize("batch_size", [4, 7, "all"])
@pytest.mark.parametrize("tuner", TUNERS)
def test_fine_tuners(tuner: str, batch_size: Any, settings: dict[str, Any]) -> None:
    problem = problem_of("head", **settings)
    found = examples.make("fine_tuners", tuner, batch_size=batch_size, epochs=3).resolve(problem)
    shared = problem.objective.init_shared()
    locals_ = [problem.objective.redraw_local(client, 5) for client in range(len(SIZES))]
    draws = [found.draws(problem.objective, client, 2, size) for client, size in enumerate(SIZES)]

    def tuned(local: Params, data: Data, draw: Draws) -> Params:
        w: Params = found(problem.objective, shared, local, data, draw).local
        return w

    stacked = {name: torch.stack([local[name] for local in locals_]) for name in locals_[0]}
    together = torch.func.vmap(tuned)(stacked, stack_data(DATAS), stack_draws(draws))
    for row, inputs in enumerate(zip(locals_, DATAS, draws, strict=True)):
        near(together, tuned(*inputs), row)


@pytest.mark.parametrize("name", ["fedsim", "scaffold", "fedalt"])
def test_other_networks_and_losses(name: str) -> None:
    for keys in ({"model": CNN}, {"name": "least_squares", "ridge": 0.05}):
        problem = make({**keys, "split": {"local": ["head.*"]}})
        check(method(name, problem, **BATCHES["epochs"]), problem)


def test_a_method_from_outside() -> None:
    from tests.examples.partial.algorithms.partial_training import PartialTraining

    problem = problem_of("shared")
    section = {"name": "partial_training", "lr": 0.1, "epochs": 2, "batch_size": 4, "shares": [0.5]}
    algorithm: Any = PartialTraining.model_validate(section).resolve(problem, 1.0, SGD)
    objective, server = problem.objective, {"shared": problem.objective.init_shared()}
    states: list[State] = [{"local": {}}] * len(SIZES)
    draws = [algorithm.draws(objective, client, 1, size) for client, size in enumerate(SIZES)]
    message = algorithm.downlink(server, 1, 0)
    uplinks, _, _ = side_by_side(lambda *inputs: algorithm.client(objective, *inputs), message, states, draws)
    for row, (data, draw) in enumerate(zip(DATAS, draws, strict=True)):
        near(uplinks, algorithm.client(objective, message, states[0], data, draw).uplink, row)


@pytest.mark.parametrize("batches", BATCHES)
@pytest.mark.parametrize("tuner", [Adam(name="adam", lr=0.1, batch_size=4), Exact(name="exact")], ids=str)
def test_clients_without_samples_stay_finite(tuner: FineTuner, batches: str) -> None:
    """They are never sampled, but stand beside others in a chunk."""
    problem = problem_of("head", name="least_squares", ridge=0.05)
    algorithm = method("fedalt", problem, **BATCHES[batches], fine_tuner=tuner)
    datas, sizes = [samples(0, 0), samples(9, 1), samples(0, 2)], (0, 9, 0)
    draws = [algorithm.draws(problem.objective, client, 0, size) for client, size in enumerate(sizes)]
    shared, local = problem.objective.init_shared(), problem.objective.init_local(0)

    def one(data: Data, draw: Draws) -> tuple[Params, Params]:
        step = algorithm.client(problem.objective, shared, {"local": local}, data, draw)
        return step.uplink, step.state["local"]

    for group in torch.func.vmap(one)(stack_data(datas), stack_draws(draws)):
        assert all(value.isfinite().all() for value in group.values())
        assert all((value[0] == value[2]).all() and (value[0] != value[1]).any() for value in group.values())


class ByLoop(LocalTraining):
    """FedAvg as a loop of its own."""

    name: Literal["by_loop"]

    def client(self, objective: Any, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        shared = message
        for batch in self.batches(data, draws):
            shared = add_scaled(shared, objective.shared_gradient(shared, state["local"], batch), -0.1)
        return ClientStep(subtract(message, shared), state, self.report(draws, of_shared=1))


def test_loops_of_ones_own_give_the_same_and_need_clients_of_one_size() -> None:
    problem = problem_of("head")
    objective, shared, local = problem.objective, problem.objective.init_shared(), problem.objective.init_local(0)
    for batches in BATCHES.values():
        loop = ByLoop.model_validate({"name": "by_loop", "lr": 0.1, **batches})
        draws = [loop.draws(objective, client, 0, size) for client, size in enumerate(SIZES)]
        for data, draw in zip(DATAS, draws, strict=True):
            step = loop.client(objective, shared, {"local": local}, data, draw)
            moved = subtract(shared, loop.shared_steps(objective, shared, local, data, draw))
            assert all(torch.equal(value, moved[name]) for name, value in step.uplink.items())

        def uplink(data: Data, draw: Draws, loop: ByLoop = loop) -> Params:
            return loop.client(objective, shared, {"local": local}, data, draw).uplink

        padded = stack_data(DATAS), stack_draws(draws)
        if batches["batch_size"] == "all":
            torch.func.vmap(uplink)(*padded)
        else:
            with pytest.raises(UnequalClientsError, match="different sizes"):
                torch.func.vmap(uplink)(*padded)
        torch.func.vmap(uplink)(stack_data(DATAS[:1] * 2), stack_draws(draws[:1] * 2))


def test_nobody_waits_where_everybody_takes_as_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """No `where` is spent on H steps of each client; on epochs it is one for every tensor and step."""
    problem, calls = problem_of("shared"), []
    where = torch.where

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(arguments[1].ndim if isinstance(arguments[1], torch.Tensor) else -1)
        return where(*arguments)

    def wheres(**batches: Any) -> Iterator[int]:
        algorithm = method("fedavg", problem, **batches)
        draws = [algorithm.draws(problem.objective, client, 0, size) for client, size in enumerate(SIZES)]
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(torch, "where", counted)
            side_by_side(
                lambda *inputs: algorithm.client(problem.objective, *inputs),
                problem.objective.init_shared(), [{"local": {}}] * len(SIZES), draws,
            )  # fmt: skip
        yield sum(ndim > 1 for ndim in calls)

    (of_steps,), (of_epochs,) = wheres(**BATCHES["steps"]), wheres(**BATCHES["epochs"])
    num_matrices = sum(value.ndim > 1 for value in problem.objective.init_shared().values())
    assert of_steps == 0
    assert of_epochs == num_matrices * 2 * 5
