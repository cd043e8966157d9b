"""`python -m benchmarks gpu`: all of it in a tiny size on the CPU, and what it makes of its rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_rounds
from benchmarks.__main__ import main
from benchmarks.gpu import Found, Part, in_a_process, judged, measure, summary
from benchmarks.gpu_checks import LARGEST, METHODS, same
from benchmarks.gpu_rounds import Rounds, counted, variants
from benchmarks.options import Options, Report
from benchmarks.report import as_markdown
from ppfl.jobs.owner import has_ended
from tests.benchmarks.test_benchmarks import ON_A_CPU, check_common

Row = dict[str, Any]
SCRIPT = Path(gpu.__file__).with_name("gpu_machine.sh")


@pytest.mark.mpi
@pytest.mark.slow
def test_all_of_it_runs_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "gpu", *ON_A_CPU.split(), "--json", str(out)])
    main()
    document = json.loads(out.read_text())
    assert as_markdown(document) in capfd.readouterr().out
    check_common(document, "gpu")
    tables = document["tables"]
    assert {row["what"] for row in tables["Ceilings"]} == {"matmul", "copy"}
    equal = tables["Equality with the CPU"]
    assert {(row["algorithm"], row["precision"]) for row in equal} == {(m, p) for m in METHODS for p in LARGEST}
    for row in [*equal, *tables["Determinism"]]:
        assert row.get("difference", 0) <= row.get("largest_allowed", 0)
        assert row.get("same_again", True)
        assert row.get("same_on_two_ranks", True)
        assert "not_run" not in row
    measured = {row["workload"]: row for row in document["rows"] if "seconds_per_round" in row}
    assert measured.keys() == gpu_rounds.WORKLOADS.keys()
    assert all(row["seconds_per_round"] > 0 for row in measured.values())


@pytest.mark.mpi
@pytest.mark.slow
def test_one_script_does_everything_on_a_bare_machine(tmp_path: Path) -> None:
    """Without wheels, where nothing is lacking, and on the CPU."""
    (tmp_path / "wheels").mkdir()
    environment = os.environ | {
        "PYTHON": sys.executable, "TMPDIR": str(tmp_path), "BENCHMARK_OPTIONS": ON_A_CPU,
    }  # fmt: skip
    command = [str(SCRIPT), "run", str(tmp_path / "wheels"), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert said.keys() == {"machine.txt", "tests.txt", "tests.xml", "gpu.json", "gpu.md", "gpu.err", "steps.txt"}
    assert "DOES NOT LOAD" not in said["machine.txt"]
    assert "skipped" in said["tests.txt"] or torch.cuda.is_available()
    assert as_markdown(json.loads(said["gpu.json"])) in said["gpu.md"]
    assert [line.partition(":")[0] for line in said["steps.txt"].splitlines()] == ["setup", "tests", "benchmark"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [([], "prepare FOLDER"), (["run", ".", "OUT", "no-such-step"], "allowed: setup, tests, benchmark")],
)
def test_the_script_says_what_it_is_given(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = subprocess.run([str(SCRIPT), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr


def test_what_there_is_no_time_for_is_said_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "MOST_SECONDS", 1.0)
    kept: list[Report] = []
    report = measure(Options(1, 1, tmp_path, tiny=True, device="cpu", save=kept.append))
    assert len(kept) == len(gpu.PARTS)
    assert kept[0].notes[0] == "ceilings: not run: time."
    assert report.notes[: len(gpu.PARTS)] == [f"{part.name}: not run: time." for part in gpu.PARTS]


def test_a_part_that_takes_too_long_is_ended_with_its_processes_and_its_rows_stay(tmp_path: Path) -> None:
    rows: list[Row] = []
    spec = {"part": "stays", "folder": str(tmp_path)}
    end = in_a_process(spec, rows.append, 3.0, "tests.benchmarks.slow_part")
    assert end == "ended after 3 s; not run: the rest, time"
    deadline = time.monotonic() + 10
    while not has_ended(rows[0]["child"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    rows.clear()
    end = in_a_process(spec | {"part": "fails"}, rows.append, 30.0, "tests.benchmarks.slow_part")
    assert end == "ended with exit code 3, what came before it stands"
    assert len(rows) == 1


def test_parts_are_within_eight_minutes() -> None:
    assert sum(part.seconds for part in gpu.PARTS) <= gpu.MOST_SECONDS < 8 * 60
    assert {part.name for part in gpu.PARTS if not part.table} == gpu_rounds.WORKLOADS.keys()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_says_how_it_can_be_tried(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--device cpu --tiny"):
        measure(Options(1, 1, tmp_path))


def test_what_matters_most_is_measured_first() -> None:
    found = list(variants(Rounds({}, 50, precisions=("float32", "tf32"), on_cpu=True)))
    assert [(one["clients_per_chunk"], one["precision"], one["deterministic"]) for one in found] == [
        (50, "float32", True), (50, "tf32", True), (50, "float32", False),
        (32, "float32", True), (32, "float32", False), (1, "float32", True), (1, "float32", False),
        (1, "float32", True),
    ]  # fmt: skip
    assert [one.get("device") for one in found] == [None] * 7 + ["cpu"]
    assert [one["clients_per_chunk"] for one in variants(Rounds({}, 20))] == [20, 20, 1, 1]


def rows_of(target: dict[str, float], seconds: dict[int, float]) -> list[Row]:
    return [
        {
            "workload": "w", "num_clients": 50, "clients_per_chunk": k, "precision": "float32", "deterministic": True,
            "seconds_per_round": value, "gflops": 30.0 / value, "target": target, "undetermined": [],
        }
        for k, value in seconds.items()
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "seconds", "meets"),
    [
        ({"most_seconds": 0.003}, {50: 0.003, 1: 0.1}, True),
        ({"most_seconds": 0.003}, {50: 0.0031}, False),
        ({"least_share_of_ceiling": 0.3}, {50: 1.0}, True),
        ({"least_share_of_ceiling": 0.3}, {50: 1.01}, False),
        ({"least_speedup_over_one": 10}, {50: 0.1, 1: 1.0}, True),
        ({"least_speedup_over_one": 10}, {50: 0.11, 1: 1.0}, False),
        ({"least_speedup_over_one": 10}, {50: 0.1}, None),
        ({}, {50: 0.1, 1: 1.0}, None),
    ],
)
def test_targets_are_of_all_clients_at_once(target: dict[str, float], seconds: dict[int, float], meets: Any) -> None:
    rows = rows_of(target, seconds)
    first, *others = [judged(row, rows, {"float32": 100.0}) for row in rows]
    assert first["meets_target"] is meets
    assert all(row["meets_target"] is None for row in others)
    words = [line for line in summary([first, *others], {}) if line.startswith("Target")]
    assert words == [] if meets is None else words[0].endswith("met." if meets else "missed.")


def test_speedup_is_over_one_client_at_a_time_with_the_same_kernels() -> None:
    found = Found()
    alone, together = rows_of({}, {1: 1.0})[0], rows_of({}, {50: 0.25})[0]
    for row in (together, alone, {**together, "deterministic": False}, {**together, "precision": "tf32"}):
        found.add(Part("w", 1), row)
    found.add(Part("ceilings", 1, "Ceilings"), {"precision": "float32", "gflops": 240.0})
    found.add(Part("ceilings", 1, "Ceilings"), {"facts": {"gpu": "a card"}})
    report = found.report()
    assert [row["speedup_over_one"] for row in report.rows] == [4.0, 1.0, None, None]
    assert [row["share_of_ceiling"] for row in report.rows] == [0.5, 0.125, 0.5, None]
    assert report.facts == {"gpu": "a card"}


def test_a_check_that_fails_is_told() -> None:
    tables = {
        "Equality with the CPU": [
            {"difference": 1e-11, "largest_allowed": 1e-10},
            {"difference": 1e-9, "largest_allowed": 1e-10},
            {"difference": float("nan"), "largest_allowed": 1e-10},
            {"not_run": "time"},
        ],
        "Determinism": [{"same_again": True, "same_on_two_ranks": False}],
    }
    rows = [{"undetermined": ["put_"], "workload": "w"}]
    assert summary(rows, tables) == [
        "Equality: 1 of 3 that could be compared are as near as allowed.",
        "Determinism: 0 of 1 that could be repeated have the same bytes.",
        "Without deterministic kernels in torch: put_.",
        "Not run: 1 rows, which say why.",
    ]


def test_bits_are_compared_as_far_as_there_are_any() -> None:
    one, other, failed = "sha256 1", "sha256 2", "benchmarks.gpu_checks on 2 rank(s) ended with exit code 1"
    assert same(one, one, one) == {"same_again": True, "same_on_two_ranks": True}
    assert same(one, other, one) == {"same_again": False, "same_on_two_ranks": True}
    assert same(one, one, failed) == {"same_again": True, "not_run": failed}
    assert same("UserError: no", one, failed) == {"not_run": "UserError: no"}


def test_kernels_are_told_from_copies() -> None:
    names = ["sgemm", "Memcpy DtoH (Device -> Pinned)", "Memcpy HtoD (Pageable -> Device)", "Memset (Device)", "add"]
    assert counted(names) == {"kernels": 2, "copies_to_host": 1}
