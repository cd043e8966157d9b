"""The command line: its surface is frozen, its exit codes mean what the help says."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from ppfl.cli import main
from ppfl.core.errors import USER_ERROR
from ppfl.jobs.stopping import INTERRUPTED, STOPPED, STOPPED_ON_REQUEST
from ppfl.jobs.supervisor import Report
from ppfl.results.reader import open_result
from ppfl.runs.progress import Bar, Lines, Silent, choose_progress
from tests.conftest import MakeResult

TINY = """
name: tiny
rounds: 4
precision: float64
problem: {name: quadratic, generator: comparison, zeta: 1, rows: 30, shared_dimension: 4, local_dimension: 2}
algorithm: {name: ffgg, lr: theory, fine_tuner: {name: exact}}
evaluate: {every: 2}
"""
ROOT = Path(__file__).parent.parent
MPIEXEC = str(Path(sys.executable).with_name("mpiexec"))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def ppfl(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False, prog_name="ppfl")


SURFACE = {
    "data [OPTIONS] COMMAND [ARGS]...": {"--help": ""},
    "run [OPTIONS] CONFIG": {
        "--out": "FILE", "--set": "KEY.PATH=VALUE", "--deliver": "", "--cell": "DIGEST", "--help": "",
    },
    "pack [OPTIONS] CONFIG": {
        "--out": "FOLDER", "--set": "KEY.PATH=VALUE", "--jobs": "N", "--part": "K/N", "--no-wait": "",
        "--time-limit": "SECONDS", "--ranks-per-run": "R", "--help": "",
    },
    "status [OPTIONS] CONFIG|FOLDER": {
        "--results": "FOLDER", "--set": "KEY.PATH=VALUE", "--json": "", "--watch": "", "--help": "",
    },
    "stop [OPTIONS] CONFIG|RESULT|FOLDER|JOB": {
        "--set": "KEY.PATH=VALUE", "--cell": "DIGEST", "--results": "FOLDER", "--requeue": "", "--wait": "SECONDS",
        "--help": "",
    },
    "log [OPTIONS] RUN": {
        "--set": "KEY.PATH=VALUE", "--cell": "DIGEST", "--results": "FOLDER", "--try": "N", "--follow": "",
        "--help": "",
    },
    "submit [OPTIONS] CONFIG": {
        "--set": "KEY.PATH=VALUE", "--cell": "DIGEST", "--ranks": "N", "--nodes": "N", "--gpus-per-node": "N",
        "--ranks-per-gpu": "N", "--cpu": "", "--cpus-per-rank": "N", "--mem": "SIZE", "--time": "TIME",
        "--array": "N", "--partition": "NAME", "--account": "NAME", "--dry-run": "", "--help": "",
    },
    "grid [OPTIONS] CONFIG": {"--set": "KEY.PATH=VALUE", "--json": "", "--help": ""},
    "show [OPTIONS] FILE": {"--help": ""},
    "collect [OPTIONS] GRID": {
        "--out": "FILE", "--results": "FOLDER", "--set": "KEY.PATH=VALUE", "--clients": "", "--help": "",
    },
    "table [OPTIONS] SOURCE": {
        "--metric": "NAME", "--at": "WHEN", "--statistic": "NAME", "--seeds": "", "--worst": "KEY",
        "--format": "", "--out": "FILE", "--where": "KEY=VALUE", "--results": "FOLDER", "--set": "KEY.PATH=VALUE",
        "--help": "",
    },
    "hurt [OPTIONS] RESULT": {
        "--than": "OTHER", "--metric": "NAME", "--stage": "STAGE", "--than-stage": "STAGE", "--help": "",
    },
    "payments [OPTIONS] SOURCE...": {
        "--price": "C", "--loss": "NAME", "--deviators": "", "--format": "", "--out": "FILE", "--help": "",
    },
    "plot [OPTIONS] SOURCE": {
        "--out": "FIGURE", "--metric": "NAME", "--x": "", "--panel": "KEY", "--color": "KEY",
        "--where": "KEY=VALUE", "--results": "FOLDER", "--set": "KEY.PATH=VALUE", "--help": "",
    },
    "timing [OPTIONS] CONFIG": {"--set": "KEY.PATH=VALUE", "--out": "FILE", "--help": ""},
    "timeline [OPTIONS] SOURCE": {
        "--set": "KEY.PATH=VALUE", "--cell": "DIGEST", "--rounds": "N", "--out": "FIGURE", "--help": "",
    },
    "diagnose [OPTIONS] CONFIG|RESULT": {"--split": "GLOBS", "--rounds": "N", "--json": "FILE", "--help": ""},
    "verify [OPTIONS] FILE|FOLDER…": {"--help": ""},
    "doctor [OPTIONS]": {"--out": "FOLDER", "--help": ""},
    "ended [OPTIONS] CODE [COMMAND]...": {"--help": ""},
}  # fmt: skip


def test_commands_arguments_and_options_are_frozen() -> None:
    surface = {}
    for name, command in main.commands.items():
        text = ppfl(name, "--help").output
        usage = re.search(r"Usage: ppfl (.*)", text)
        options = re.findall(r"^  (--[a-z-]+)( [A-Z./=]+)?", text, re.MULTILINE)
        assert usage is not None
        assert command.help
        surface[usage.group(1)] = {option: value.strip() for option, value in options}
    assert surface == SURFACE


def test_help_and_version() -> None:
    text = ppfl("--help").output
    for name in (
        "run",
        "submit",
        "grid",
        "show",
        "diagnose",
        "doctor",
        "mpiexec -n N python -m mpi4py -m ppfl run CONFIG",
        "Exit codes",
    ):
        assert name in text
    assert ppfl("--version").output == "ppfl, version 0.1.0\n"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_says_what_every_exit_code_means(arguments: list[str]) -> None:
    _, _, told = " ".join(ppfl(*arguments).output.split()).partition("Exit codes: ")
    codes = dict(re.findall(r"(\d+) ([a-z].*?)(?=, \d|\. |$)", told))
    assert {0, USER_ERROR, 1, STOPPED, STOPPED_ON_REQUEST, INTERRUPTED} == set(map(int, codes))
    assert codes[str(STOPPED)].startswith("stopped by a signal with everything saved")


def test_a_run_writes_its_default_file_and_is_not_repeated(config: Path) -> None:
    first = ppfl("run", config)
    (out,) = config.parent.glob("results/tiny/*.h5")
    assert first.exit_code == 0
    assert first.stdout == f"complete: {out.relative_to(config.parent)}\n"
    result = open_result(out)
    assert (result.attrs["status"], result.attrs["digest"], result.config["rounds"]) == ("complete", out.stem, 4)
    assert result.rounds["round"].to_numpy().tolist() == [0, 2, 4]
    written = out.stat().st_mtime_ns
    second = ppfl("run", config)
    assert (second.exit_code, second.stdout) == (0, f"already done: {out.relative_to(config.parent)}\n")
    assert out.stat().st_mtime_ns == written


def test_out_and_set_and_cell_reach_the_run(config: Path, tmp_path: Path) -> None:
    config.write_text(TINY + "grid: {problem.zeta: [0, 10]}")
    cells = json.loads(ppfl("grid", config, "--json", "--set", "rounds=2").stdout)
    assert [cell["varying"] for cell in cells] == [{"problem.zeta": 0}, {"problem.zeta": 10}]
    digest = cells[1]["digest"]
    assert cells[1]["out"] == f"results/tiny/{digest}.h5"
    done = ppfl("run", config, "--cell", digest[:8], "--set", "rounds=2", "--out", tmp_path / "deep" / "r.h5")
    assert done.exit_code == 0, done.stderr
    result = open_result(tmp_path / "deep" / "r.h5")
    assert (result.attrs["digest"], result.config["rounds"], result.config["problem"]["zeta"]) == (digest, 2, 10.0)


def test_a_diverged_run_is_a_result_too(config: Path) -> None:
    momentum = "server_optimizer={name: momentum}"
    done = ppfl("run", config, "--set", "algorithm.lr=1000", "--set", momentum, "--set", "rounds=200", "--out", "d.h5")
    assert (done.exit_code, done.stdout) == (0, "diverged: d.h5\n"), done.stderr


def test_grid_lists_digests_and_what_varies(config: Path) -> None:
    config.write_text(TINY + "grid: {problem.zeta: [0, 10], cases: [{seed: 3}, {precision: float32}]}")
    text = ppfl("grid", config).stdout
    cells = json.loads(ppfl("grid", config, "--json").stdout)
    assert len(cells) == 4
    assert all(cell["digest"] in text for cell in cells)
    assert all(word in text for word in ("problem.zeta", "seed", "precision", "'float32'"))


def test_show_tells_config_metrics_provenance_and_status(make_result: MakeResult) -> None:
    path = make_result("00ff", {"name": "shown", "problem": {"zeta": 3.0}}, {"operator_norm": [0.5, 0.125]})
    text = ppfl("show", path).stdout
    for words in ("shown", "00ff", "complete", "problem.zeta", "3.0", "operator_norm", "0.125", "test_accuracy",
                  "personal", "q90", "0.8125", "commit", "0123456789ab", "L "):  # fmt: skip
        assert words in text, words


def test_show_tells_that_a_run_is_unfinished(make_result: MakeResult) -> None:
    path = make_result("00ff", {"name": "shown"}, {"loss": [0.5, 0.125]}, status="running")
    assert "unfinished" in ppfl("show", path).stdout


def test_doctor_looks_at_everything(tmp_path: Path) -> None:
    done = ppfl("doctor", "--out", tmp_path)
    assert done.exit_code == 0
    for words in ("Python", "torch", "GPUs", "MKL_CBWR", "MPI library", "mpiexec", "no launcher", "rank 0", "HDF5",
                  "CUBLAS_WORKSPACE", "Snakemake", "file locks", "work"):  # fmt: skip
        assert words in done.stdout, words


def test_doctor_says_what_to_do_about_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    done = ppfl("doctor", "--out", "/proc/self")
    assert done.exit_code == 2
    assert "choose a folder" in done.stdout


def test_doctor_survives_an_mpi_that_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    from ppfl.status import doctor

    monkeypatch.setattr(doctor, "_PROBE_MPI", "import os; os.abort()")
    diagnosis = doctor.mpi_library()
    assert (diagnosis.state, "-6" in diagnosis.finding, "mpich" in diagnosis.remedy) == ("warn", True, True)


def test_doctor_notices_locks_that_do_not_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ppfl.status import doctor

    monkeypatch.setattr(doctor.fcntl, "flock", lambda *_: None)
    assert doctor._file_locks(tmp_path).state == "warn"

    def no_locks(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(doctor.fcntl, "flock", no_locks)
    broken = doctor._file_locks(tmp_path)
    assert (broken.state, "HDF5_USE_FILE_LOCKING" in broken.remedy) == ("error", True)


@pytest.mark.mpi
def test_doctor_shows_all_ranks_once(tmp_path: Path) -> None:
    command = [MPIEXEC, "-n", "2", sys.executable, "-m", "mpi4py", "-m", "ppfl", "doctor", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [done.stdout.count(words) for words in ("rank 0", "rank 1", "MPI library", "2 rank(s)")] == [1, 1, 1, 1]


@pytest.mark.mpi
def test_an_error_after_mpi_started_is_told_once_and_ends_all_ranks(config: Path) -> None:
    out = config.with_name("r.h5")
    out.write_text("no result")
    command = [MPIEXEC, "-n", "3", sys.executable, "-m", "mpi4py", "-m", "ppfl", "run", str(config), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.count(f"ppfl: error: --out {out}: exists") == 1
    assert "Traceback" not in done.stderr


def test_a_failure_of_the_program_is_no_user_error(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> str:
        raise AssertionError("a mistake of ours")

    monkeypatch.setattr("ppfl.runs.experiment.run", broken)
    done = CliRunner().invoke(main, ["run", str(config)])
    assert done.exit_code == 1
    assert isinstance(done.exception, AssertionError)


def test_an_interrupt_is_code_130(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("ppfl.runs.experiment.run", interrupted)
    done = ppfl("run", config)
    assert (done.exit_code, "interrupted" in done.stderr) == (130, True)


def test_other_ranks_say_nothing(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setattr("ppfl.jobs.supervisor.fork_rank", lambda rank: Report())
    for command in (("grid", config), ("run", config, "--set", "rounds=0"), ("rum",), ()):
        done = ppfl(*command)
        assert (done.output, done.exit_code) == ("", 0 if command[:1] == ("grid",) else 2)


class Clock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_lines_are_rare_but_the_last_is_never_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(), io.StringIO()
    monkeypatch.setattr("ppfl.runs.progress.time", clock)
    lines = Lines(stream)
    lines.start(100)
    for round in range(0, 101, 10):
        lines.update(round, {"seconds": 1.0, "loss": 0.5, "operator_norm": 1 / (1 + round)})
        clock.now += 0.9
    for purpose in ("scoring", "final_stages"):
        lines.doing(purpose)
    lines.finish("complete", Path("r.h5"))
    assert stream.getvalue().splitlines() == [
        "ppfl: round 0/100, operator_norm 1",
        "ppfl: round 60/100, operator_norm 0.01639, 4 s left",
        "ppfl: round 100/100, operator_norm 0.009901, 0 s left, final stages …",
        "ppfl: complete after 9.9 s",
    ]


def test_a_terminal_gets_a_bar_and_only_on_rank_0() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    assert isinstance(choose_progress(1, stream), Silent)
    assert isinstance(choose_progress(0, io.StringIO()), Lines)
    bar = choose_progress(0, stream)
    assert isinstance(bar, Bar)
    bar.start(100)
    bar.update(50, {"loss": 0.25})
    bar.doing("scoring")
    bar.finish("complete", Path("r.h5"))
    assert "50/100" in stream.getvalue()
    assert "scoring …" in stream.getvalue()


def test_main_is_a_click_group_that_setuptools_can_call() -> None:
    assert isinstance(main, click.Group)
