"""The face for Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml

import ppfl
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.errors import ConfigError
from ppfl.config.run import load
from ppfl.core.errors import UserError
from ppfl.results.reader import open_result
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.mpi.jobs import MPIEXEC, arrays

DOCUMENT: dict[str, Any] = {
    "name": "face", "rounds": 6, "precision": "float64",
    "problem": {"name": "quadratic", "generator": "comparison", "clients": 4, "rows": 40, "shared_dimension": 5,
                "local_dimension": 2},
    "algorithm": {"name": "ffgg", "lr": "theory", "fine_tuner": {"name": "exact"}},
    "evaluate": {"every": 2, "tuned": {"epochs": 0}}, "save": {"local": True},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(DOCUMENT))
    return tmp_path


def test_files_mappings_and_texts_are_the_same_configuration(folder: Path) -> None:
    config = load(folder / "run.yaml")
    block, flow = yaml.safe_dump(DOCUMENT), yaml.safe_dump(DOCUMENT, default_flow_style=True, width=10_000)
    assert "\n" not in flow.strip()
    for given in (folder / "run.yaml", "run.yaml", DOCUMENT, block, flow.strip(), config):
        assert ppfl.load(given) == config
    changed = ppfl.load("run.yaml", {"algorithm.lr": 0.1, "seed": 3, "save": {}})
    assert changed == load(folder / "run.yaml", ["algorithm.lr=0.1", "seed=3", "save={}"])
    assert DOCUMENT["algorithm"]["lr"] == "theory"


def test_paths_are_relative_to_the_file_or_to_where_we_are(folder: Path) -> None:
    (folder / "inner").mkdir()
    document = {**DOCUMENT, "problem": {"name": "quadratic", "file": "data.h5"}}
    (folder / "inner" / "run.yaml").write_text(yaml.safe_dump(document))
    (folder / "inner" / "data.h5").write_bytes(b"data")
    assert ppfl.load("inner/run.yaml").problem.file.path == folder / "inner" / "data.h5"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"^the configuration: problem.file: .* looked for "):
        ppfl.load(document)


@pytest.mark.parametrize(
    ("config", "changes", "expected"),
    [
        ("nowhere.yaml", {}, "nowhere.yaml: cannot be read: No such file or directory"),
        ("a: [\n", {}, "the text:2: not a YAML text"),
        ("{a", {}, "the text:2: not a YAML text"),
        ("- a\n- b\n", {}, "the text: a mapping of keys to values is wanted, e.g. `rounds: 200` (given [a, b])"),
        ({**DOCUMENT, "rounds": 0}, {}, "the configuration: rounds: wrong value (given 0)"),
        ({**DOCUMENT, "grid": {"seed": [0, 1]}}, {}, "grid: wrong value (given {seed: [0, 1]}); allowed: no grid here"),
        (DOCUMENT, {"rounds.x": 1}, "changes: rounds.x: rounds has no keys of its own"),
        (DOCUMENT, {"sed": 1}, "sed: unknown key (given 1)"),
        ("checked", {"seed": 1}, "changes: a checked configuration stays as it is; allowed: changes of the file"),
    ],
)
def test_what_is_wrong_is_told_as_on_the_command_line(
    folder: Path, config: Any, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        ppfl.load(ppfl.load(DOCUMENT) if config == "checked" else config, changes)
    assert expected in refused.value.lines[0]


def test_a_run_is_what_the_command_runs(folder: Path) -> None:
    config = load("run.yaml")
    run(config, folder / "command.h5", Silent(), SoloCommunicator())
    tree = ppfl.run("run.yaml")
    out = folder / "results" / "face" / f"{config.digest}.h5"
    assert arrays(out) == arrays(folder / "command.h5")
    written = out.stat().st_mtime_ns
    assert ppfl.run(DOCUMENT).identical(tree)
    assert out.stat().st_mtime_ns == written  # was complete
    with pytest.raises(UserError, match=rf"holds run {config.digest}, this is run [0-9a-f]+"):
        ppfl.run({**DOCUMENT, "seed": 1}, out)


def test_a_result_is_a_tree(folder: Path) -> None:
    tree = ppfl.run(DOCUMENT, "run.h5")
    result = open_result(Path("run.h5"))
    assert isinstance(tree, xr.DataTree)
    assert (tree.name, tree.attrs) == ("face", result.attrs)
    groups = ("rounds", "clients", "summary", "stages", "arrivals", "losses", "newcomers")
    assert all(tree[name].to_dataset().identical(getattr(result, name)) for name in groups)
    assert set(tree.children) == {*groups, "problem", "seconds", "best_round", "provenance"}
    assert tree["seconds"].attrs == result.seconds
    assert tree["problem"].attrs == result.problem
    assert tree["best_round"].attrs == result.best_round == {}
    assert tree["provenance"].attrs == result.provenance
    with pytest.raises(UserError, match=r"run.yaml: .*give the .h5 file that a run wrote"):
        ppfl.open_result("run.yaml")


def test_rounds_are_the_scores_of_the_result_and_write_nothing(folder: Path) -> None:
    tree = ppfl.run(DOCUMENT, "run.h5")
    before = sorted(folder.rglob("*"))
    scores = list(ppfl.rounds(DOCUMENT))
    assert sorted(folder.rglob("*")) == before
    assert [scored.round for scored in scores] == tree["rounds"]["round"].to_numpy().tolist() == [0, 2, 4, 6]
    for name in tree["rounds"].data_vars:
        if not str(name).endswith("seconds"):
            found = np.array([{**scored.metrics, **scored.costs}[str(name)] for scored in scores])
            assert found.tobytes() == tree["rounds"][name].to_numpy().tobytes(), name
    with pytest.raises(ConfigError):
        ppfl.rounds({**DOCUMENT, "rounds": 0})  # before anybody iterates


@pytest.mark.mpi
def test_a_script_on_two_ranks(folder: Path) -> None:
    alone = ppfl.run(DOCUMENT, "alone.h5")
    (folder / "script.py").write_text(
        "import sys, ppfl\n"
        "tree = ppfl.run('run.yaml', 'ranks.h5')\n"
        "last = list(ppfl.rounds('run.yaml'))[-1]\n"
        "sys.stdout.write(f\"{tree['provenance'].attrs['num_ranks']} {last.metrics['operator_norm'].hex()}\\n\")\n"
    )
    done = subprocess.run(
        [MPIEXEC, "-n", "2", sys.executable, "-m", "mpi4py", "script.py"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"2 {float(alone['rounds'].operator_norm[-1]).hex()}"] * 2
    assert arrays(folder / "ranks.h5") == arrays(folder / "alone.h5")


def test_importing_it_loads_nothing_that_takes_time(tmp_path: Path) -> None:
    heavy = "{'torch', 'numpy', 'h5py', 'mpi4py', 'pydantic', 'xarray', 'ppfl.api'}"
    script = f"import sys, ppfl; dir(ppfl); found = {heavy} & {{*sys.modules}}; assert not found, found; ppfl.load"
    environment = os.environ | {"PYTHONPATH": str(Path(ppfl.__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        ppfl.laod  # type: ignore[attr-defined]  # noqa: B018
