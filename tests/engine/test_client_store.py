"""Where states of clients are: the same bits from memory and from a file, nothing for clients that never took part."""

from __future__ import annotations

import math
import resource
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ppfl.core import host_memory
from ppfl.core.errors import UserError
from ppfl.core.host_memory import free_host_bytes
from ppfl.engine import client_store
from ppfl.engine.client_store import ClientStore, FileStore, choose_kind, describe, open_store, state_bytes
from ppfl.engine.synchronous import Synchronous
from tests.engine.build import EXACT, engine, ffgg

CPU = torch.device("cpu")
GD = {"name": "gradient_descent", "steps": 2, "lr": "theory"}


def initial(index: int) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "local": {"w": torch.full((2, 3), float(index)), "none": torch.zeros(0)},
        "count": {"steps": torch.tensor([index]), "flag": torch.tensor(True)},
        "nothing": {},
    }


def equal(one: Any, other: Any) -> bool:
    return {group: list(params) for group, params in one.items()} == {
        group: list(params) for group, params in other.items()
    } and all(
        torch.equal(value, other[group][name]) and value.dtype == other[group][name].dtype
        for group, params in one.items()
        for name, value in params.items()
    )


@pytest.mark.parametrize("kind", ["device", "host", "file"])
def test_what_was_put_comes_back(kind: Any) -> None:
    store = open_store(kind, initial, CPU)
    assert store.kind == kind
    assert equal(store.get(7), initial(7))
    store.put(7, initial(20))
    store.put(2, initial(21))
    store.put(7, initial(22))
    store.prefetch([2, 7, 9])
    assert equal(store.get(7), initial(22))
    assert equal(store.get(2), initial(21))
    assert equal(store.get(3), initial(3))
    assert [index for index in range(10) if store.has(index)] == [2, 7]
    store.forget()
    assert equal(store.get(7), initial(7))


def test_rows_of_a_file_are_in_memory_of_their_own() -> None:
    store = open_store("file", initial, CPU)
    store.put(0, initial(5))
    state = store.get(0)
    addresses = {value.data_ptr() % 64 for params in state.values() for value in params.values() if value.numel()}
    assert addresses == {0}
    state["local"]["w"].zero_()
    assert equal(store.get(0), initial(5))


def test_members_come_back_one_by_one_also_of_a_smaller_chunk() -> None:
    def chunk(index: int) -> dict[str, dict[str, torch.Tensor]]:
        clients = 3 if index < 2 else 2
        values = torch.arange(100.0 * index, 100.0 * index + 4 * clients).reshape(clients, 4)
        return {
            "local": {"w": values, "none": torch.zeros(clients, 0)},
            "count": {"steps": values[:, 0].to(torch.int64)},
        }

    store = open_store("file", chunk, CPU)
    # names come in any order
    store.put(0, {group: dict(reversed(params.items())) for group, params in reversed(chunk(0).items())})
    store.put(2, chunk(2))
    for index in range(3):
        assert equal(store.get(index), chunk(index))
        for row in range(len(chunk(index)["local"]["w"])):
            member = store.member(index, row)
            assert equal(member, {g: {n: v[row] for n, v in params.items()} for g, params in chunk(index).items()})
            assert member["local"]["w"].data_ptr() % 64 == 0
        assert store.like(index)["local"]["w"].shape == chunk(index)["local"]["w"].shape


def test_a_full_disk_is_told() -> None:
    store = open_store("file", initial, CPU)
    store.put(0, initial(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(UserError, match=r"engine.client_state: file: .*set TMPDIR"):
            store.put(100, initial(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert equal(store.get(0), initial(0))
    assert equal(store.get(100), initial(100))


def test_the_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = open_store("file", initial, CPU)
    store.put(3, initial(1))
    assert isinstance(store, FileStore)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("free", "ranks", "kind"), [(2000, 1, "device"), (1999, 1, "file"), (4000, 2, "device"), (3999, 2, "file")]
)
def test_the_nearest_place_with_room_is_chosen(
    free: float, ranks: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_store, "free_host_bytes", lambda: free)
    assert choose_kind("auto", 900, 100, CPU, ranks) == kind
    assert choose_kind("host", 10**15, 0, CPU, ranks) == "host"


def test_free_memory_is_within_what_a_job_was_granted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1e7 < free_host_bytes() < 1e14
    monkeypatch.setattr(host_memory, "_PROC", tmp_path)
    monkeypatch.setattr(host_memory, "_CGROUPS", tmp_path / "groups")
    assert free_host_bytes() == math.inf
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable: 800 kB\n")
    assert free_host_bytes() == 800 * 1024
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("4:cpu,memory:/old\n2:pids:/other\n0::/slurm/job_7/step_0\n")
    step = tmp_path / "groups" / "slurm" / "job_7" / "step_0"
    step.mkdir(parents=True)
    (step / "memory.max").write_text("max\n")
    assert free_host_bytes() == 800 * 1024
    (step.parent / "memory.max").write_text("500000\n")
    assert free_host_bytes() == 500_000
    (tmp_path / "groups" / "memory").mkdir()
    (tmp_path / "groups" / "memory" / "memory.limit_in_bytes").write_text("400000\n")
    assert free_host_bytes() == 400_000


def test_it_is_told_in_words() -> None:
    assert describe("host", 1114, 5_600_000) == "1114 clients × 5.6 MB = 6.24 GB: host"
    assert state_bytes(initial(0)) == 6 * 4 + 8 + 1


def run(kind: str, **sections: Any) -> Synchronous:
    run = engine(engine={"client_state": kind}, rounds=6, cohort=3, evaluate={"every": 2}, **sections)
    list(run)
    return run


@pytest.mark.parametrize(
    "sections",
    [
        {"algorithm": ffgg(GD)},
        {"algorithm": {"name": "scaffold_theta", "lr": "theory", "local_steps": 2}},
        {"algorithm": {"name": "l2gd_theta", "lr": "theory", "penalty": 0.1, "probability": 0.5}},
    ],
    ids=["ffgg", "scaffold", "l2gd"],
)
def test_runs_have_the_same_bits_wherever_states_are(sections: dict[str, Any]) -> None:
    near, far = run("device", **sections), run("file", **sections)
    assert (near.group.store.kind, far.group.store.kind) == ("device", "file")
    assert equal(near.server, far.server)
    for client in near.group.clients:
        assert equal(near.group.state(client), far.group.state(client))


def test_clients_that_never_took_part_are_not_kept() -> None:
    one = run("device", algorithm=ffgg(EXACT))
    took_part = set().union(*(one.setup.cohort(round) for round in range(6)))
    assert 0 < len(took_part) < len(one.group.clients)
    assert set(one.group.changed) == took_part
    store: ClientStore = one.group.store
    assert {client for client in one.group.clients if store.has(client)} == took_part


def test_auto_takes_a_file_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_store, "free_host_bytes", lambda: 100.0)
    one = engine(rounds=1)
    assert one.setup.client_state == "file"
    assert one.setup.bytes_a_client == 50 * 8
    list(one)
    assert one.group.store.has(0)
