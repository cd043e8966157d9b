"""Mistakes of users: exit code 2 and one line that names the place, the value given and what is allowed."""

from __future__ import annotations

import resource
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import h5py
import pytest
from click.testing import CliRunner

from ppfl.cli import main

ROOT = Path(__file__).parent.parent
MPIEXEC = str(Path(sys.executable).with_name("mpiexec"))
QUADRATIC = """\
name: bad
seed: 0
rounds: 4
problem: {name: quadratic, generator: comparison, zeta: 1}
algorithm: {name: ffgg, lr: theory, fine_tuner: {name: conjugate_gradient, steps: 5}}
cohort: all
evaluate: {every: 2}
"""
SUPERVISED = """\
name: bad
rounds: 4
problem:
  name: supervised
  dataset: {name: digits, partition: {name: dirichlet, clients: 20, alpha: 0.3}}
  model: {name: mlp, hidden: [8]}
  split: {local: ["head.*"]}
  batch_size: 64
algorithm: {name: ffgg, lr: 0.1, fine_tuner: {name: sgd, lr: 0.1, batch_size: all}}
"""

FILES = {
    "CONFIG": "config.yaml", "GRID": "grid.yaml", "LIST": "list.yaml", "EMPTY": "empty.yaml", "BINARY": "binary.yaml",
    "HDF5": "other.h5",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A mistake: what is done, and what the line of the error says."""

    title: str
    action: str
    expected: tuple[str, ...]


def read_cases(section: str) -> list[pytest.ParameterSet]:
    """Return the cases of a section of bad_input.txt."""
    text = (ROOT / "tests" / "bad_input.txt").read_text(encoding="utf-8")
    (body,) = [part for part in text.split("\n== ") if part.startswith(f"{section}\n")]
    cases = []
    for block in body.split("\n# ")[1:]:
        title, action, *expected = block.strip("\n").split("\n")
        cases.append(Case(title, action, tuple(line.strip() for line in expected)))
    assert len({case.title for case in cases}) == len(cases)
    return [pytest.param(case, id=case.title) for case in cases]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PPFL_DATA", raising=False)
    return tmp_path


def assert_refused(arguments: list[str], *expected: str) -> None:
    before = sorted(Path.cwd().rglob("*"))
    done = CliRunner().invoke(main, arguments, prog_name="ppfl", catch_exceptions=False)
    lines = done.stderr.splitlines()
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("ppfl: error: ")
    for words in expected:
        assert words in lines[0]
    assert sorted(Path.cwd().rglob("*")) == before


def assert_file_refused(text: str, *expected: str) -> None:
    Path("config.yaml").write_text(text)
    for command in ("run", "grid"):
        assert_refused([command, "config.yaml"], "ppfl: error: config.yaml", *expected)


def changed(text: str, change: str) -> str:
    old, new = (side.replace("\\n", "\n").replace("\\t", "\t") for side in change.split(" => "))
    assert text.count(old) == 1
    return text.replace(old, "" if new == "(nothing)" else new)


@pytest.mark.parametrize("case", read_cases("quadratic"))
def test_in_a_file(folder: Path, case: Case) -> None:
    assert_file_refused(changed(QUADRATIC, case.action), *case.expected)


@pytest.mark.parametrize("case", read_cases("supervised"))
def test_in_a_supervised_file(folder: Path, case: Case) -> None:
    assert_file_refused(changed(SUPERVISED, case.action), *case.expected)


@pytest.mark.parametrize("case", read_cases("grid"))
def test_in_the_grid(folder: Path, case: Case) -> None:
    assert_file_refused(QUADRATIC + case.action, *case.expected)


@pytest.mark.parametrize("case", read_cases("command line"))
def test_on_the_command_line(folder: Path, case: Case) -> None:
    Path("config.yaml").write_text(QUADRATIC)
    Path("grid.yaml").write_text(QUADRATIC + "grid: {seed: [0, 1]}")
    Path("list.yaml").write_text("[1, 2]")
    Path("empty.yaml").write_text("")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    with h5py.File("other.h5", "w"):
        pass
    assert_refused([FILES.get(argument, argument) for argument in shlex.split(case.action)], *case.expected)


def test_there_are_many_cases() -> None:
    assert sum(len(read_cases(section)) for section in ("quadratic", "supervised", "grid", "command line")) >= 100


def test_the_unchanged_files_are_fine(folder: Path) -> None:
    for text in (QUADRATIC, SUPERVISED):
        Path("config.yaml").write_text(text)
        assert CliRunner().invoke(main, ["grid", "config.yaml"], catch_exceptions=False).exit_code == 0


@pytest.mark.parametrize(
    "launcher",
    [(), pytest.param((MPIEXEC, "-n", "2"), marks=pytest.mark.mpi)],
    ids=["one process", "two ranks"],
)
@pytest.mark.parametrize(
    ("change", "arguments", "expected"),
    [
        ("rounds: 4 => rounds: 0", ["run", "CONFIG"], "rounds: wrong value (given 0)"),
        ("rounds: 4 => rounds: 5", ["run", "CONFIG", "--sed", "1"], "No such option '--sed'"),
        ("rounds: 4 => rounds: [", ["grid", "CONFIG"], "not a YAML text"),
    ],
)
def test_in_real_processes(
    folder: Path, launcher: tuple[str, ...], change: str, arguments: list[str], expected: str
) -> None:
    config = folder / "config.yaml"
    config.write_text(changed(QUADRATIC, change))
    module = ["-m", "mpi4py", "-m", "ppfl"] if launcher else ["-m", "ppfl"]
    command = [*launcher, sys.executable, *module, *(str(config) if part == "CONFIG" else part for part in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    lines = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("ppfl: error: ")
    assert expected in lines[0]


MERGES = "".join(f"x{n}: &x{n}\n  <<: [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 9))
FACTORS = {"seed": range(1000), "problem.zeta": range(100), "algorithm.fine_tuner.steps": range(1, 101)}
HUGE = {
    "unknown keys": ("".join(f"k{number}: {number}\n" for number in range(300_000)), "config.yaml: and 299980 more"),
    "merges": (f"x0: &x0 {{a: 1}}\n{MERGES}", "holds more than 1000000 values, with those that aliases repeat"),
    "runs": (
        f"grid: {{{', '.join(f'{path}: {list(values)}' for path, values in FACTORS.items())}}}\n",
        "grid: 10000000 runs (1000 x 100 x 100); allowed: at most 100000 in one file",
    ),
}


def limit_what_is_used() -> None:
    """Seconds of computing, so that it does not matter what else a machine does, and address space."""
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))


@pytest.mark.parametrize("what", HUGE)
def test_what_nobody_can_mean_is_refused_with_little_time_and_memory(folder: Path, what: str) -> None:
    text, expected = HUGE[what]
    Path("config.yaml").write_text(QUADRATIC + text)
    command = [sys.executable, "-m", "ppfl", "grid", "config.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit_what_is_used)
    assert done.returncode == 2, (done.returncode, done.stderr[-300:])
    assert done.stdout == ""
    assert all(line.startswith("ppfl: error: config.yaml:") for line in done.stderr.splitlines())
    assert done.stderr.splitlines()[-1].endswith(expected)
