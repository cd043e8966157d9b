"""The data of a round of several clients at once: the bits of one at a time, in a number of operations of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ppfl.core.types import Data
from ppfl.interfaces.client_data import SampledData, join
from ppfl.problems._supervised_data import SupervisedData
from tests.supervised_problems import PROBLEMS, make

torch.set_num_threads(1)


class Counted(TorchDispatchMode):
    """Counts what torch dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def same(one: Data, other: Data) -> bool:
    return list(one) == list(other) and all(
        value.dtype == other[name].dtype and torch.equal(value, other[name]) for name, value in one.items()
    )


# of 30 clients of about 58 samples each of a Dirichlet partition some have fewer than 40 samples and some more
@pytest.mark.parametrize("batch_size", [7, 40, "all"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda keys: keys["name"])
@pytest.mark.parametrize("clients", [[0], [3, 4, 5], [29, 2, 17, 2, 0], list(range(30))], ids=len)
def test_joined_data_are_those_of_one_client_after_another(
    clients: list[int], problem: dict[str, Any], batch_size: Any
) -> None:
    partition = {"name": "dirichlet", "clients": 30, "alpha": 0.5}
    data = make(problem | {"dataset": {"name": "digits", "partition": partition}, "batch_size": batch_size}).client_data
    assert isinstance(data, SupervisedData)
    for round in (0, 3):
        found, sizes = data.joined(clients, round)
        of_each = [data.data(client, round) for client in clients]
        assert sizes == [len(one["y"]) for one in of_each]
        assert same(found, join(of_each))
        by_default, sizes_by_default = SampledData.joined(data, clients, round)
        assert same(found, by_default)
        assert sizes == sizes_by_default


def test_joined_data_are_fresh_memory() -> None:
    data = make({"batch_size": "all"}).client_data
    first, _ = data.joined([0, 1], 0)
    kept = {name: value.clone() for name, value in first.items()}
    for value in first.values():
        assert value.is_contiguous()
        assert value.storage_offset() == 0
        value.zero_()
    assert same(data.joined([0, 1], 0)[0], kept)


@pytest.mark.parametrize("batch_size", [3, "all"])
def test_joined_data_take_as_many_operations_for_many_clients_as_for_few(batch_size: Any) -> None:
    partition = {"name": "iid", "clients": 200}
    data = make({"dataset": {"name": "digits", "partition": partition}, "batch_size": batch_size}).client_data
    counts = []
    for number in (20, 200):
        with Counted() as counted:
            data.joined(range(number), 0)
        counts.append(len(counted.names))
    assert counts[0] == counts[1] <= 8
