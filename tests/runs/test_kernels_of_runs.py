"""Runs under every column of the table of kernels: one mathematics, and a choice that a run keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import Config
from ppfl.core.communicator import Communicator
from ppfl.core.types import Params
from ppfl.engine.synchronous import Synchronous
from ppfl.jobs.attempt import Caller
from ppfl.networks import kernels
from ppfl.networks.kernels import Kernels
from ppfl.results.layout import shared_path
from ppfl.runs import assemble
from ppfl.runs.assemble import build
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.engine.build import config
from tests.networks.kernel_columns import EVERY_FORM, taking
from tests.ranks import on_ranks

torch.set_num_threads(1)

FFGG = {"name": "ffgg", "lr": 0.2, "fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": 0.1}}
FEDAVG = {"name": "fedavg", "lr": 0.1, "epochs": 1, "batch_size": 8}
METHODS = [(FFGG, ["head.*"]), (FEDAVG, [])]


def cnn(algorithm: dict[str, Any], local: list[str], **sections: Any) -> Config:
    problem = {
        "name": "supervised",
        "dataset": {"name": "digits", "partition": {"name": "dirichlet", "clients": 4, "alpha": 0.5}},
        "model": {"name": "cnn", "channels": [8, 16], "kernel_size": 3, "padding": 1, "hidden": 8},
        "split": {"local": local},
        "batch_size": 40,
    }
    return config(**{"problem": problem, "algorithm": algorithm, "rounds": 3, **sections})


def trained(configuration: Config, kernels: Kernels | None = None) -> Params:
    """Return θ after all rounds."""
    engine = Synchronous(build(configuration, SoloCommunicator()))
    if kernels is not None:
        objective = engine.setup.problem.objective
        object.__setattr__(objective._network, "kernels", kernels)  # type: ignore[attr-defined]
    list(engine)
    return engine.server["shared"]


def differ(one: Params, other: Params) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(("algorithm", "local"), METHODS, ids=["ffgg", "fedavg"])
def test_rounds_are_the_same_in_every_column_and_every_form(algorithm: dict[str, Any], local: list[str]) -> None:
    found = [trained(cnn(algorithm, local, engine={"kernels": name})) for name in kernels.names()]
    found += [trained(cnn(algorithm, local), taking(form)) for form in EVERY_FORM]
    vectorized = trained(cnn(algorithm, local, engine={"clients_per_chunk": 2})) if algorithm is FFGG else found[0]
    for other in (*found[1:], vectorized):
        assert differ(found[0], other) <= 1e-10


def test_vectorized_clients_compute_the_same_as_one_by_one() -> None:
    algorithm = {"name": "fedavg", "lr": 0.1, "local_steps": 2}
    one = trained(cnn(algorithm, []), taking("unfolded_rows"))
    assert differ(one, trained(cnn(algorithm, [], engine={"clients_per_chunk": 2}))) <= 1e-10


def test_the_choice_is_no_part_of_the_digest_and_stands_in_the_result(tmp_path: Path) -> None:
    chosen, other = cnn(FFGG, ["head.*"], engine={"kernels": "avx2"}), cnn(FFGG, ["head.*"])
    assert chosen.digest == other.digest
    for configuration, wanted in ((chosen, "avx2"), (other, kernels.of_this_processor())):
        out = tmp_path / f"{wanted}-{configuration.engine.kernels}.h5"
        assert run(configuration, out, Silent(), SoloCommunicator()) == "complete"
        with h5py.File(out) as file:
            assert file["provenance"].attrs["kernels"] == wanted


def test_all_ranks_take_what_rank_0_would(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(communicator: Communicator) -> str:
        return build(cnn(FFGG, ["head.*"]), communicator).kernels

    answers = iter(["avx512", "avx2"])
    monkeypatch.setattr(assemble, "of_this_processor", lambda: next(answers))
    assert on_ranks(2, chosen) == ["avx512"] * 2
    assert next(answers) == "avx2"  # nobody else asked


@pytest.mark.parametrize("began", kernels.names())
def test_a_run_that_goes_on_keeps_its_kernels_on_any_processor(
    began: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = cnn(FFGG, ["head.*"], precision="float32", checkpoint={"every_rounds": 1})
    out, whole = tmp_path / "r.h5", tmp_path / "whole.h5"
    monkeypatch.setattr(assemble, "of_this_processor", lambda: began)
    assert run(configuration, whole, Silent(), SoloCommunicator()) == "complete"
    assert run(configuration, out, Silent(), SoloCommunicator(), caller=Caller("", lambda: True)) == "stopped"
    notes = json.loads((tmp_path / "r.h5.checkpoint" / "current.json").read_text())["notes"]
    assert notes == {"kernels": began, "clients_per_chunk": "1"}
    other = next(name for name in kernels.names() if name != began)
    monkeypatch.setattr(assemble, "of_this_processor", lambda: other)
    asked = cnn(FFGG, ["head.*"], precision="float32", checkpoint={"every_rounds": 1}, engine={"kernels": other})
    assert run(asked, out, Silent(), SoloCommunicator()) == "complete"
    assert run(asked, tmp_path / "other.h5", Silent(), SoloCommunicator()) == "complete"
    with h5py.File(out) as file:
        assert file["provenance"].attrs["kernels"] == began
    parameters = [shared_path(file).read_bytes() for file in (out, whole, tmp_path / "other.h5")]
    assert parameters[0] == parameters[1] != parameters[2]
