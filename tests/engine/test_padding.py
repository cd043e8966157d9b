"""Data and draws of clients of different sizes, put side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ppfl.core.params import add_scaled, subtract
from ppfl.core.types import Data, Draws
from ppfl.engine.mapping.batched import Batched
from ppfl.engine.mapping.padding import stack_draws
from ppfl.engine.participants import Downlink
from ppfl.interfaces.client_data import Joined, join, num_samples
from ppfl.interfaces.local_training import LocalTraining
from ppfl.interfaces.method import ClientStep
from ppfl.interfaces.mini_batches import ORDER_OF_TUNING, PADDED_DRAWS, UnequalClientsError
from tests.engine.build import engine, scores

SIZES = [(5, 5), (3, 7, 2), (4, 0, 1), (0, 0, 6), (2, 6, 0, 0)]


def stack_data(datas: list[Data]) -> Data:
    return Joined(join(datas), [num_samples(data) for data in datas]).stacked()[0]


def data_of(client: int, size: int) -> Data:
    draw = torch.Generator().manual_seed(client)
    x = torch.randn(size, 2, 3, generator=draw, dtype=torch.float32)
    return {"x": x, "y": torch.randint(5, (size,), generator=draw)}


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_client_finds_its_samples(sizes: tuple[int, ...]) -> None:
    datas = [data_of(client, size) for client, size in enumerate(sizes)]
    found = stack_data(datas)
    assert ("weight" in found) == (len(set(sizes)) > 1)
    assert all(len(value) == len(sizes) and value.shape[1] == max(sizes) for value in found.values())
    samples = torch.cat([data["x"] for data in datas])
    for row, (size, data) in enumerate(zip(sizes, datas, strict=True)):
        for key, value in data.items():
            assert found[key].dtype == value.dtype
            assert torch.equal(found[key][row, :size], value)
        if "weight" in found:
            assert found["weight"][row].tolist() == [1.0] * size + [0.0] * (max(sizes) - size)
            assert found["weight"].dtype == torch.float32
            # what fills up is a sample, its own first one where there is one
            fillers = found["x"][row, size:]
            assert all((filler == data["x"][0]).all() if size else (filler == samples).flatten(1).all(1).any()
                       for filler in fillers)  # fmt: skip


def test_places_are_where_the_samples_are() -> None:
    datas = [data_of(0, 3), data_of(1, 5), data_of(2, 1)]
    joined = Joined(join(datas), [3, 5, 1])
    data, places = joined.stacked()
    assert places is not None
    for key, value in joined.data.items():
        assert torch.equal(data[key].flatten(0, 1)[places], value)
    assert Joined(datas[0], [3]).stacked()[1] is None


def test_draws_that_differ_in_other_ways_are_refused() -> None:
    with pytest.raises(UnequalClientsError, match="draw different things"):
        stack_draws([{"a": torch.zeros(2)}, {}])
    with pytest.raises(UnequalClientsError, match="draw different numbers of a"):
        stack_draws([{"a": torch.zeros(2)}, {"a": torch.zeros(3)}])
    with pytest.raises(UnequalClientsError, match="draw different numbers of a"):
        stack_draws([{"a": torch.zeros(2, dtype=torch.int64)}, {"a": torch.zeros(3, dtype=torch.int64)}])


@pytest.mark.parametrize("key", sorted({*PADDED_DRAWS, f"0/{ORDER_OF_TUNING}"}))
def test_mini_batches_are_padded_in_both_dimensions(key: str) -> None:
    shapes = [(2, 3), (1, 4), (0, 0)]
    draws = [{key: torch.arange(a * b).reshape(a, b), "S": torch.tensor(a)} for a, b in shapes]
    draws = [{**draw, "start": torch.full((2,), 0.5 * k)} for k, draw in enumerate(draws)]
    found = stack_draws(draws)
    wanted = np.full((3, 2, 4), -1)
    wanted[0, :2, :3] = [[0, 1, 2], [3, 4, 5]]
    wanted[1, :1, :4] = [[0, 1, 2, 3]]
    assert found[key].dtype == torch.int64
    assert found[key].tolist() == wanted.tolist()
    assert found["S"].tolist() == [2, 1, 0]
    assert found["start"].tolist() == [[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]]


class Counted(TorchDispatchMode):
    """How many operations of torch are made."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num += 1
        return func(*args, **(kwargs or {}))


def test_the_number_of_operations_does_not_depend_on_the_clients() -> None:
    def operations(num_clients: int) -> int:
        sizes = [1 + client % 7 for client in range(num_clients)]
        datas = [data_of(client, size) for client, size in enumerate(sizes)]
        draws = [{ORDER_OF_TUNING: torch.zeros(size, 2, dtype=torch.int64), "S": torch.tensor(size)} for size in sizes]
        with Counted() as counted:
            stack_data(datas)
            stack_draws(draws)
        return counted.num

    assert operations(7) == operations(70) < 20


RUN: dict[str, Any] = {
    "problem": {
        "name": "supervised",
        "dataset": {"name": "digits", "partition": {"name": "dirichlet", "clients": 7, "alpha": 0.5}},
        "model": {"name": "mlp", "hidden": [6]}, "split": {"local": ["head.*"]}, "batch_size": "all",
    },
    "algorithm": {
        "name": "fedalt", "lr": 0.1, "epochs": 1, "batch_size": 30,
        "fine_tuner": {"name": "adam", "lr": 0.01, "batch_size": 25, "epochs": 1},
    },
    "rounds": 3, "evaluate": {"every": 1, "tuned": {"epochs": 0}},
}  # fmt: skip


@pytest.mark.parametrize("cohort", ["all", 3])
def test_a_run_in_chunks_is_that_of_single_clients(cohort: Any) -> None:
    """In their scores and their costs, to rounding."""
    alone, chunks = (scores(**RUN, cohort=cohort, engine={"clients_per_chunk": K}) for K in (1, 3))
    sizes = engine(**RUN).setup.problem.client_data.num_train_samples
    assert len({-(-size // 30) for size in sizes}) > 3
    for one, three in zip(alone, chunks, strict=True):
        for name, value in {**one.metrics, **one.costs}.items():
            if not name.endswith("seconds"):
                found = {**three.metrics, **three.costs}[name]
                np.testing.assert_allclose(found, value, rtol=1e-10, atol=1e-12, err_msg=name)


def loop(self: Any, objective: Any, message: Any, state: Any, data: Any, draws: Any) -> ClientStep:
    shared = message
    for batch in self.batches(data, draws):
        shared = add_scaled(shared, objective.shared_gradient(shared, state["local"], batch), -self.lr)
    return ClientStep(subtract(message, shared), state, self.report(draws, of_shared=1))


def test_a_method_with_a_loop_of_its_own_is_given_groups_of_equal_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    from ppfl.algorithms.fedavg import FedAvg

    shared = {"problem": {**RUN["problem"], "split": {"local": []}}, "rounds": 1}
    method = {"name": "fedavg", "lr": 0.1, "epochs": 1, "batch_size": 30}
    wanted = scores(**shared, algorithm=method)[-1].metrics
    assert issubclass(FedAvg, LocalTraining)
    monkeypatch.setattr(FedAvg, "client", loop)
    assert scores(**shared, algorithm=method)[-1].metrics == wanted
    groups: list[int] = []
    side_by_side = Batched._side_by_side

    def noting(mapping: Batched, downlink: Any, members: list[int], *others: Any) -> Any:
        found = side_by_side(mapping, downlink, members, *others)
        groups.append(len(members))
        return found

    monkeypatch.setattr(Batched, "_side_by_side", noting)
    for name, value in scores(**shared, algorithm=method, engine={"clients_per_chunk": 7})[-1].metrics.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-10, atol=1e-12, err_msg=name)
    assert sum(groups) == 7
    assert len(groups) > 1
    running = engine(**shared, algorithm=method, engine={"clients_per_chunk": 7}, aggregator={"name": "median"})
    downlink = Downlink(running.setup.algorithm, running.server, 0)
    sent = [uplink.clients for uplink in running.group.step(downlink, frozenset(range(7)), 0)]
    assert sent == [[client] for client in range(7)]  # in the order of clients, whatever the groups


def test_groups_are_of_like_draws_and_send_in_the_order_of_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neighbours are unlike, the rows of rules are not in the order of groups; sizes of data may well agree."""
    from ppfl.algorithms.fedavg import FedAvg

    def draws(self: Any, objective: Any, client: int, round: int, num_samples: int) -> Draws:
        return {"some": torch.arange(1 + client % 2)}

    def client(self: Any, objective: Any, message: Any, state: Any, data: Any, draws: Any) -> ClientStep:
        some = {name: data[name][draws["some"]] for name in ("x", "y")}
        return ClientStep(objective.shared_gradient(message, state["local"], some), state)

    monkeypatch.setattr(FedAvg, "draws", draws)
    monkeypatch.setattr(FedAvg, "client", client)
    run = {"problem": {**RUN["problem"], "split": {"local": []}, "batch_size": 2}, "aggregator": {"name": "median"}}
    method = {"name": "fedavg", "lr": 0.1, "local_steps": 1}
    running = engine(**run, algorithm=method, engine={"clients_per_chunk": 7})
    eligible = frozenset(running.setup.cohort.eligible)
    downlink = Downlink(running.setup.algorithm, running.server, 0)
    sent = list(running.group.step(downlink, eligible, 0))
    assert [client for uplink in sent for client in uplink.clients] == sorted(eligible)
    assert len(eligible) > 4


def test_rows_that_a_method_draws_by_itself_are_not_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not know of numbers that stand for no sample, and would take them for its last one."""
    from ppfl.algorithms.fedavg import FedAvg

    def draws(self: Any, objective: Any, client: int, round: int, num_samples: int) -> Draws:
        return {"half": torch.arange(0, num_samples, 2)}

    def client(self: Any, objective: Any, message: Any, state: Any, data: Any, draws: Any) -> ClientStep:
        half = {name: data[name][draws["half"]] for name in ("x", "y")}
        return ClientStep(objective.shared_gradient(message, state["local"], half), state)

    monkeypatch.setattr(FedAvg, "draws", draws)
    monkeypatch.setattr(FedAvg, "client", client)
    method = {"name": "fedavg", "lr": 0.1, "local_steps": 1}
    shared = {"problem": {**RUN["problem"], "split": {"local": []}}, "rounds": 1, "algorithm": method}
    alone, chunk = (scores(**shared, engine={"clients_per_chunk": K})[-1].metrics for K in (1, 7))
    for name, value in alone.items():
        np.testing.assert_allclose(chunk[name], value, rtol=1e-10, atol=1e-12, err_msg=name)


def test_rows_of_tokens_that_are_not_there_are_marked_without_a_number_type() -> None:
    datas = [
        {"x": torch.arange(2 * size).view(size, 2), "y": torch.ones(size, 2, dtype=torch.int64)} for size in (1, 3)
    ]
    data, places = Joined(join(datas), [1, 3]).stacked()
    assert data["weight"].tolist() == [[True, False, False], [True, True, True]]
    assert data["x"].dtype == data["y"].dtype == torch.int64
    assert data["x"][0].tolist() == [[0, 1]] * 3
    assert places is not None
    assert places.tolist() == [0, 3, 4, 5]
