"""The section `start`: which run it means, before anything has run, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from ppfl.config.errors import ConfigError
from ppfl.config.grid import load_cells
from ppfl.config.run import Config, load
from ppfl.results.parameters import save_shared
from tests.runs.started import personalized, problem, write


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def started(folder: Path, **start: Any) -> Config:
    return load(write(folder, "next", start=start))


def test_the_digest_of_the_other_run_is_known_before_it_has_run(tmp_path: Path) -> None:
    pre = load(write(tmp_path, "pre"))
    config = started(tmp_path, config="pre.yaml")
    assert config.start is not None
    assert config.start.run is not None
    assert config.start.digest_of_run == pre.digest
    assert config.start.run.result == (tmp_path / pre.default_out())
    assert config.digest != load("next.yaml", ["start=null"]).digest
    assert config.digest != load("next.yaml", ["start.set={rounds: 4}"]).digest
    assert config.digest == load("next.yaml", ["start.set={rounds: 3, save: {local: true}}"]).digest
    assert "start" not in load("next.yaml", ["start=null"]).to_yaml()


def test_a_run_by_its_configuration_and_by_its_result_is_the_same_start(tmp_path: Path) -> None:
    pre = load(write(tmp_path, "pre"))
    by_config = started(tmp_path, config="pre.yaml")
    assert started(tmp_path, result="anywhere.h5", digest=pre.digest).digest == by_config.digest
    save_shared(tmp_path / "moved.h5", {}, pre.digest)
    assert started(tmp_path, result="moved.h5").digest == by_config.digest
    assert started(tmp_path, config="pre.yaml", results="elsewhere").digest == by_config.digest


@pytest.mark.parametrize(
    "change", [{"only": ["head.*"]}, {"new": ["head.*"]}, {"names": {"a": "b"}}, {"deployed": True}]
)
def test_what_is_taken_is_part_of_the_digest(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path, "pre")
    assert started(tmp_path, config="pre.yaml", **change).digest != started(tmp_path, config="pre.yaml").digest


def test_values_of_its_grid_choose_and_others_are_set(tmp_path: Path) -> None:
    write(tmp_path, "pre")
    grid = {
        "seed": [0, 1],
        "cases": [{"algorithm": {"name": "fedavg", "lr": lr, "local_steps": 1}} for lr in (0.1, 0.2)],
    }
    write(tmp_path, "grid", start={"config": "pre.yaml"}, grid=grid)
    wanted = {cell.config.digest: cell.config for cell in load_cells("grid.yaml").values()}
    config = started(tmp_path, config="grid.yaml", set={"seed": 1, "algorithm.lr": 0.2})
    assert config.start is not None
    assert config.start.run is not None
    chosen = wanted[config.start.run.digest]
    assert (chosen.seed, chosen.algorithm.model_dump()["lr"]) == (1, 0.2)
    assert started(tmp_path, config="grid.yaml", cell=chosen.digest[:6]).digest == config.digest
    other = started(tmp_path, config="grid.yaml", set={"seed": 1, "algorithm.lr": 0.2, "rounds": 7}).start
    assert other is not None
    assert other.run is not None
    assert other.run.digest not in wanted
    assert other.run.arguments == (str(tmp_path / "grid.yaml"), "--set", "rounds=7", "--cell", other.run.digest)


def test_a_grid_of_starts_reads_each_configuration_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "pre")
    personalized(tmp_path, "next", start={"config": "pre.yaml"}, grid={"rounds": list(range(1, 30))})
    read: list[str] = []
    import ppfl.config.grid as module

    original = module.read_yaml
    monkeypatch.setattr(module, "read_yaml", lambda path: read.append(path.name) or original(path))  # type: ignore[func-returns-value]
    load_cells("next.yaml")
    assert read == ["next.yaml", "pre.yaml"]


def test_a_configuration_with_a_start_goes_to_another_process(tmp_path: Path) -> None:
    write(tmp_path, "pre")
    config = started(tmp_path, config="pre.yaml")
    again = pickle.loads(pickle.dumps(config))
    assert (again.digest, again.start) == (config.digest, config.start)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "start: .*exactly one of config, result, safetensors, not none"),
    "two": ({"config": "pre.yaml", "result": "r.h5"}, "exactly one of .*, not config and result"),
    "cell of a result": ({"result": "r.h5", "cell": "ab"}, "start.cell: .*nothing beside result: it belongs to config"),
    "no file": ({"config": "nix.yaml"}, "start.config: .*nix.yaml: cannot be read: No such file"),
    "no result": ({"result": "nix.h5"}, "start.result: .*a finished result with its parameters beside it"),
    "no tensors": ({"safetensors": "nix"}, "start.safetensors: .*an existing, readable file"),
    "a mistake there": ({"config": "pre.yaml", "set": {"rounds": 0}}, "pre.yaml: rounds: wrong value"),
    "one of a grid": (
        {"config": "grid.yaml"},
        r"start.cell: needed, since the file is a grid; allowed: \S+ \(seed=0\)",
    ),
    "none of a grid": ({"config": "grid.yaml", "set": {"seed": 9}}, "no run of its grid has seed: 9"),
    "itself": ({"config": "next.yaml"}, "starts from itself"),
    "deployed by nobody": ({"safetensors": "file", "deployed": True}, "start.deployed: .*a file has no clients"),
    "what is resolved": ({"config": "pre.yaml", "run": None}, "start.run: unknown key"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, what: str) -> None:
    write(tmp_path, "pre")
    write(tmp_path, "grid", problem=problem(), grid={"seed": [0, 1]})
    (tmp_path / "file").write_bytes(b"")
    start, message = WRONG[what]
    with pytest.raises(ConfigError, match=message) as found:
        started(tmp_path, **start)
    assert "\n" not in str(found.value)
