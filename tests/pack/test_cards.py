"""GPUs dealt to the children of a pack: all that can be decided without one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import Config, validate
from ppfl.core import gpu_memory
from ppfl.core.gpu_memory import OutOfGPUMemoryError, budget_bytes, free_gpu_bytes, keep_to_budget
from ppfl.jobs.failures import read_failure
from ppfl.pack import cards as module
from ppfl.pack.cards import CONTEXT_BYTES, GIB, LEAST_BYTES, Card, Dealing, deal, deal_to, find_cards, name_cards
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.runs.test_auto_device import DIGITS, QUADRATIC

UUIDS = ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f"]


def cards(*gib: float) -> list[Card]:
    return [Card(str(number), int(size * GIB)) for number, size in enumerate(gib)]


def config(problem: dict[str, Any], **sections: Any) -> Config:
    algorithm = {"name": "fedsim", "lr": 0.01, "local_steps": 2}
    return validate({"name": "x", "rounds": 1, "problem": problem, "algorithm": algorithm, **sections}, Path(), "x")


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["0", "1"]),
        ("2,3", ["2", "3"]),
        ("3, 2", ["3", "2"]),
        (",".join(UUIDS), UUIDS),
        ("5,6,-1,7", ["5", "6"]),  # torch sees two: what follows an unknown one is ignored
    ],
)
def test_a_card_is_named_as_the_environment_names_it(visible: str | None, names: list[str]) -> None:
    assert name_cards([10, 20], visible) == [Card(names[0], 10), Card(names[1], 20)]


def test_children_take_the_cards_in_turn() -> None:
    dealing = Dealing([Card(name, 80 * GIB) for name in UUIDS])
    seen = [dealing.environment_of(child, 4)["CUDA_VISIBLE_DEVICES"] for child in range(4)]
    assert seen == [*UUIDS, *UUIDS]
    assert {dealing.environment_of(child, 4)["PPFL_GPU_BYTES"] for child in range(4)} == {str(39 * GIB)}


@pytest.mark.parametrize(
    ("ranks", "seen"),
    [(2, ["0,1", "2,3", "0,1", "2,3"]), (3, ["0,1,2", "3,0,1", "2,3,0"]), (5, ["0,1,2,3", "1,2,3,0"])],
)
def test_ranks_of_a_run_see_as_many_cards_as_they_are(ranks: int, seen: list[str]) -> None:
    dealing = Dealing(cards(80, 80, 80, 80), ranks)
    assert [dealing.environment_of(child, 9)["CUDA_VISIBLE_DEVICES"] for child in range(len(seen))] == seen


def test_packs_of_one_node_begin_at_different_cards() -> None:
    environment = {"MPI_LOCALNRANKS": "2"}
    packs = [deal(cards(80, 80), 1, rank, environment) for rank in range(2)]
    assert [dealing.environment_of(0, 1)["CUDA_VISIBLE_DEVICES"] for dealing in packs] == ["0", "1"]
    # each has a card for itself, or both share two
    assert packs[0].budget_bytes(1) == 79 * GIB
    assert packs[0].budget_bytes(2) == 39 * GIB
    own = deal(cards(80), 1, 1, {**environment, "SLURM_GPUS_PER_TASK": "h200:1", "SLURM_PROCID": "1"})
    assert (own.processes, own.budget_bytes(1)) == (1, 79 * GIB)


@pytest.mark.parametrize(
    ("sizes", "ranks", "processes", "wanted", "jobs"),
    [
        ([139], 1, 1, 16, 16),
        ([139], 1, 1, 64, 46),
        ([16, 16], 1, 1, 16, 10),
        ([16, 80], 1, 1, 16, 10),  # the smaller one decides, as both get as many
        ([16, 16], 1, 2, 16, 5),
        ([16, 16], 2, 1, 16, 5),
        ([16], 1, 1, 2, 2),
        ([2], 1, 1, 8, 1),
    ],
)
def test_there_are_no_more_children_than_cards_have_memory_for(
    sizes: list[int], ranks: int, processes: int, wanted: int, jobs: int
) -> None:
    assert Dealing(cards(*sizes), ranks, processes).jobs(wanted) == jobs


@pytest.mark.parametrize("sizes", [[3], [16], [24, 24, 24], [139], [80] * 8])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("processes", [1, 2])
def test_budgets_of_a_card_and_their_contexts_fit_on_it(sizes: list[int], ranks: int, processes: int) -> None:
    for wanted in (1, 2, 7, 64):
        packs = [Dealing(cards(*sizes), ranks, processes, place) for place in range(processes)]
        jobs = packs[0].jobs(wanted)
        budget = packs[0].budget_bytes(jobs)
        assert budget >= LEAST_BYTES or jobs == 1
        taken = dict.fromkeys((card.name for card in packs[0].cards), 0)
        for dealing in packs:
            for child in range(jobs):
                seen = dealing.environment_of(child, jobs)["CUDA_VISIBLE_DEVICES"].split(",")
                for rank in range(ranks):  # as ppfl/runs/device.py deals what a rank sees
                    taken[seen[rank % len(seen)]] += budget + CONTEXT_BYTES
        assert max(taken.values()) <= sizes[0] * GIB or budget < LEAST_BYTES


def test_a_card_smaller_than_a_context_is_tried() -> None:
    assert Dealing(cards(1)).budget_bytes(1) == GIB // 2


def test_quadratics_ask_for_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_cards", lambda: pytest.fail("nobody wants a card"))
    jobs, environment_of = deal_to(16, [config(QUADRATIC), config(DIGITS, engine={"device": "cpu"})], 1, 0, print)
    assert (jobs, environment_of(0)) == (16, {})


def test_it_is_told_how_cards_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_cards", lambda: cards(16, 16))
    told: list[str] = []
    jobs, environment_of = deal_to(16, [config(DIGITS)], 1, 0, told.append)
    assert jobs == 10
    assert environment_of(3) == {"CUDA_VISIBLE_DEVICES": "1", "PPFL_GPU_BYTES": str(16 * GIB // 5 - GIB)}
    sharing = "10 runs at once, not 16, for which memory is too little; 2.2 GiB each"
    assert told == [f"2 GPU(s) of 16.0, 16.0 GiB, taken in turn: {sharing}"]


def test_cards_are_counted_by_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(module, "_SIGNS", ("null",))
    monkeypatch.setattr(module, "torch_without_gpus", lambda: "")
    python.write_text(f"#!/bin/sh\necho a warning of a driver\necho '{json.dumps([5, 6])}'\n")
    python.chmod(0o755)
    assert find_cards({}) == [Card("0", 5), Card("1", 6)]
    assert find_cards({"CUDA_VISIBLE_DEVICES": "7,9"}) == [Card("7", 5), Card("9", 6)]
    for broken in ("exit 1", "echo nothing", "true"):
        python.write_text(f"#!/bin/sh\n{broken}\n")
        assert find_cards({}) == []
    python.unlink()
    monkeypatch.setattr(module, "_SIGNS", ("no-such-device",))
    assert find_cards({}) == []
    monkeypatch.setattr(module, "_SIGNS", ("null",))
    monkeypatch.setattr(module, "torch_without_gpus", lambda: "2.13.0+cpu")
    assert find_cards({}) == []


def test_what_counts_them_runs_where_there_is_none() -> None:
    said: list[str] = []
    exec(module._PROBE, {"print": said.append})
    assert len(json.loads(said[0])) == torch.cuda.device_count()


def test_a_process_keeps_to_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    device, set_to = torch.device("cuda", 0), []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=100))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70, 100))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda fraction, device: set_to.append((fraction, device))
    )
    for text, budget, free in (("25", 25, 25), ("80", 80, 70), ("", None, 70), ("0", None, 70), ("many", None, 70)):
        environment = {gpu_memory.BUDGET: text}
        assert budget_bytes(environment) == budget
        assert free_gpu_bytes(device, environment) == free
        keep_to_budget(device, environment)
    keep_to_budget(device, {gpu_memory.BUDGET: "1000"})
    assert set_to == [(0.25, device), (0.8, device), (1.0, device)]
    assert module.BUDGET == gpu_memory.BUDGET


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (str(5 * GIB), "out of GPU memory within the 5 GiB that its pack allots to each process; fewer runs at once"),
        ("", "out of GPU memory; a smaller engine.clients_per_chunk or batch_size, or more GPUs"),
    ],
)  # fmt: skip
def test_a_lack_of_gpu_memory_says_what_needs_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str, words: str
) -> None:
    monkeypatch.setenv(gpu_memory.BUDGET, budget)

    def build(*_: object) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(OutOfGPUMemoryError):
        run(config(QUADRATIC), tmp_path / "x.h5", Silent(), SoloCommunicator(), build)
    noted = read_failure(tmp_path / "x.h5")
    assert noted is not None
    assert noted.reason.startswith(f"OutOfGPUMemoryError: {words}")
    assert any("Tried to allocate 2.00 GiB" in line for line in noted.log_tail)
