"""`ppfl status` of a grid as a whole: folders of Snakemake's jobs, checkpoints, and what Slurm says of its queue."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from ppfl.cli import main
from ppfl.config.grid import load_cells
from ppfl.results.layout import checkpoint_path, running_path
from ppfl.status import queue
from tests.status.test_status import BASE


def ppfl(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False, prog_name="ppfl")


def told(*arguments: str | Path) -> dict[str, Any]:
    """Return what --json says, and its runs by digest."""
    found: dict[str, Any] = json.loads(ppfl("status", *arguments, "--json").stdout)
    return found | {"runs": {run["digest"]: run for run in found["runs"]}}


@pytest.fixture
def digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Be in a folder with a grid of six runs that nobody has begun."""
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text(yaml.safe_dump(BASE))
    running = Path("results/looked_at/running")
    running.mkdir(parents=True)
    return list(load_cells(Path("grid.yaml")))


def claim(result: Path, **facts: Any) -> None:
    mine = {"pid": os.getpid(), "host": platform.node(), "job": "17", "updated": time.time(), "rounds": 4}
    running_path(result).write_text(json.dumps({**mine, **facts}))


def checkpoint(result: Path, text: str) -> None:
    checkpoint_path(result).mkdir()
    (checkpoint_path(result) / "current.json").write_text(text)


def squeue(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Put a squeue on the path."""
    program = folder / "bin" / "squeue"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_runs_that_snakemake_has_begun_are_runs_of_the_grid(digests: list[str]) -> None:
    inside = Path("results/looked_at/running")
    claim(Path("results/looked_at") / f"{digests[1]}.h5", round=3)
    for begun in digests[1:3]:
        checkpoint(inside / f"{begun}.h5", '{"round": 2}')
    for source in ("grid.yaml", "results/looked_at"):
        found = told(source)
        assert {kind: found["counts"][kind] for kind in ("running", "stopped")} == {"running": 1, "stopped": 1}
        assert found["runs"][digests[1]]["out"] == str(inside / f"{digests[1]}.h5")
    assert "4 missing" in ppfl("status", "grid.yaml").stdout
    # the state that says more counts, wherever it is
    claim(Path("results/looked_at") / f"{digests[2]}.h5", round=4)
    assert told("grid.yaml")["counts"]["running"] == 2


def test_a_run_that_was_stopped_tells_from_where_it_goes_on(digests: list[str]) -> None:
    folder = Path("results/looked_at")
    checkpoint(folder / f"{digests[0]}.h5", '{"round": 3}')
    assert "3/4" in ppfl("status", "grid.yaml").stdout
    assert told("grid.yaml")["runs"][digests[0]]["goes_on_from"] == 3
    # begun again, and its claim has not been renewed yet
    claim(folder / f"{digests[0]}.h5", round=0)
    assert told("grid.yaml")["runs"][digests[0]]["round"] == 3


@pytest.mark.parametrize("text", ["", "[", "[]", '{"round": "x"}', '{"round": true}', "[" * 100_000, "\udcff"])
def test_a_checkpoint_that_makes_no_sense_is_no_reason_to_end(digests: list[str], text: str) -> None:
    result = Path("results/looked_at") / f"{digests[0]}.h5"
    checkpoint(result, "")
    (checkpoint_path(result) / "current.json").write_bytes(text.encode(errors="surrogateescape"))
    found = told("grid.yaml")["runs"][digests[0]]
    assert (found["state"], "goes_on_from" in found) == ("stopped", False)


def test_queued_jobs_are_shown_with_slurms_reason(
    digests: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = {
        "11": ("PENDING", "Resources", f"rule_experiment_wildcards_looked_at_{digests[0]}", tmp_path),
        "12": ("PENDING", "BeginTime", f"ppfl:looked_at:{digests[1]}", tmp_path),
        "13": ("PENDING", "Priority", "ppfl:looked_at", tmp_path),
        "14": ("RUNNING", "None", "rule_pack_wildcards_looked_at_1_2", tmp_path),
        # of others: of another folder, of another grid, of no run at all
        "15": ("PENDING", "Elsewhere", f"ppfl:looked_at:{digests[2]}", tmp_path / "other"),
        "16": ("PENDING", "Another", f"ppfl:other:{digests[3]}", tmp_path),
        "17": ("PENDING", "Unknown", "my comment", tmp_path),
    }
    lines = [f"{job}|{state}|{why}|a name|{comment}|{folder}" for job, (state, why, comment, folder) in jobs.items()]
    (tmp_path / "answer").write_text("\n".join(lines))
    squeue(tmp_path, monkeypatch, f"cat {tmp_path}/answer")
    checkpoint(Path("results/looked_at") / f"{digests[1]}.h5", '{"round": 2}')
    found = told("grid.yaml")
    queued = {digest: run["queued"] for digest, run in found["runs"].items() if "queued" in run}
    assert {digest: (job["job"], job["reason"]) for digest, job in queued.items()} == {
        digests[0]: ("11", "Resources"),
        digests[1]: ("12", "BeginTime"),
    }
    assert [job["job"] for job in found["jobs"]] == ["13", "14"]
    text = ppfl("status", "grid.yaml").stdout
    for words in ("PENDING (Resources)", "PENDING (BeginTime)", "job 13", "PENDING (Priority)", "2/4"):
        assert words in text, words
    assert not [why for why in ("Elsewhere", "Another", "Unknown") if why in text]
    # what somebody is at work on is no longer queued
    claim(Path("results/looked_at") / f"{digests[0]}.h5", round=1)
    assert "queued" not in told("grid.yaml")["runs"][digests[0]]


@pytest.mark.parametrize(
    "text",
    ["exit 1", "echo nonsense; printf '\\377|\\377\\n'", "exec sleep 1000", "echo '1|PENDING|x|x|x|'; sleep 1000"],
)
def test_a_slurm_that_does_not_answer_changes_nothing(
    digests: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(queue, "TIMEOUT_SECONDS", 0.3)
    squeue(tmp_path, monkeypatch, text)
    assert (told("grid.yaml")["counts"]["missing"], told("grid.yaml")["jobs"]) == (6, [])


@pytest.mark.parametrize("command", [("status",), ("table",), ("collect", "--out", "c.h5"), ("plot", "--out", "c.svg")])
def test_results_and_set_mean_the_same_everywhere(digests: list[str], command: tuple[str, ...]) -> None:
    changed = ("--set", "rounds=2")
    assert ppfl("pack", "grid.yaml", "--out", "elsewhere", *changed).exit_code == 0
    name, *options = command
    done = ppfl(name, "grid.yaml", "--results", "elsewhere", *changed, *options)
    assert (done.exit_code, "missing" in done.output) == (0, False), done.output
    without = ppfl(name, "grid.yaml", "--results", "elsewhere", *options)
    assert "6 missing" in without.output or "none of the results" in without.output
    assert ppfl("pack", "grid.yaml", "--set", "name=renamed").exit_code == 0
    done = ppfl(name, "grid.yaml", "--set", "name=renamed", *options)
    assert (done.exit_code, "missing" in done.output) == (0, False), done.output
    for given in (("--results", "x"), changed):
        refused = ppfl(name, "elsewhere", *given, *options)
        assert (refused.exit_code, "is for a configuration file" in refused.stderr) == (2, True)
