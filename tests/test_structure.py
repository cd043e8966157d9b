"""Rules about the source that no linter checks."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ppfl

ROOT = Path(__file__).parent.parent
MAX_FILE_LINES = 400
MAX_TEST_FILE_LINES = 450
MAX_FUNCTION_LINES = 48
TEXT_SUFFIXES = ("", ".html", ".j2", ".json", ".md", ".py", ".sh", ".smk", ".toml", ".txt", ".yaml")
OUR_NAMES = {*ppfl.__all__, "plugins"}
"""What the package itself offers, and the entry points of plug-ins: no modules."""
FOLDERS = ("ppfl", "tests", "workflow", "benchmarks")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
LIBRARY = [path for path in SOURCES if path.is_relative_to(ROOT / "ppfl")]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_files() -> list[Path]:
    folders = (*FOLDERS, "configs", "docs", "profiles", "slurm")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    texts = [path for path in (*paths, *ROOT.iterdir()) if path.is_file() and path.suffix in TEXT_SUFFIXES]
    assert ROOT / "Makefile" in texts
    return texts


def test_there_is_something_to_check() -> None:
    assert len(LIBRARY) > 40


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= (MAX_FILE_LINES if path in LIBRARY else MAX_TEST_FILE_LINES)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_hdf5_is_written_in_results_alone(path: Path) -> None:
    # which tries whether a folder takes file locks, converts files of samples, and makes some up
    if path.parent.name == "results" or path.name in ("doctor.py", "_flatten.py", "tiny_hdf5.py"):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "h5py.File":
            mode = [ast.literal_eval(value) for value in node.args[1:2]]
            mode += [ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg == "mode"]
            assert mode in ([], ["r"]), f"line {node.lineno} opens an HDF5 file for writing"


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_no_global_randomness_and_no_unfinished_work(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for pattern in (r"\bmanual_seed\b", r"np\.random\.seed", r"import random\b", r"\bTODO\b", r"\bFIXME\b", r"pickle"):
        if pattern == "pickle" and "never pickle" in text:
            continue
        # what modules draw when they are built: torch's own state is put back
        if pattern == r"\bmanual_seed\b" and "random.fork_rng(" in text:
            continue
        found = re.search(pattern, text)
        assert not found, f"{found.group()!r} at character {found.start()}"


def test_files_name_no_machine() -> None:
    """No index of packages, no home folder; data folders come from PPFL_DATA, which CI alone sets."""
    # put together, or this file would be found
    forbidden = re.compile("|".join(["index" + "-url", "/ro" + "ot/", "/wo" + "rk/", "/ho" + "me/", "/sha" + "red"]))
    for path in text_files():
        found = forbidden.search(path.read_text(encoding="utf-8"))
        assert not found, f"{name_of(path)}: {found.group()}"


def modules_mentioned(text: str) -> set[str]:
    """`ppfl.room.module` and `ppfl/room/module.py` in a text, as paths; what follows the module is a name in it."""
    paths = set()
    for found in re.finditer(r"(?<![\w./-])ppfl((?:\.[a-z_][a-z_0-9]*)+)", text):
        path = ROOT / "ppfl"
        for name in found[1].removeprefix(".").split("."):
            if not path.is_dir() or (path == ROOT / "ppfl" and name in OUR_NAMES):
                break
            path = path / name if (path / name).is_dir() else path / f"{name}.py"
        paths.add(str(path.relative_to(ROOT)))
    return paths | set(re.findall(r"(?<![\w./-])ppfl/[\w/]+\.py", text))


def test_mentioned_modules_are_there() -> None:
    """In docstrings and pages: modules move, and no linter reads sentences."""
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for path in (*LIBRARY, *pages, *(ROOT / "workflow").rglob("*.smk")):
        missing = [name for name in modules_mentioned(path.read_text(encoding="utf-8")) if not (ROOT / name).exists()]
        assert not missing, f"{name_of(path)}: {missing}"
    assert modules_mentioned("`ppfl.core.nowhere.thing`, ppfl/gone.py") == {"ppfl/core/nowhere.py", "ppfl/gone.py"}
    assert modules_mentioned("`ppfl.core.rng.generator`, ppfl.load(path)") == {"ppfl/core/rng.py", "ppfl"}


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = list(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    pinned = {pin.replace("_", "-") for pin in pins}
    assert not [name for name in wanted if name.lower() not in pinned]
    assert pins["torch"] == "2.13.0"


@pytest.mark.parametrize("module", ["ppfl.config.run", "ppfl.config.grid"])
def test_configurations_are_read_without_torch_and_mpi(module: str, tmp_path: Path) -> None:
    script = (
        "import sys; from ppfl.config.deferred import defer_torch; defer_torch(); "
        f"import {module}; print(*(m for m in sys.modules if m in ('torch._C', 'mpi4py.MPI', 'h5py')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == []


def test_help_loads_nothing_that_computes(tmp_path: Path) -> None:
    heavy = "{'torch', 'numpy', 'h5py', 'mpi4py', 'pydantic'}"
    script = (
        f"import sys, ppfl.cli; ppfl.cli.main(['--help'], standalone_mode=False); assert not {heavy} & {{*sys.modules}}"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True, capture_output=True)


def test_one_process_needs_no_mpi(tmp_path: Path) -> None:
    script = "import sys, ppfl.runs.experiment, ppfl.comm.solo; print('mpi4py.MPI' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["False"]
