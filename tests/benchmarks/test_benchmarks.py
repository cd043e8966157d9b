"""Every workload runs with tiny sizes and says what it promises; times are never looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import aggregators, calibrate, collect, data, flops, pack, plain, scaling
from benchmarks.__main__ import main
from benchmarks.handover import write_runs
from benchmarks.report import KEYS, as_markdown
from benchmarks.training import FEMNIST_MODEL, MNIST20_MODEL
from benchmarks.workloads import SUMMARIES
from ppfl.config.grid import load_cells
from ppfl.core.plugins import discover
from ppfl.networks import kernels
from ppfl.networks.convolution_forms import FORMS
from ppfl.networks.processor import this_processor
from tests.grids import ppfl
from tests.workflow.test_readme import ROOT, commands_of

BY_COMMAND = ["femnist-fedalt", "mnist20-ffgg"]
"""What two ranks train, and the command of the chapter: tiny images and a tiny model are the same for all of them."""
TRAINING = [name for name in SUMMARIES if name.startswith(("mnist20-f", "femnist")) and name not in BY_COMMAND]
BY_CHAPTER = ["quadratic", "reductions"]
"""What two commands of the chapter measure."""
OTHERS = [name for name in SUMMARIES if name not in (*TRAINING, *BY_COMMAND, *BY_CHAPTER, "gpu")]
ON_A_CPU = "--device cpu --tiny"
"""Options of `gpu` in the chapter, with which tests/benchmarks/test_gpu.py has all of it done."""
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that does what the command does, in this process, which has loaded torch; ranks and plain ways
    have processes of their own all the same."""

    def call(workload: str, *arguments: str) -> dict[str, Any]:
        words = options(workload, tmp_path / "out.json", *arguments)
        monkeypatch.setattr(sys, "argv", ["benchmarks", *words])
        main()
        return answer(tmp_path / "out.json", workload, capfd.readouterr().out)

    return call


def options(workload: str, out: Path, *arguments: str) -> list[str]:
    return [workload, "--tiny", "--repetitions", "2", "--json", str(out), *arguments]


def answer(out: Path, workload: str, said: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(out.read_text())
    assert as_markdown(document) in said
    check_common(document, workload)
    return document


def check_common(document: dict[str, Any], workload: str) -> None:
    assert document["workload"] == workload
    assert set(KEYS) <= document.keys()
    assert {"ranks", "commit", "versions", "hardware", "command", "date", "rows"} <= document.keys()
    assert {"processor", "instruction_set", "l2_bytes", "l3_bytes"} <= document["hardware"].keys()
    assert f"({document['hardware']['instruction_set']}, L2 " in as_markdown(document)
    for row in document["rows"]:
        for number in (value for value in row.values() if isinstance(value, float)):
            assert np.isfinite(number), row
        assert row.get("repetitions", [0])


def check_training(document: dict[str, Any]) -> None:
    for row in document["rows"]:
        assert 0 <= row["difference_from_plain"] <= row["difference_in_steps"] <= 1e-10
        assert row["plain_ratio"] > 0
        assert row["plain_way"]
        assert len(row["repetitions"]) == 2
        # a pause of the machine while one sgemm is measured makes that fraction large, and the median with it
        assert 0 < min(repetition["fraction_of_sgemm"] for repetition in row["repetitions"]) < 2
        assert row["peak_bytes"] > 1e6
        assert row["microseconds_per_sample"] == pytest.approx(row["seconds_per_round"] / document["num_samples"] * 1e6)


@pytest.mark.slow
@pytest.mark.parametrize("workload", TRAINING)
def test_training_is_what_the_plain_way_does(run: Run, workload: str) -> None:
    document = run(workload, "--ranks", "1")
    check_training(document)
    assert len(document["rows"]) == (2 if workload.endswith("-ffgg") else 1)


@pytest.mark.mpi
def test_training_on_two_ranks(tmp_path: Path) -> None:
    """By the command."""
    words = options(BY_COMMAND[0], tmp_path / "out.json", "--ranks", "2")
    command = [sys.executable, "-m", "benchmarks", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    document = answer(tmp_path / "out.json", BY_COMMAND[0], done.stdout)
    assert document["ranks"] == 2
    check_training(document)


@pytest.mark.slow
@pytest.mark.parametrize("workload", OTHERS)
def test_other_workloads_run(run: Run, workload: str) -> None:
    clients = ["--clients", "40"] if workload == "memory" else []
    document = run(workload, "--ranks", "1", *clients)
    rows = document["rows"]
    if workload == "aggregators":
        assert {"name", "num_vectors", "dimension", "seconds", "extra_bytes", "ratio_to_sort"} <= rows[0].keys()
        assert rows[0]["target_ratio"] == pytest.approx(0.19 / 1.4 * 1.3)
    if workload == "neighbours":
        assert all(row["handed_bytes"] == row["by_hand_bytes"] == 0 and row["held"] == row["of"] for row in rows)
        of_edges = {row["graph"]: row["counted_bytes"] // row["message_bytes"] for row in rows}
        assert of_edges["ring"] == 2 * 8
        # a connected graph has at least the edges of a tree
        assert 2 * 7 <= of_edges["erdos_renyi"] <= of_edges["complete"] == 8 * 7
    if workload == "mnist20-accuracy":
        assert [row["name"] for row in rows] == ["float32", "bfloat16"]
        assert all(0 < row[f"{when}accuracy_percent"] <= 100 for row in rows for when in ("", "late_"))
        assert all(len(row["repetitions"]) == 2 for row in rows)
        assert all(row["wall_seconds"] > row["seconds_in_rounds"] > 0 for row in rows)
        assert all(
            one["wall_seconds"] > sum(one["spent_seconds"].values()) for row in rows for one in row["repetitions"]
        )
    if workload == "startup":
        assert [row["imports_torch"] for row in rows] == ["no", "no", "no", "yes"]
    if workload == "scaling":
        assert set(document["models"]) == {"quadratic", "cnn", "mlp"}
    if workload == "data":
        assert [row["variant"].partition(",")[0] for row in rows] == (["a group a client"] * 2 + ["flat"]) * 2
        for some in (rows[:3], rows[3:]):
            of_bytes, of_floats, flat = (sum(row["held_bytes_of_ranks"]) for row in some)
            # to train and to test on; bytes stay bytes
            assert of_bytes == flat == of_floats // 4 > 28 * 28 * some[0]["num_samples"]
        assert 0 <= 2 * rows[0]["num_samples"] - rows[3]["num_samples"] <= document["num_clients"]
        assert all(row["slowest_opening_seconds"] >= row["opening_seconds"] > row["hashing_seconds"] for row in rows)
    if workload == "million":
        sizes = [(row["clients"], row["cohort"], row["scored"]) for row in rows]
        assert sizes == [(20, 2, 2), (200, 20, 20), (2000, 100, 200)]
        assert all(row["peak_bytes"] >= row["largest_process_bytes"] > 1e6 for row in rows)
    if workload == "networks":
        assert [row["name"] for row in rows] == ["resnet18-adapters", "transformer-adapters"]
        assert all(row["clients"] == 25 and row["cohort"] == 10 for row in rows)
        # of the clients that took part, and of no other
        assert all(0 < row["stored_bytes"] < row["peak_bytes"] for row in rows)
        assert all(0 < row["gflop_per_round"] < row["samples_per_round"] for row in rows)
    if workload == "memory":
        assert [(row["clients"], row["cohort"]) for row in rows] == [(40, 4), (20, 4), (10, 4), (10, 2), (10, 8)]
        assert {row["num_local_parameters"] for row in rows} == {10_044}


@pytest.mark.parametrize("arguments", [["no-such-workload"], ["quadratic", "--ranks", "0"], []])
def test_what_cannot_be_measured_is_refused(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    if arguments == ["no-such-workload"]:
        assert all(name in done.stderr for name in SUMMARIES)


@pytest.mark.parametrize(("model", "num_classes"), [(MNIST20_MODEL, 10), (FEMNIST_MODEL, 62)])
def test_operations_are_those_that_torch_counts(model: dict[str, Any], num_classes: int) -> None:
    settings = {name: value for name, value in model.items() if name != "name"}
    network = plain.CNN(**settings, side=28, num_classes=num_classes)
    x, y = torch.rand(3, 1, 28, 28), torch.tensor([0, 1, 2])
    layers = flops.cnn_layers(model, 28, num_classes)

    def counted(local: tuple[str, ...] | None) -> float:
        for name, value in network.named_parameters():
            value.requires_grad_(local is None or name.startswith(local))
        with FlopCounterMode(display=False) as counter:
            torch.nn.functional.cross_entropy(network(x), y).backward()
        return counter.get_total_flops() / len(x)

    assert flops.fedavg(layers, 1) == counted(None)
    body = ("conv1", "conv2", "hidden")
    head_step = counted(("head",)) - flops.forward(layers[:-1])
    assert flops.ffgg(layers, ["head"], 10) == counted(body) + 10 * head_step
    assert flops.alternating(layers, ["head"], 1, 1) == counted(("head",)) + counted(body)


def test_a_round_of_mnist20_has_the_operations_of_the_literature() -> None:
    layers = flops.cnn_layers(MNIST20_MODEL, 28, 10)
    assert 52_492 * flops.fedavg(layers, 1) / 1e9 == pytest.approx(1293, rel=0.005)
    assert 52_492 * flops.alternating(layers, ["head"], 1, 1) / 1e9 == pytest.approx(1741, rel=0.005)
    assert [layer.flops for layer in flops.mlp_layers([4, 3, 2])] == [24, 12]


def test_a_plain_way_that_does_something_else_is_noticed(tmp_path: Path) -> None:
    from benchmarks.handover import difference

    start, after = {"a": torch.zeros(2), "b": torch.ones(2)}, {"a": torch.ones(2), "b": torch.ones(2) * 3}
    torch.save({"shared": start}, tmp_path / "handover.pt")
    torch.save(after, tmp_path / "handover.after")
    path = tmp_path / "handover.pt"
    assert difference(path, after) == {"difference_from_plain": 0, "difference_in_steps": 0}
    wrong = difference(path, {**after, "b": torch.ones(2) * 3.03})
    assert wrong["difference_from_plain"] == pytest.approx(0.01, rel=1e-3)
    assert wrong["difference_in_steps"] == pytest.approx(0.015, rel=1e-3)
    assert difference(path, start)["difference_in_steps"] == pytest.approx(1)


def test_the_plain_way_starts_in_a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.launch import plain_environment

    for name in ("MALLOC_TOP_PAD_", "PMI_RANK", "OMP_NUM_THREADS", "MKL_CBWR", "MPI_LOCALNRANKS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HOME", "/somewhere")
    environment = plain_environment()
    assert "HOME" in environment
    assert not any(name.startswith(("MALLOC", "PMI", "OMP", "MKL", "MPI")) for name in environment)


def test_a_calibrated_column_can_be_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["calibrate", "mine", "--shapes", "2", "--seconds", "0.01"])
    calibrate.main()
    column = kernels.parse("mine", yaml.safe_load(capsys.readouterr().out))
    assert column.processor == this_processor()
    assert [row.shape for row in column.rows] == calibrate.SHAPES[:2]
    images, others = column.rows
    assert not images.input_gradient
    assert others.forward.keys() == others.weight_gradient.keys() == others.input_gradient.keys() == FORMS.keys()
    for row in column.rows:
        assert all(time > 0 for time in (row.blocked, row.pooling, *row.forward.values()))


def test_every_rule_is_measured() -> None:
    measured = aggregators.cases()
    assert set(discover("ppfl.aggregators")) <= {name.rsplit(" + ")[-1] for name in measured}
    assert set(discover("ppfl.pre_aggregators")) <= {name.split(" + ")[0] for name in measured}
    for name, case in measured.items():
        case.rule(name).check(aggregators.NUM_VECTORS)


def test_the_cost_model_is_found_again() -> None:
    truth = scaling.Model(2e-3, 4e-8, 5e-4, 2e-9)
    rows: list[dict[str, Any]] = [
        {"ranks": ranks, "clients": clients, "width": width, "num_shared_parameters": 785 * width}
        for ranks in (1, 2, 4) for clients in (8, 16) for width in (64, 256, 1024)
    ]  # fmt: skip
    for row in rows:
        row["seconds_per_round"] = truth.seconds(row)
    found = scaling.fit(rows)
    assert [getattr(found, name) for name in scaling.TERMS] == pytest.approx([2e-3, 4e-8, 5e-4, 2e-9], rel=1e-6)
    for row in rows:
        row["residual"] = 0.0
    assert "as *ranks* grow" in scaling.describe("mlp", found, rows)


def test_data_is_made_up_where_it_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPFL_BENCHMARK_DATA", str(tmp_path / "nothing"))
    mnist = data.mnist20(tmp_path, 256)
    assert "synthetic" in mnist.source
    assert mnist.sizes == (256,) * 20
    femnist = data.femnist_shaped(tmp_path)
    assert "log-normal" in femnist.source
    assert len(femnist.sizes) == 50
    assert 7_000 < sum(femnist.sizes) < 13_000
    (tmp_path / "nothing").mkdir()
    lines = [",0", *(f"writer{size},{size}" for size in range(1, 100))]
    (tmp_path / "nothing" / "emnist_client_sizes_train.csv").write_text("\n".join(lines))
    assert data.femnist_shaped(tmp_path).sizes[::49] == (1, 99)


def test_the_chapter_names_every_workload() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name in (*SUMMARIES, *KEYS):
        assert f"`{name}`" in text, name


def workload_of(command: str) -> str:
    """Return the first argument of `python -m benchmarks`, or nothing."""
    return command.removeprefix("python -m benchmarks ").partition(" ")[0]


@pytest.mark.mpi
@pytest.mark.slow
def test_commands_of_the_chapter_work(tmp_path: Path) -> None:
    commands = commands_of(ROOT / "docs" / "benchmarks.md")
    commands.remove(f"python -m benchmarks gpu {ON_A_CPU} --json gpu.json")
    assert len(commands) >= 3
    # with what they say and find kept, to be looked at
    for position, command in enumerate(commands):
        if (name := workload_of(command)) in BY_CHAPTER:
            commands[position] = f"{command} --repetitions 2 --json {name}.json | tee {name}.md"
    bin_folder = str(Path(sys.executable).parent)
    script = "\n".join(["set -eo pipefail", f'export PATH="{bin_folder}:$PATH"', *commands])
    environment = ENVIRONMENT
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / "ffgg.json").read_text())
    assert document["workload"] == BY_COMMAND[1]
    assert len(document["rows"]) == 2
    check_training(document)
    quadratic, reductions = (
        answer(tmp_path / f"{name}.json", name, (tmp_path / f"{name}.md").read_text())["rows"] for name in BY_CHAPTER
    )
    assert quadratic[0]["difference_from_plain"] <= 1e-10
    assert quadratic[0]["gflops"] is None
    assert all(row["wire_bytes"] >= row["plain_wire_bytes"] for row in reductions)
    assert all(row["difference_from_plain"] < 1e-6 for row in reductions)


@pytest.mark.slow
def test_what_a_checkpoint_costs_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.checkpoint_cost", str(ROOT / "configs/test/digits.yaml"), "3"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert "1 rank(s)" in lines[0]
    assert lines[0].endswith("2 checkpoints")  # none after the last round
    assert [line.partition(":")[0] for line in lines[1:3]] == ["a checkpoint", "a question"]


def test_made_up_results_can_be_collected(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    collect.write_results(tmp_path / "results", 3)
    done = ppfl("collect", tmp_path / "results", "--out", tmp_path / "grid.h5")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("3 complete")


def test_the_plain_loop_over_many_runs_does_the_same(tmp_path: Path) -> None:
    """It stops by itself where θ is another one."""
    small = {**pack.BASE, "rounds": 5, "problem": {**pack.BASE["problem"], "clients": 2, "rows": 30}}
    config, handover = tmp_path / "grid.yaml", tmp_path / "handover.npz"
    config.write_text(
        yaml.safe_dump({**small, "grid": {"seed": [0, 1], "algorithm.lr": [0.01, 0.02]}}, sort_keys=False)
    )
    write_runs([cell.config for cell in load_cells(config).values()], handover)
    command = [sys.executable, "-m", "benchmarks.plain_pack", str(handover), "0", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0
    with np.load(handover) as file:
        arrays = {name: file[name] for name in file.files}
    assert arrays["problem"].tolist() == [0, 0, 1, 1]
    np.savez(handover, **{**arrays, "theta": 1.001 * arrays["theta"]})
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "computes something else" in done.stderr


@pytest.mark.slow
@pytest.mark.workflow
def test_packs_are_measured_beside_single_runs_a_workflow_and_a_plain_loop(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.pack", str(tmp_path / "pack"), "--runs", "4", "--naive", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert [row[1] for row in rows] == ["4", "4", "4", "4", "4", "1", "4"]
    assert float(done.stdout.rpartition("plain/packed: ")[2]) > 0
