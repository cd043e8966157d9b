"""What a run says that it needs before it starts, and that it refuses what cannot fit."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from benchmarks import flops as by_hand
from ppfl.core.plugins import discover
from ppfl.interfaces.best_round import BestRound
from ppfl.interfaces.counting import SampleFlops, count_flops
from ppfl.networks.flops import flops_of_sample
from ppfl.networks.losses import CrossEntropy
from ppfl.networks.model import Stage, linear_stage
from ppfl.networks.network import Network
from ppfl.runs import needs
from ppfl.server_optimizers.sgd import Sgd
from tests import examples
from tests.engine.build import engine
from tests.grids import ppfl
from tests.supervised_problems import make

GD: dict[str, Any] = {"name": "gradient_descent", "steps": 3, "lr": 0.1}
SGD: dict[str, Any] = {"name": "sgd", "lr": 0.1, "batch_size": 6, "epochs": 3}
CNN: dict[str, Any] = {"name": "cnn", "kernel_size": 2, "channels": [4, 8], "hidden": 6, "padding": 0}
OPTIMIZER = Sgd(name="sgd")
S = 20


def method(name: str, **settings: Any) -> Any:
    return discover("ppfl.algorithms")[name].model_validate({"name": name, **settings})


def document(**changes: Any) -> dict[str, Any]:
    dataset = {"name": "digits", "partition": {"name": "dirichlet", "clients": 6, "alpha": 1.0}}
    problem = {
        "name": "supervised", "dataset": dataset, "model": {"name": "mlp", "hidden": [16]},
        "split": {"local": ["head.*"]}, "batch_size": 8,
    }  # fmt: skip
    algorithm = {"name": "fedalt", "lr": 0.1, "epochs": 1, "fine_tuner": {**GD}}
    return {
        "name": "needs", "seed": 0, "rounds": 2, "cohort": 3, "problem": problem, "algorithm": algorithm,
        "evaluate": {"every": 1, "tuned": None}, **changes,
    }  # fmt: skip


def run(folder: Path, **changes: Any) -> Any:
    path = folder / "needs.yaml"
    path.write_text(yaml.safe_dump(document(**changes)), encoding="utf-8")
    return ppfl("run", path, "--out", folder / "needs.h5")


@pytest.mark.parametrize(
    ("name", "settings", "wanted"),
    [
        ("fedavg", {"lr": 0.1, "epochs": 2, "batch_size": 6}, lambda layers: by_hand.fedavg(layers, 2)),
        ("ffgg", {"lr": 0.1, "fine_tuner": GD}, lambda layers: by_hand.ffgg(layers, ["head"], 3)),
        (
            "fedrep", {"lr": 0.1, "epochs": 2, "batch_size": 6, "fine_tuner": SGD},
            lambda layers: by_hand.alternating(layers, ["head"], 3, 2),
        ),
    ],
)  # fmt: skip
def test_operations_are_those_counted_by_hand(name: str, settings: dict[str, Any], wanted: Any) -> None:
    problem = make({"model": CNN, "split": {"local": [] if name == "fedavg" else ["head.*"]}})
    of_sample = problem.objective.flops_of_sample(problem.client_data.data(0, 0))
    assert of_sample is not None
    layers = by_hand.cnn_layers(CNN, side=8, num_classes=10)
    assert of_sample.prefix_forward + of_sample.suffix_forward == by_hand.forward(layers)
    assert count_flops(method(name, **settings), OPTIMIZER, of_sample, S)[0] == S * wanted(layers)


WHOLE_BATCHES = {"ffgg", "l2gd", "l2gd_theta", "local_ffgg", "local_gd", "pruned_ffgg"}
"""Methods without mini-batches."""


@pytest.mark.parametrize(
    ("name", "batches"),
    [(name, {}) for name in examples.names("algorithms")]
    + [(name, {"epochs": 2, "batch_size": 7}) for name in examples.names("algorithms") if name not in WHOLE_BATCHES],
)
def test_what_is_counted_is_what_a_method_reports(name: str, batches: dict[str, Any]) -> None:
    kind = examples.kind("algorithms", name)
    # some have mini-batches, and one step whatever they are
    batches = {key: value for key, value in batches.items() if key in kind.model_fields}
    settings = {**kind.example, "local_steps": None, **batches} if batches else kind.example
    algorithm = kind.model_validate({"name": name, **{key: x for key, x in settings.items() if x is not None}})
    of_theta, of_w = SampleFlops(0, 0, 0, 0, 1, 1), SampleFlops(0, 0, 0, 1, 0, 1)
    for of, only in (("shared_gradients", of_theta), ("local_gradients", of_w)):
        counted, report = count_flops(algorithm, OPTIMIZER, only, S)
        assert counted == pytest.approx(S * float(report.get(of, 0.0)))


def test_a_stage_that_looks_at_values_leaves_the_operations_out() -> None:
    looking = Stage("looking", {}, lambda params, x: x if float(x.sum()) > 0 else -x)
    network = Network.cut((looking, linear_stage("head", 3, 2, relu=False)), frozenset(), CrossEntropy())
    assert flops_of_sample(network, [], torch.ones(4, 3)) is None


def test_small_runs_say_nothing_and_large_ones_three_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = run(tmp_path)
    assert "a rank" not in small.output
    with h5py.File(tmp_path / "needs.h5") as file:
        before = {name: file[f"rounds/{name}"][...] for name in ("loss", "test_accuracy", "uplink_bytes")}
    for path in tmp_path.glob("needs.h5*"):
        path.unlink()
    monkeypatch.setattr(needs, "_LARGE_FLOPS", 0.0)
    large = run(tmp_path)
    lines = [line for line in large.output.splitlines() if "round 0" not in line]
    assert lines[0].startswith("ppfl: needs ")
    assert " a rank: " in lines[0]
    assert "states of 6 clients × 680 B = 4.08 kB: device" in lines[0]
    # θ of 64 · 16 + 16 numbers of four bytes, up and down for three clients
    assert lines[1].startswith("ppfl: a round: 3 client(s), 25 kB sent, ")
    assert "measured: " in large.output
    assert large.output.count("measured: ") == 1
    with h5py.File(tmp_path / "needs.h5") as file:
        for name, values in before.items():
            np.testing.assert_array_equal(values, file[f"rounds/{name}"][...])


def test_nothing_is_needed_of_what_is_shared_where_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "_LARGE_FLOPS", 0.0)
    split = {"local": ["head.*"], "frozen": ["hidden1.*"]}
    told = run(
        tmp_path,
        problem={**document()["problem"], "split": split},
        algorithm={"name": "ffgg", "lr": 0.1, "fine_tuner": GD},
    )
    assert told.exit_code == 0
    assert "3 client(s), 0 B sent" in told.output


def test_answers_at_query_points_are_work_and_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many gradients of θ as the ledger counts: 4 of 6 clients ask, of whom 3 · 4/6 are in a cohort on average."""
    told = {}
    monkeypatch.setattr(needs, "_LARGE_FLOPS", 0.0)
    for asking in ("all", 4):
        method = {"name": "interpolation", "lr": 0.1, "collaboration": 0.5, "main_clients": asking}
        document_ = document(algorithm=method, cohort="all" if asking == "all" else 3)
        engine_ = engine(**{key: value for key, value in document_.items() if key != "name"})
        told[asking] = needs.work_of(engine_.setup, engine_)
    theta = 8 * (64 * 16 + 16)
    assert told["all"].num_bytes == 2 * 6 * (6 + 1) * theta
    assert told[4].num_bytes == 2 * 2 * (3 + 1) * theta
    of_client = {asking: work.num_flops / work.clients for asking, work in told.items()}
    # a step of one's own beside 6 or 2 answers
    an_answer = (of_client["all"] - of_client[4]) / 4
    assert an_answer > 0
    assert of_client[4] > 2 * an_answer


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that this much memory, and this much of the disk, is free; and look whatever the size."""

    def of(host: float, disk: float = 1e15) -> None:
        monkeypatch.setattr(needs, "_WORTH_LOOKING_BYTES", 0)
        monkeypatch.setattr(needs, "free_host_bytes", lambda: host)
        monkeypatch.setattr(needs.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(disk))

    return of


# 1,210 parameters: 1,040 shared ones and the 170 of a head, 680 bytes
STATES, VECTORS = 6 * 680, 9 * 1210 * 4


@pytest.mark.parametrize(
    ("kind", "host", "disk", "said"),
    [
        ("device", STATES - 1, 1e15, "engine.client_state: device: a rank needs at least 4.08 kB, 4.08 kB are free"),
        ("host", STATES - 1, 1e15, "use engine.client_state: file, fewer ranks on a host, or"),
        ("device", STATES + VECTORS - 1, 1e15, "a round: a rank needs at least 47.6 kB, 47.6 kB are free"),
        ("file", VECTORS - 1, 1e15, "use fewer ranks on a host, a smaller model"),
        ("file", VECTORS, STATES - 1, "use a TMPDIR with more space than"),
        ("device", STATES + VECTORS, 1e15, ""),
        ("file", VECTORS, STATES, ""),
    ],
)
def test_what_cannot_fit_is_refused_in_a_line(
    kind: str, host: float, disk: float, said: str, tmp_path: Path, pretend: Any
) -> None:
    pretend(host, disk)
    ended = run(tmp_path, engine={"client_state": kind})
    if not said:
        assert ended.exit_code == 0, ended.output
        return
    assert ended.exit_code == 2
    (line,) = [line for line in ended.output.splitlines() if "needs at least" in line]
    assert said in line
    assert not (tmp_path / "needs.h5").exists()


def test_states_of_clients_that_never_take_part_need_nothing(tmp_path: Path, pretend: Any) -> None:
    pretend(VECTORS + 2 * 680)
    assert run(tmp_path, rounds=2, cohort=1).exit_code == 0


@pytest.mark.parametrize(("kind", "what"), [("host", "host"), ("device", "card"), ("file", "")])
def test_with_a_card_states_are_where_they_are_kept(
    kind: str, what: str, pretend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pretended: four ranks share two cards, and what is in the file is on no card."""
    pretend(host=400.0)
    monkeypatch.setattr(needs, "free_gpu_bytes", lambda device: 100.0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    setup: Any = SimpleNamespace(
        device=torch.device("cuda", 0), client_state=kind, clients_per_chunk=3, num_rounds=9, asynchronous=None,
        best_round=None, cohort=SimpleNamespace(size=2), bytes_a_client=10,
        problem=SimpleNamespace(client_data=SimpleNamespace(clients=range(6))),
    )  # fmt: skip
    found = {(one.what, one.num_bytes): one.free_bytes for one in needs._demands(setup, 5, 4)}
    # two clients side by side: 6 vectors and 3 more for each of them
    assert found[("a round", 12 * 5)] == 50.0
    if what:
        assert found[(f"engine.client_state: {kind}", 60)] == {"host": 100.0, "card": 50.0}[what]
    else:
        assert found[("engine.client_state: file", 60)] == 1e15 / 4
    # those of the best round beside them
    setup.best_round = BestRound()
    assert (f"engine.client_state: {kind}", 120) in {(one.what, one.num_bytes) for one in needs._demands(setup, 5, 4)}
