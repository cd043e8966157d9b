"""Classes of a notebook's cells."""

from __future__ import annotations

import linecache
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

import ppfl
from ppfl.config.errors import ConfigError
from ppfl.config.grid import load_cells
from ppfl.config.run import load
from ppfl.core.errors import UserError
from ppfl.core.plugins import PlugIn
from ppfl.interfaces.aggregator import Aggregator
from ppfl.jobs.launcher import launched_as
from ppfl.outside import cells
from ppfl.pack.budget import Budget
from ppfl.pack.command import pack
from ppfl.pack.run_queue import ONE_RANK
from tests.mpi.jobs import MPIEXEC
from tests.outside.sources import DOCUMENT, project, rule_called

MEAN = "return matrix.combine(torch.full((matrix.num_vectors,), 1 / matrix.num_vectors, dtype=torch.float64))"
MINE = {**DOCUMENT, "aggregator": {"name": "mine"}, "plugins": []}


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cells, "_registered", {})
    yield
    for name in [name for name in linecache.cache if name.startswith("<cell")]:
        del linecache.cache[name]


def run_cell(text: str, number: int = 1) -> dict[str, Any]:
    """Run a cell as notebooks do: in a module without file, its text kept where tracebacks find it."""
    name = f"<cell {number}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    module = types.ModuleType("__main__")
    exec(compile(text, name, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def rule(body: str = MEAN, name: str = "mine") -> str:
    return "import torch\n" + rule_called(name, body)


def test_a_cell_is_run_and_its_source_is_in_the_digest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown name \(given 'mine'\)"):
        ppfl.load(MINE)
    kind = run_cell(rule())["Mine"]
    assert ppfl.register(kind) is kind
    first = ppfl.load(MINE)
    assert type(first.aggregator) is kind
    tree = ppfl.run(first, tmp_path / "first.h5")
    assert "aggregators/mine" in tree["provenance"].attrs["plug_ins"]
    mean = ppfl.run({**MINE, "aggregator": {"name": "mean"}}, tmp_path / "mean.h5")
    assert abs(tree["rounds"].operator_norm - mean["rounds"].operator_norm).max() < 1e-12

    again = run_cell("x = 1\n\n\n" + rule(), 2)["Mine"]  # the same class, further down
    ppfl.register(again)
    assert type(ppfl.load(MINE).aggregator) is again
    assert ppfl.load(MINE).digest == first.digest
    ppfl.register(run_cell(rule("return 2 * matrix.combine(matrix.norms() * 0)"), 3)["Mine"])
    assert ppfl.load(MINE).digest != first.digest


def test_registering_renews_what_errors_say_is_allowed() -> None:
    wrong = {**MINE, "aggregator": {"name": "mime"}}
    with pytest.raises(ConfigError) as before:
        ppfl.load(wrong)
    ppfl.register(run_cell(rule())["Mine"])
    with pytest.raises(ConfigError) as after:
        ppfl.load(wrong)
    assert "mine" not in str(before.value).replace("given 'mime'", "")
    assert str(after.value).endswith("did you mean 'mine'?")


def test_a_class_of_a_file_may_be_registered_by_a_decorator() -> None:
    @ppfl.register
    class Mine(Aggregator):
        """(0, …, 0)."""

        name: Literal["mine"]

        def rule(self, matrix):  # type: ignore[no-untyped-def]
            return matrix.combine(matrix.norms() * 0)

    assert type(load_mine()) is Mine


def load_mine() -> PlugIn:
    return ppfl.load(MINE).aggregator


def test_what_is_no_plug_in_is_refused(tmp_path: Path) -> None:
    nameless = rule().replace('    name: Literal["mine"]\n', "")
    for text, expected in (
        ("class Mine: pass", "Mine: no plug-in; allowed: a subclass of Aggregator, Algorithm, "),
        ("Mine = 3", "3: no plug-in; allowed: "),
        (nameless, 'Mine: has no name; allowed: a field `name: Literal["..."]`'),
        (rule().replace('"mine"', '"krum"'), "Mine: aggregators has one called 'krum', which comes with ppfl"),
        (rule().replace("def rule", "def rules"), "Mine has no rule, which every Aggregator has to define"),
    ):
        with pytest.raises(UserError) as refused:
            ppfl.register(run_cell(text)["Mine"])
        assert expected in str(refused.value)
    unseen = run_cell(rule())["Mine"]
    del linecache.cache["<cell 1>"]
    with pytest.raises(UserError, match=r"Mine: has no source to be hashed; allowed: a class of a notebook's cell"):
        ppfl.register(unseen)


def test_a_folder_cannot_take_a_registered_name(tmp_path: Path) -> None:
    ppfl.register(run_cell(rule(name="smallest").replace("class Smallest", "class Mine"))["Mine"])
    with pytest.raises(
        ConfigError, match=r"smallest.py: aggregators has one called 'smallest', which is class Mine, registered"
    ):
        load(project(tmp_path))


def test_packs_refuse_it_and_say_what_to_do(tmp_path: Path) -> None:
    ppfl.register(run_cell(rule())["Mine"])
    found = load_cells(project(tmp_path, aggregator={"name": "mine"}, plugins=[], grid={"seed": [0, 1]}))
    with pytest.raises(UserError) as refused:
        pack(found, tmp_path / "packed", 1, lambda line: None, Budget(None), launched_as({}), ONE_RANK)
    assert str(refused.value) == (
        "class Mine, registered in this process, is not in others: put it into a file (aggregators/mine.py in a folder "
        "of `plugins:`); a pack has several processes"
    )
    assert not (tmp_path / "packed").exists()


@pytest.mark.mpi
def test_ranks_refuse_it_and_say_what_to_do(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import ppfl\n{rule()}\nppfl.register(Mine)\nfor scored in ppfl.rounds({MINE!r}):\n    pass\n")
    done = subprocess.run(
        [MPIEXEC, "-n", "2", sys.executable, "-m", "mpi4py", str(script)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode != 0
    assert (
        "SharedUserError: class Mine, registered in this process, is not in others: put it into a file" in done.stderr
    )
    assert subprocess.run([sys.executable, str(script)], cwd=tmp_path).returncode == 0
