"""What of a plug-in is part of the digest of a run, and of its result."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import Config, load
from ppfl.config.scope import origins_in
from ppfl.outside.origin import ROOMS
from ppfl.results.reader import open_result
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.aggregators.tables import vectors
from tests.grids import ppfl as command
from tests.outside.sources import CHOICE, NUMBERS, SMALLEST, project, rule_called
from tests.ranks import client_matrix_of


def changed(text: str) -> str:
    return text + "\n# another file\n"


@pytest.mark.parametrize(
    "file", [("aggregators/smallest.py", SMALLEST), ("aggregators/_choice.py", CHOICE), ("numbers.py", NUMBERS)]
)
def test_a_file_and_what_it_imports_decide_the_digest(tmp_path: Path, file: tuple[str, str]) -> None:
    name, text = file
    before = load(project(tmp_path))
    config = project(tmp_path, {name: changed(text)})
    assert load(config).digest != before.digest
    # the class of before is what it was
    assert before.aggregator.rule.__code__ == type(before.aggregator).rule.__code__
    assert load(project(tmp_path, {name: text})).digest == before.digest


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("aggregators/__init__.py", "from . import _all"), ("__init__.py", ""),
        ("aggregators/_choice/__init__.py", CHOICE),
        ("aggregators/_all.py", "import os"),
    ],
)  # fmt: skip
def test_packages_that_are_passed_through_count_where_they_are(tmp_path: Path, name: str, text: str) -> None:
    files: dict[str, str | bytes] = {"aggregators/__init__.py": "from . import _all", "aggregators/_all.py": ""}
    before = load(project(tmp_path, files)).digest
    after = load(project(tmp_path, {**files, name: text})).digest
    assert (after == before) == (files.get(name) == text)


def test_what_a_run_does_not_use_leaves_its_digest(tmp_path: Path) -> None:
    config = project(tmp_path, {"aggregators/other.py": rule_called("other")})
    used, unused = load(config), load(config, ["aggregator={name: mean}"])
    project(tmp_path, {"aggregators/other.py": changed(rule_called("other"))})
    assert load(config).digest == used.digest
    assert unused.digest == load(config, ["aggregator={name: mean}", "plugins=[]"]).digest
    assert "plugins" not in unused.scientific()
    assert used.scientific()["plugins"].keys() == {"aggregators/smallest"}


def test_where_a_folder_is_does_not_matter(tmp_path: Path) -> None:
    here, there = (load(project(tmp_path / name)) for name in ("here", "there"))
    assert here.digest == there.digest
    assert type(here.aggregator) is not type(there.aggregator)


def test_the_full_text_loads_again_as_the_same_run(tmp_path: Path) -> None:
    config = load(project(tmp_path))
    (tmp_path / "again.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load(tmp_path / "again.yaml") == config
    assert load(tmp_path / "again.yaml").digest == config.digest
    assert "plugins" not in load(tmp_path / "again.yaml", ["aggregator={name: mean}", "plugins=[]"]).to_yaml()


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"r\xe8gles")
    config = load(project(folder))
    assert config.plugins == (folder / "rules",)
    (tmp_path / "again.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load(tmp_path / "again.yaml") == config


def test_what_is_executed_is_what_was_read(tmp_path: Path) -> None:
    config = load(project(tmp_path))
    project(tmp_path, {"numbers.py": "def one():\n    return 2.0\n"})
    rows = torch.from_numpy(vectors(5, 7, "generic"))
    found = config.aggregator.rule(client_matrix_of(SoloCommunicator(), rows))  # imports numbers.py now
    kept = rows[torch.linalg.vector_norm(rows, dim=1).argsort()[:4]]
    torch.testing.assert_close(found, kept.mean(dim=0))


def test_a_process_that_never_read_the_folder_has_its_plug_ins(tmp_path: Path) -> None:
    """As children of packs do; the files may be gone by then."""
    config = load(project(tmp_path))
    (tmp_path / "config.bin").write_bytes(pickle.dumps(config))
    (tmp_path / "rules" / "aggregators" / "smallest.py").unlink()
    read = "import pickle, sys; c = pickle.load(open(sys.argv[1], 'rb'))"
    script = f"{read}; print(c.digest, c.aggregator.f, c.scientific()['plugins'])"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "config.bin")], capture_output=True, text=True, check=True
    )
    identity = origins_in(config)["aggregators/smallest"].identity
    assert done.stdout.split(" ", 2) == [config.digest, "1", f"{{'aggregators/smallest': {identity}}}\n"]
    assert copy.copy(config) == copy.deepcopy(config) == config


def test_results_tell_their_plug_ins_and_are_read_without_them(tmp_path: Path) -> None:
    path = project(tmp_path)
    for file in (NUMBERS, changed(NUMBERS)):
        project(tmp_path, {"numbers.py": file})
        config = load(path)
        assert run(config, tmp_path / "results" / f"{config.digest}.h5", Silent(), SoloCommunicator()) == "complete"
    result = open_result(tmp_path / "results" / f"{config.digest}.h5")
    sha256 = origins_in(config)["aggregators/smallest"].identity["sha256"]
    assert result.provenance["plug_ins"] == f"aggregators/smallest ({sha256})"
    for file in sorted((tmp_path / "rules").rglob("*.py")):
        file.unlink()
    assert sha256 in command("show", result.path).stdout
    table = command("table", tmp_path / "results")
    assert "2 complete" in table.stdout
    assert "the results are of different versions of plug-in aggregators/smallest, do not compare" in table.stderr
    collected = command("collect", tmp_path / "results", "--out", tmp_path / "all.h5")
    assert collected.stderr.endswith("two of these runs have the same configuration; collect them apart\n")
    gone = command("diagnose", result.path)
    assert gone.exit_code == 2
    assert gone.stderr == (
        f"ppfl: error: {result.path}: plugins[0]: {tmp_path}/rules: has no plug-ins; "
        f"allowed: a folder with files in {', '.join(ROOMS)}\n"
    )


def test_configurations_without_plug_ins_never_look_for_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> dict[tuple[str, str], object]:
        raise AssertionError

    monkeypatch.setattr("ppfl.config.scope.installed", look)
    config = load(project(tmp_path), ["aggregator={name: mean}", "plugins=[]"])
    assert json.loads(json.dumps(config.scientific())) == config.scientific()
    assert isinstance(config, Config)
