"""What is counted as a wait for a device, on a CPU that stands for one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ppfl.core import devices
from tests.operations import counted

X = torch.arange(6.0)
WAITS: dict[str, Callable[[], object]] = {
    "item": lambda: X[0].item(),
    "float": lambda: float(X.sum()),
    "bool": lambda: bool(X.any()),
    "tolist": lambda: X.tolist(),
    "numpy": lambda: X.numpy(),
    "to_host": lambda: devices.to_host(X),
    "start_to_host": lambda: devices.start_to_host(X)(),
    "marks": lambda: X[X > 1],
    "put by marks": lambda: X.clone().index_put_((X > 1,), X[:4]),
    "nonzero": lambda: X.nonzero(),
    "equal": lambda: torch.equal(X, X),
    "unique": lambda: X.unique(),
    "repeated": lambda: torch.repeat_interleave(X, X.to(torch.int64)),
}
NONE: dict[str, Callable[[], object]] = {
    "arithmetic": lambda: torch.where(X > 1, X, 0.0).sum(),
    "chosen by numbers": lambda: X[X.to(torch.int64)],
    "on the host": lambda: (float(torch.ones(3).sum()), torch.tensor([1.0]).tolist(), (torch.eye(2) @ torch.eye(2))[0]),
    "brought once": lambda: devices.to_device(X, X.device),
}


@pytest.mark.parametrize("name", WAITS)
def test_waits_are_counted(name: str) -> None:
    with counted() as counts:
        WAITS[name]()
    # of marks that are put, others are read first
    assert counts.waits == 1, counts.waits_by_name


@pytest.mark.parametrize("name", NONE)
def test_what_does_not_wait_is_not(name: str) -> None:
    with counted() as counts:
        NONE[name]()
    assert counts.waits == 0, counts.waits_by_name


def test_what_was_brought_to_the_host_is_looked_at_for_nothing() -> None:
    with counted() as counts:
        here = devices.to_host(X * 2.0)
        numbers = [float(here.sum()), *here.tolist(), *(here - 1.0).numpy()]
    assert numbers[:3] == [30.0, 0.0, 2.0]
    assert counts.waits_by_name == {"to_host": 1}
    with counted() as counts:
        float((here + X).sum())
    assert counts.waits == 1
