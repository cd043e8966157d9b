"""`ppfl diagnose`: configurations, results, tables over splits, JSON, mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from ppfl.cli import main

DIGITS: dict[str, Any] = {
    "name": "digits",
    "rounds": 6,
    "problem": {
        "name": "supervised",
        "dataset": {"name": "digits", "partition": {"name": "iid", "clients": 4}},
        "model": {"name": "mlp", "hidden": [8]},
        "split": {"local": ["head.*"]},
        "batch_size": 16,
    },
    "algorithm": {"name": "ffgg", "lr": 0.1, "fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": 0.2}},
    "evaluate": {"every": 6, "tuned": {"epochs": 1}},
    "save": {"local": True},
}
QUADRATIC: dict[str, Any] = {
    "name": "quadratic",
    "rounds": 2,
    "problem": {"name": "quadratic", "generator": "comparison", "clients": 3, "rows": 60, "targets": "common"},
    "algorithm": {"name": "ffgg", "lr": "theory", "fine_tuner": {"name": "exact"}},
    "precision": "float64",
}


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return written(tmp_path / "digits.yaml", DIGITS)


@pytest.fixture
def quadratic(tmp_path: Path) -> Path:
    return written(tmp_path / "quadratic.yaml", QUADRATIC)


def written(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(document))
    return path


def ppfl(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False, prog_name="ppfl")


def splits_of(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["splits"]
    return found


def test_a_quadratic_is_exact_and_needs_no_training(quadratic: Path, tmp_path: Path) -> None:
    done = ppfl("diagnose", quadratic, "--json", tmp_path / "q.json")
    assert done.exit_code == 0, done.stderr
    assert "sharing theta, keeping w local: ρ = " in done.stdout
    assert "(exact): local steps, delays and robust aggregation should be safe" in done.stdout
    (split,) = splits_of(tmp_path / "q.json")
    assert split["rho"]["value"] < 1e-20
    assert (split["status"], split["rounds"], split["level"], split["gap"]) == ("exact", 0, "safe", None)


def test_a_table_over_splits(digits: Path, tmp_path: Path) -> None:
    arguments = ["--split", "head.*", "--split", "", "--split", "hidden1.*", "--split", "head.bias, hidden1.bias"]
    done = ppfl("diagnose", digits, *arguments, "--rounds", "3", "--json", tmp_path / "d.json")
    assert done.exit_code == 0, done.stderr
    found = splits_of(tmp_path / "d.json")
    assert [split["local"] for split in found] == [["head"], [], ["hidden1"], ["hidden1.bias", "head.bias"]]
    assert [split["shared"] for split in found][1:3] == [["hidden1", "head"], ["head"]]
    assert {split["rounds"] for split in found} == {3}
    verdicts = done.stdout.splitlines()[-4:]
    assert verdicts == [split["verdict"] for split in found]
    assert verdicts[0].startswith("sharing hidden1, keeping head local: ρ = ")
    assert len({split["rho"]["value"] for split in found}) == 4
    for column in ("ρ", "σ²(θ₀)", "σ²(θ̂)", "train loss", "test loss", "test accuracy"):
        assert column in done.stdout


def test_without_split_it_is_that_of_the_file(digits: Path, tmp_path: Path) -> None:
    assert ppfl("diagnose", digits, "--json", tmp_path / "own.json").exit_code == 0
    assert ppfl("diagnose", digits, "--split", "head.*", "--json", tmp_path / "said.json").exit_code == 0
    assert splits_of(tmp_path / "own.json") == splits_of(tmp_path / "said.json")


def test_a_result_is_diagnosed_as_its_configuration_is(digits: Path, tmp_path: Path) -> None:
    """Same θ̂, same w: the numbers agree to the last digit, once from memory and once from the saved parameters."""
    assert ppfl("run", digits, "--out", tmp_path / "r.h5").exit_code == 0
    done = ppfl("diagnose", tmp_path / "r.h5", "--json", tmp_path / "result.json")
    assert done.exit_code == 0, done.stderr
    assert ppfl("diagnose", digits, "--json", tmp_path / "config.json").exit_code == 0
    assert splits_of(tmp_path / "result.json") == splits_of(tmp_path / "config.json")


def test_what_clients_remember_is_no_part_of_the_samples(tmp_path: Path) -> None:
    """Laws of the training are those of the clients computed last, up to chunks and ranks; a result knows none."""
    phases = {"classes": [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]], "rounds": 3}
    problem = {**DIGITS["problem"], "phases": phases, "rehearsal": {"samples": 12}}
    config = written(tmp_path / "phases.yaml", {**DIGITS, "problem": problem})
    assert ppfl("run", config, "--out", tmp_path / "r.h5").exit_code == 0
    assert ppfl("diagnose", tmp_path / "r.h5", "--json", tmp_path / "result.json").exit_code == 0
    assert ppfl("diagnose", config, "--json", tmp_path / "config.json").exit_code == 0
    assert splits_of(tmp_path / "result.json") == splits_of(tmp_path / "config.json")


def test_a_result_without_local_parameters_starts_from_initial_ones(digits: Path, tmp_path: Path) -> None:
    assert ppfl("run", digits, "--out", tmp_path / "w.h5").exit_code == 0
    assert ppfl("run", digits, "--out", tmp_path / "r.h5", "--set", "save.local=false").exit_code == 0
    for name in "wr":
        assert ppfl("diagnose", tmp_path / f"{name}.h5", "--json", tmp_path / f"{name}.json").exit_code == 0
    (with_w,), (without,) = (splits_of(tmp_path / f"{name}.json") for name in "wr")
    assert with_w["rho"]["at_start"] == without["rho"]["at_start"]
    assert with_w["train_loss"] < without["train_loss"]


@pytest.mark.mpi
def test_two_ranks_tell_once_what_one_finds(digits: Path, tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    mpiexec = str(Path(sys.executable).with_name("mpiexec"))
    texts = []
    for ranks in (1, 2):
        command = [mpiexec, "-n", str(ranks), sys.executable, "-m", "mpi4py", "-m", "ppfl", "diagnose", str(digits)]
        out = str(tmp_path / f"{ranks}.json")
        done = subprocess.run(
            [*command, "--json", out], cwd=root, check=True, capture_output=True, text=True, timeout=120
        )
        texts.append((done.stdout, Path(out).read_bytes()))
    assert texts[0] == texts[1]
    assert texts[0][0].count("sharing hidden1, keeping head local") == 1


MISTAKES = [
    (["CONFIG", "--split", "tail.*"], ("--split 'tail.*'", "problem.split.local", "hidden1.weight")),
    (["CONFIG", "--split", "hidden1.*,head.*"], ("leaves nothing to share", "['*']")),
    (["CONFIG", "--rounds", "0"], ("--rounds", "x>=1")),
    (["CONFIG", "--rounds", "many"], ("--rounds", "many")),
    (["CONFIG", "--json", "FOLDER"], ("--json", "cannot be written")),
    (["CONFIG", "--json", "FOLDER/no/such.json"], ("--json", "cannot be written")),
    (["QUADRATIC", "--rounds", "5"], ("--rounds", "nothing to train", "θ*")),
    (["GRID"], ("grid", "no grid here")),
    (["FOLDER/nothing.yaml"], ("nothing.yaml", "cannot be read")),
    (["RESULT", "--split", "head.*"], ("--split", "not with a result")),
    (["RESULT", "--rounds", "2"], ("--rounds", "not with a result")),
    (["LOST"], ("lost.h5.shared.safetensors", "not found")),
    (["OTHER"], ("no result of ppfl",)),
]


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=lambda value: " ".join(value))
def test_mistakes_end_with_code_2_and_one_line(
    arguments: list[str], expected: tuple[str, ...], digits: Path, quadratic: Path, tmp_path: Path
) -> None:
    import h5py

    with h5py.File(tmp_path / "other.h5", "w"):
        pass
    written(tmp_path / "grid.yaml", {**DIGITS, "grid": {"seed": [0, 1]}})
    if arguments[0] in ("RESULT", "LOST"):
        assert ppfl("run", digits, "--out", tmp_path / "lost.h5", "--set", "rounds=1").exit_code == 0
        (tmp_path / "lost.h5.shared.safetensors").unlink()
    places = {"CONFIG": digits, "QUADRATIC": quadratic, "GRID": tmp_path / "grid.yaml", "OTHER": tmp_path / "other.h5",
              "RESULT": tmp_path / "lost.h5", "LOST": tmp_path / "lost.h5"}  # fmt: skip
    said = [str(places.get(word, word.replace("FOLDER", str(tmp_path)))) for word in arguments]
    done = ppfl("diagnose", *said)
    assert done.exit_code == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("ppfl: error: ")]
    assert len(lines) == 1, done.stderr
    for words in expected:
        assert words in lines[0]
    assert "Traceback" not in done.stderr


def test_parameters_of_another_shape_are_refused(digits: Path, tmp_path: Path) -> None:
    assert ppfl("run", digits, "--out", tmp_path / "r.h5").exit_code == 0
    wider = {**DIGITS, "problem": {**DIGITS["problem"], "model": {"name": "mlp", "hidden": [9]}}}
    assert ppfl("run", written(tmp_path / "wider.yaml", wider), "--out", tmp_path / "w.h5").exit_code == 0
    (tmp_path / "w.h5.shared.safetensors").replace(tmp_path / "r.h5.shared.safetensors")
    done = ppfl("diagnose", tmp_path / "r.h5")
    assert (done.exit_code, "shapes" in done.stderr) == (2, True)
