"""How many clients are computed together where the configuration leaves it: by memory, and kept from then on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.communicator import Communicator
from ppfl.engine.mapping.joint import Joint
from ppfl.interfaces.placement import MAX_CHUNK, MAX_MEMBERS, ChunkMemory, Placement
from ppfl.jobs.attempt import Caller
from ppfl.models.cnn import CNN
from ppfl.networks import pieces
from ppfl.networks.memory import bytes_of_client
from ppfl.results.layout import shared_path
from ppfl.runs import assemble
from ppfl.runs.assemble import build
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.algorithms.cases import QUADRATIC
from tests.engine.build import config, ffgg
from tests.ranks import on_ranks
from tests.supervised_problems import CONFIG

RUN: dict[str, Any] = {
    "problem": CONFIG, "algorithm": ffgg({"name": "gradient_descent", "steps": 2, "lr": 0.1}, 0.1), "rounds": 3,
    "precision": "float32", "checkpoint": {"every_rounds": 1},
}  # fmt: skip


@given(
    st.integers(1, 10**12), st.sampled_from(["all", 1, 7, 0.1, 0.5]), st.integers(7, 10**6), st.integers(1, 7),
    st.integers(0, 10**9),
)  # fmt: skip
def test_as_many_as_memory_holds(budget: int, cohort: Any, clients: int, ranks: int, needed: int) -> None:
    """Members of a chunk fit; a rank more changes nothing but where it would be left without one."""
    memory = ChunkMemory(budget, cohort)
    size = memory.chunk_size(clients, ranks, needed)
    assert 1 <= size <= min(clients, MAX_CHUNK)
    assert -(-clients // size) >= ranks
    alone = memory.chunk_size(clients, 1, needed)
    assert size == alone or -(-clients // alone) < ranks
    if cohort == "all":
        assert alone == min(max(budget // max(needed, 1), 1), MAX_MEMBERS, clients)
    else:
        assert alone >= ChunkMemory(budget).chunk_size(clients, 1, needed)


def test_what_a_client_needs_grows_with_its_samples_and_its_windows() -> None:
    stages = CNN(name="cnn").stages((1, 28, 28), 10)
    one, two = (bytes_of_client(stages, (1, 28, 28), torch.float32, samples) for samples in (1, 2))
    # windows of the second convolution alone: 64 pixels, before pooling, that see 5 × 5 × 32 numbers, as they are
    # multiplied, as they are kept and as their gradient
    assert two - one > 3 * 64 * 800 * 4
    parameters = sum(value.numel() for stage in stages for value in _drawn(stage))
    assert one > 4 * parameters
    assert bytes_of_client(stages, (1, 28, 28), torch.float64, 2) == 2 * two


def test_of_a_client_counts_what_a_round_uses_of_it() -> None:
    """Of the client with most samples, so that each fits."""
    memory, sizes = ChunkMemory(100), [20, 50, 10] * 10
    whole = Placement(
        SoloCommunicator(), 0, 0, torch.float32, torch.device("cpu"), chunk_memory=memory,
        bytes_of_client=lambda shape, num_samples, vocabulary_size: num_samples,
    )  # fmt: skip
    assert whole.chunk_size(None, sizes, (1,)) == 2
    assert replace(whole, samples_a_round=25).chunk_size(None, sizes, (1,)) == 4


def _drawn(stage: Any) -> list[torch.Tensor]:
    import numpy as np

    return list(stage.init(lambda name: np.random.default_rng(0)).values())


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have a run choose as on a card with some memory for the clients of a chunk."""

    def has(num_bytes: int) -> None:
        monkeypatch.setattr(assemble, "_chunk_memory", lambda config, device: ChunkMemory(num_bytes, config.cohort))

    return has


def test_a_run_chooses_and_ranks_agree(memory: Any) -> None:
    """Of 6 clients all on one rank; on four ranks, which would have no chunk, one."""
    memory(1 << 40)
    assert build(config(**RUN), SoloCommunicator()).clients_per_chunk == 6

    def chosen(communicator: Communicator) -> int:
        return build(config(**RUN), communicator).clients_per_chunk

    assert on_ranks(4, chosen) == [1] * 4
    assert on_ranks(2, chosen) == [3] * 2
    memory(1)
    assert on_ranks(2, chosen) == [1] * 2


@pytest.mark.parametrize(
    ("sections", "wanted"),
    [
        ({"engine": {"clients_per_chunk": 2}}, 2),
        ({"problem": {**QUADRATIC, "clients": 5}}, 5),
        ({"asynchronous": {"engine": "virtual"}, "compute_times": {"name": "exponential"}}, 1),
    ],
    ids=["asked for", "quadratic", "asynchronous"],
)
def test_what_it_depends_on(sections: dict[str, Any], wanted: int, memory: Any) -> None:
    memory(1 << 40)
    assert build(config(**{**RUN, **sections}), SoloCommunicator()).clients_per_chunk == wanted


def test_a_cpu_computes_clients_one_by_one() -> None:
    assert build(config(**RUN), SoloCommunicator()).clients_per_chunk == 1


def test_a_pack_leaves_less(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 80 << 30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    for budget, wanted in (("", 10 << 30), (str(60 << 30), 10 << 30), (str(6 << 30), 2 << 30)):
        monkeypatch.setenv("PPFL_GPU_BYTES", budget)
        pieces.memory_share.cache_clear()
        assert pieces.memory_share(torch.device("cuda", 0)) == wanted
    pieces.memory_share.cache_clear()


def test_a_run_that_goes_on_keeps_what_it_began_with(tmp_path: Path, memory: Any) -> None:
    """Also where another one would be chosen now; the result says which it was."""
    memory(1 << 40)
    out, whole = tmp_path / "r.h5", tmp_path / "whole.h5"
    assert run(config(**RUN), whole, Silent(), SoloCommunicator()) == "complete"
    assert run(config(**RUN), out, Silent(), SoloCommunicator(), caller=Caller("", lambda: True)) == "stopped"
    memory(1)
    assert run(config(**RUN), out, Silent(), SoloCommunicator()) == "complete"
    other = tmp_path / "other.h5"
    assert run(config(**RUN), other, Silent(), SoloCommunicator()) == "complete"
    for path, size in ((out, 6), (whole, 6), (other, 1)):
        with h5py.File(path) as file:
            assert file["provenance"].attrs["clients_per_chunk"] == size
    parameters = [shared_path(path).read_bytes() for path in (out, whole, other)]
    assert parameters[0] == parameters[1] != parameters[2]


def test_chunks_that_are_chosen_are_computed_together(memory: Any) -> None:
    memory(1 << 40)
    setup = build(config(**RUN), SoloCommunicator())
    assert Joint.can(setup)
