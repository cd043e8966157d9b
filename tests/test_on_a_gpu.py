"""The part of the suite that a GPU has to pass: the CPU's numbers, the same bits every time, and what only cards have.

Where there is none the comparisons are made with the CPU in the card's place, so that they are known to run.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.gpu_memory import BUDGET
from ppfl.core.types import Params
from ppfl.engine.synchronous import Synchronous
from ppfl.jobs.attempt import Caller
from ppfl.jobs.failures import read_failure
from ppfl.pack.cards import find_cards
from ppfl.results.parameters import load_shared
from ppfl.results.reader import open_result
from ppfl.runs.assemble import build
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.algorithms.cases import NAMES, PROBLEMS, sections
from tests.engine.build import config, engine
from tests.mpi.test_same_bits import robust_cases
from tests.ranks import on_ranks

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
CNN: dict[str, Any] = {
    "name": "supervised",
    "dataset": {"name": "digits", "partition": {"name": "dirichlet", "clients": 5, "alpha": 0.3}},
    "model": {"name": "cnn", "channels": [4, 6], "kernel_size": 2, "hidden": 8},
    "split": {"local": ["head.*"]},
    "batch_size": "all",
}
FFGG = {"name": "ffgg", "lr": 0.1, "fine_tuner": {"name": "gradient_descent", "steps": 3, "lr": 0.1}}


def ran(**document: Any) -> Synchronous:
    found = engine(**document)
    for _ in found:
        pass
    return found


def everything(found: Synchronous) -> Params:
    """Return θ and w of all clients, on the CPU."""
    values = {f"server {name}": value for name, value in found.server["shared"].items()}
    for client in found.group.clients:
        for group, params in found.group.state(client).items():
            values |= {f"{client} {group} {name}": value for name, value in params.items()}
    return {name: value.cpu() for name, value in values.items()}


def distance(found: Params, expected: Params) -> float:
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - like).abs().max() / like.abs().max().clamp(min=1e-3)) for name, like in expected.items()
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_finds_what_it_finds_on_a_cpu(name: str, problem: str, device: str) -> None:
    document = sections(name, problem)
    expected = everything(ran(**document, engine={"device": "cpu"}))
    assert distance(everything(ran(**document, engine={"device": device})), expected) <= 1e-10


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", robust_cases())
def test_every_rule_finds_what_it_finds_on_a_cpu(case: str, device: str) -> None:
    document: dict[str, Any] = {**robust_cases()[case], "rounds": 3}
    expected = everything(ran(**document, engine={"device": "cpu"}))
    assert distance(everything(ran(**document, engine={"device": device})), expected) <= 1e-9


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("clients_per_chunk", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_same_run_has_the_same_bits_on_one_rank_and_on_two(
    precision: str, clients_per_chunk: int, device: str
) -> None:
    chosen = {"device": device, "clients_per_chunk": clients_per_chunk}
    document = config(problem=CNN, algorithm=FFGG, rounds=3, precision=precision, engine=chosen)

    def shared(communicator: Any) -> Params:
        found = Synchronous(build(document, communicator))
        for _ in found:
            pass
        return {name: value.cpu() for name, value in found.server["shared"].items()}

    first, again, of_two = shared(SoloCommunicator()), shared(SoloCommunicator()), on_ranks(2, shared)
    for other in (again, *of_two):
        assert all(torch.equal(other[name], value) for name, value in first.items())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("client_state", ["device", "host", "file"])
def test_states_may_be_anywhere(client_state: str, device: str) -> None:
    document: dict[str, Any] = {"problem": CNN, "algorithm": FFGG, "rounds": 3}
    expected = everything(ran(**document, engine={"device": "cpu"}))
    found = ran(**document, engine={"device": device, "client_state": client_state})
    assert distance(everything(found), expected) <= 1e-10


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(tmp_path: Path, device: str) -> None:
    document = config(problem=CNN, algorithm=FFGG, rounds=4, precision="float32", engine={"device": device})
    asked = iter([False, True])
    stopping = Caller(wants_stop=lambda: next(asked, False))
    ends = [run(document, tmp_path / "x.h5", Silent(), SoloCommunicator(), caller=stopping) for _ in range(2)]
    assert ends == ["stopped", "complete"]
    assert run(document, tmp_path / "y.h5", Silent(), SoloCommunicator()) == "complete"
    found, expected = (load_shared(tmp_path / name) for name in ("x.h5", "y.h5"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.cuda
def test_a_card_says_in_the_result_what_it_is_and_how_kernels_are_chosen(tmp_path: Path, precision: str) -> None:
    for wanted, words in ((True, "deterministic kernels, CUBLAS"), (False, "kernels as torch chooses, CUBLAS")):
        chosen = {"device": "cuda", "deterministic": wanted}
        document = config(problem=CNN, algorithm=FFGG, rounds=2, precision=precision, engine=chosen)
        out = tmp_path / f"{wanted}.h5"
        assert run(document, out, Silent(), SoloCommunicator()) == "complete"
        assert words in open_result(out).provenance["device"]


@pytest.mark.cuda
@pytest.mark.parametrize("name", NAMES)
def test_torch_has_deterministic_kernels_for_all_that_is_asked_of_it(name: str) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ran(**sections(name, "digits"), engine={"device": "cuda"})
        ran(problem=CNN, algorithm=FFGG, rounds=2, engine={"device": "cuda"})
    assert [str(one.message) for one in told if "deterministic" in str(one.message)] == []


@pytest.mark.cuda
def test_a_run_that_needs_more_than_its_budget_says_so_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {**CNN, "model": {"name": "mlp", "hidden": [20_000]}}
    monkeypatch.setenv(BUDGET, str(64 << 20))
    with pytest.raises(RuntimeError, match=r"within the 0\.0625 GiB that its pack allots"):
        run(config(problem=wide, algorithm=FFGG, rounds=1), tmp_path / "x.h5", Silent(), SoloCommunicator())
    noted = read_failure(tmp_path / "x.h5")
    assert noted is not None
    assert "fewer runs at once (--jobs)" in noted.reason
    document = config(problem=CNN, algorithm=FFGG, rounds=1)
    assert run(document, tmp_path / "y.h5", Silent(), SoloCommunicator()) == "complete"
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.cuda
def test_a_pack_finds_the_cards_that_torch_sees() -> None:
    assert len(find_cards()) == torch.cuda.device_count()
    assert find_cards()[0].total_bytes == torch.cuda.get_device_properties(0).total_memory
