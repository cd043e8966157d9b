"""Local parameters never leave their rank: the engine and the communicator refuse them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from ppfl.algorithms.ffgg import FFGG
from ppfl.comm.solo import SoloCommunicator
from ppfl.core.communicator import LocalParameterError
from ppfl.engine.client_store import MemoryStore
from ppfl.engine.synchronous import Synchronous
from ppfl.runs.assemble import build
from tests.engine.build import config


class Leaky(FFGG):
    """FFGG that gives its local parameters away, in one of several ways."""

    name: Literal["ffgg"]
    how: str = ""

    def client(self, objective: Any, message: Any, state: Any, data: Any, draws: Any) -> Any:
        step = super().client(objective, message, state, data, draws)
        match self.how:
            case "by name":
                return replace(step, uplink={**step.uplink, **state["local"]})
            case "copied, by name":
                return replace(step, uplink={**step.uplink, "w": state["local"]["w"].clone()})
            case "instead of the gradient":
                return replace(step, uplink=step.state["local"])
        return step


def leaky_engine(how: str) -> Synchronous:
    setup = build(config(rounds=2), SoloCommunicator())
    algorithm = Leaky(**{**dict(setup.algorithm), "how": how})
    return Synchronous(setup.__class__(**{**vars(setup), "algorithm": algorithm}))


@pytest.mark.parametrize("how", ["by name", "copied, by name", "instead of the gradient"])
def test_an_uplink_with_local_parameters_is_refused(how: str) -> None:
    with pytest.raises(LocalParameterError, match="local parameters stay on the rank"):
        list(leaky_engine(how))


def test_an_honest_uplink_passes() -> None:
    assert len(list(leaky_engine("not at all"))) == 2


@pytest.mark.parametrize("operation", ["allreduce", "allgather_rows", "rows_to_columns", "columns_to_rows"])
def test_the_communicator_refuses_local_memory(operation: str) -> None:
    run = leaky_engine("not at all")
    list(run)
    assert isinstance(run.group.store, MemoryStore)
    stacked = run.group.store.kept(0)["local"]["w"]
    arguments: dict[str, tuple[Any, ...]] = {
        "allreduce": ("sum",), "allgather_rows": (), "rows_to_columns": ([0, 1],), "columns_to_rows": ([0, 1], 1),
    }  # fmt: skip
    with pytest.raises(LocalParameterError, match="'w'"):
        getattr(run.setup.communicator, operation)(stacked, *arguments[operation])
    with pytest.raises(LocalParameterError, match="'w'"):
        getattr(run.setup.communicator, operation)(stacked[0], *arguments[operation])
    assert run.group.local_name_at(stacked.data_ptr()) == "w"
    harmless = torch.zeros_like(stacked)
    getattr(run.setup.communicator, operation)(harmless, *arguments[operation])
