"""Configurations: what they mean, what they are called, and that reading them costs nothing."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic_core import PydanticCustomError

from ppfl.config.errors import ConfigError, show_value
from ppfl.config.grid import load_cells
from ppfl.config.run import Config, load, schema
from ppfl.config.yaml_file import parse_yaml
from ppfl.core.data_file import DataFile

QUADRATIC = """
name: comparison
seed: 0
rounds: 200
precision: float64
problem: {name: quadratic, generator: comparison, zeta: 1}
algorithm: {name: ffgg, lr: theory, fine_tuner: {name: conjugate_gradient, steps: 5, start: redraw}}
cohort: all
weights: uniform
server_optimizer: {name: sgd}
aggregator: {name: mean}
evaluate: {every: 10}
"""
SUPERVISED = """
name: heads
rounds: 60
problem:
  name: supervised
  dataset: {name: federated_hdf5, train: train.h5, test: test.h5}
  model: {name: cnn}
  split: {local: ["head.*"]}
  batch_size: 64
algorithm: {name: ffgg, lr: 0.1, fine_tuner: {name: gradient_descent, lr: 0.1, steps: 10}}
"""
DIGITS = "{name: digits, partition: {name: dirichlet, clients: 20, alpha: 0.3}}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PPFL_DATA", raising=False)
    (tmp_path / "train.h5").write_bytes(b"training samples")
    (tmp_path / "test.h5").write_bytes(b"test samples")
    (tmp_path / "quadratic.yaml").write_text(QUADRATIC)
    (tmp_path / "supervised.yaml").write_text(SUPERVISED)
    return tmp_path


def quadratic(folder: Path, *overrides: str) -> Config:
    return load(folder / "quadratic.yaml", overrides)


def supervised(folder: Path, *overrides: str) -> Config:
    return load(folder / "supervised.yaml", overrides)


def train_file(config: Config) -> DataFile:
    found: DataFile = config.problem.dataset.train  # type: ignore[attr-defined]
    return found


def test_the_examples_load_with_their_values(folder: Path) -> None:
    config = quadratic(folder)
    assert (config.rounds, config.precision, config.cohort) == (200, "float64", "all")
    assert config.algorithm.name == "ffgg"
    assert config.problem.seed == 0
    assert train_file(supervised(folder)) == DataFile(folder / "train.h5")
    assert supervised(folder, f"problem.dataset={DIGITS}").problem.model_dump()["dataset"]["partition"]["alpha"] == 0.3


def test_defaults_are_filled_in(folder: Path) -> None:
    config = supervised(folder)
    assert (config.seed, config.precision, config.weights, config.cohort) == (0, "float32", "uniform", "all")
    assert (config.server_optimizer.name, config.server_optimizer.lr, config.aggregator.name) == ("sgd", 1.0, "mean")
    assert (config.evaluate.every, config.evaluate.tuned.epochs, config.evaluate.tuned.fine_tuner) == (10, 5, None)
    assert (config.save.local, config.engine.clients_per_chunk, config.engine.device) == (False, None, "auto")


def test_a_config_cannot_be_changed(folder: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        quadratic(folder).rounds = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "override",
    [
        "seed=1", "rounds=201", "precision=float32", "problem.zeta=2", "problem.seed=1", "algorithm.lr=0.5",
        "algorithm.fine_tuner.steps=4", "algorithm.fine_tuner.start=warm", "cohort=8", "cohort=1.0", "weights=samples",
        "server_optimizer.lr=0.5", "server_optimizer={name: momentum}", "evaluate.every=5", "evaluate.tuned.epochs=1",
        "evaluate.tuned.fine_tuner={name: exact}",
    ],
)  # fmt: skip
def test_whatever_changes_results_changes_the_digest(folder: Path, override: str) -> None:
    assert quadratic(folder, override).digest != quadratic(folder).digest


@pytest.mark.parametrize(
    "override",
    [
        "name=other", "engine.device=cpu", "engine.clients_per_chunk=2", "save.local=true", "problem.zeta=1.0",
        "problem.zeta=1e0", "problem.seed=0", "problem.seed=null", "server_optimizer.lr=1", "evaluate.tuned.epochs=5",
        "evaluate={}",
    ],
)  # fmt: skip
def test_what_changes_nothing_leaves_the_digest(folder: Path, override: str) -> None:
    assert quadratic(folder, override).digest == quadratic(folder).digest


def test_the_seed_of_the_data_follows_the_run_unless_it_is_given(folder: Path) -> None:
    assert quadratic(folder, "seed=3").problem.seed == 3
    assert quadratic(folder, "seed=3").digest == quadratic(folder, "seed=3", "problem.seed=3").digest
    assert quadratic(folder, "seed=3", "problem.seed=0").problem.seed == 0


def test_one_is_a_client_and_one_point_zero_is_everybody(folder: Path) -> None:
    one, everybody = quadratic(folder, "cohort=1"), quadratic(folder, "cohort=1.0")
    assert type(one.cohort) is int
    assert type(everybody.cohort) is float
    assert one.digest != everybody.digest


def test_the_digest_is_the_hash_of_canonical_json(folder: Path) -> None:
    config = quadratic(folder)
    text = parse_yaml(config.to_yaml(), "text")
    for key in ("name", "engine", "save", "checkpoint"):
        del text[key]
    text["evaluate"]["tuned"]["fine_tuner"] = text["algorithm"]["fine_tuner"]
    assert text == config.scientific()
    assert len(config.digest) == 16
    assert set(config.digest) <= set("0123456789abcdef")


@pytest.mark.parametrize("name", ["quadratic", "supervised"])
def test_the_full_text_loads_again_as_the_same_run(folder: Path, tmp_path: Path, name: str) -> None:
    config = load(folder / f"{name}.yaml", ["cohort=1.0"])
    again = tmp_path / "elsewhere"
    again.mkdir()
    (again / "config.yaml").write_text(config.to_yaml())
    assert load(again / "config.yaml") == config
    assert load(again / "config.yaml").digest == config.digest


@pytest.mark.parametrize("name", ["1e3", "695e0514", "0o17", "25921e05", "0x1f", "yes", "null", "2001-01-01", "1_000"])
def test_names_that_look_like_numbers_stay_names(folder: Path, name: str) -> None:
    attackers = f"byzantine={{attack: {{name: label_flip}}, clients: ['{name}']}}"
    config = load(folder / "supervised.yaml", [f"name='{name}'", attackers])
    (folder / "again.yaml").write_text(config.to_yaml())
    assert load(folder / "again.yaml") == config


def test_a_data_path_that_is_not_utf8_is_read_back(folder: Path) -> None:
    old = folder / os.fsdecode(b"donn\xe9es")
    old.mkdir()
    (folder / "train.h5").rename(old / "train.h5")
    config = supervised(folder, f"problem.dataset.train={old / 'train.h5'}")
    (folder / "again.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load(folder / "again.yaml").digest == config.digest
    assert train_file(load(folder / "again.yaml")).path == old / "train.h5"


def test_a_key_of_thousands_of_parts_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--set: a key of more than 64 parts"):
        quadratic(folder, f"{'.'.join('a' * 3000)}=1")
    (folder / "quadratic.yaml").write_text(f"{QUADRATIC}grid:\n  ? {'.'.join(['seed'] * 3000)}\n  : [1]\n")
    with pytest.raises(ConfigError, match="unknown path"):
        load_cells(folder / "quadratic.yaml")


def test_of_thousands_of_findings_the_first_are_told_and_all_are_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[object] = []
    monkeypatch.setattr("ppfl.config.errors.closest", lambda word, _: looked_up.append(word))
    (folder / "quadratic.yaml").write_text(QUADRATIC + "".join(f"k{number}: {number}\n" for number in range(3000)))
    with pytest.raises(ConfigError) as raised:
        quadratic(folder)
    assert raised.value.lines[-1].endswith("and 2980 more")
    assert len(raised.value.findings) == 1000, "the rest is not worth its time"
    assert set(looked_up) == {f"k{number}" for number in range(20)}, "a suggestion costs more than all else"


def test_a_file_larger_than_any_configuration_is_not_read(folder: Path) -> None:
    (folder / "quadratic.yaml").write_bytes(b"#" * (9 << 20))
    with pytest.raises(ConfigError, match="is larger than 8 MiB"):
        quadratic(folder)


def test_a_long_value_is_shown_by_its_beginning(folder: Path) -> None:
    value = {"a": list(range(10**6)), "b": ["x: y", None, True, 1.0]}
    assert show_value(value) == "{a: [" + ", ".join(map(str, range(21))) + ", …"
    assert show_value({"b": value["b"]}) == "{b: ['x: y', null, true, 1.0]}"
    assert show_value([]) == "[]"


def test_minus_zero_is_zero_in_a_digest(folder: Path) -> None:
    assert quadratic(folder, "problem.zeta=-0.0").digest == quadratic(folder, "problem.zeta=0.0").digest


def test_data_files_count_by_content_and_not_by_path(folder: Path) -> None:
    before = supervised(folder).digest
    (folder / "copy.h5").write_bytes(b"training samples")
    assert supervised(folder, "problem.dataset.train=copy.h5").digest == before
    (folder / "train.h5").write_bytes(b"other training samples")
    assert supervised(folder).digest != before
    content = hashlib.sha256(b"other training samples").hexdigest()
    assert supervised(folder).scientific()["problem"]["dataset"]["train"] == {"sha256": content}


def test_data_files_are_looked_up_beside_the_config_then_in_ppfl_data(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in ("train.h5", "third.h5"):
        (shared / name).write_bytes(b"of PPFL_DATA")
    monkeypatch.setenv("PPFL_DATA", str(shared))
    monkeypatch.chdir(shared)
    assert train_file(supervised(folder)) == DataFile(folder / "train.h5")
    assert train_file(supervised(folder, "problem.dataset.train=third.h5")) == DataFile(shared / "third.h5")
    with pytest.raises(ConfigError) as raised:
        supervised(folder, "problem.dataset.train=none.h5")
    assert f"looked for {folder / 'none.h5'}, {shared / 'none.h5'}" in str(raised.value)


def test_paths_mean_what_they_mean_to_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`link/..` is where the folder itself lies, beside the configuration and in PPFL_DATA."""
    (tmp_path / "far" / "configs").mkdir(parents=True)
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "configs").symlink_to("../far/configs")
    for place in ("far", "near"):
        (tmp_path / place / "data.h5").write_text(place)
    monkeypatch.setenv("PPFL_DATA", str(tmp_path / "near" / "configs" / ".."))
    for folder, name in ((tmp_path / "near" / "configs", "../data.h5"), (tmp_path, "data.h5")):
        found = DataFile.find(name, folder)
        assert found.path.read_text() == "far"
        assert found.sha256 == hashlib.sha256(b"far").hexdigest()
    (tmp_path / "far" / "data.h5").unlink()
    with pytest.raises(
        PydanticCustomError, match=r"looked for .*/near/configs/\.\./data.h5, .*/configs/\.\./\.\./data"
    ):
        DataFile.find("../data.h5", tmp_path / "near" / "configs")


@pytest.mark.parametrize("name", ["~nobody-of-that-name/data.h5", "x" * 300, "a\0b", "train.h5/below.h5", "loop"])
def test_paths_that_cannot_be_are_refused(folder: Path, name: str) -> None:
    (folder / "loop").symlink_to("loop")
    with pytest.raises(PydanticCustomError, match="an existing, readable file"):
        DataFile.find(name, folder)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("-1.5e+2", -150.0), ("1", 1), ("-7", -7),
        ("012", 12), ("0x1f", 31), ("0o17", 15), ("true", True), ("no", "no"), ("on", "on"), ("null", None),
        ("~", None), ("", None), ("1_000", "1_000"), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"), ("'1'", "1"),
        ("1.2.3", "1.2.3"), ("e5", "e5"), (".inf", float("inf")), ("-.inf", float("-inf")),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    parsed = parse_yaml(text, "text")
    assert parsed == value
    assert type(parsed) is type(value)


def test_anchors_and_merges_work_and_stay_independent(folder: Path) -> None:
    text = QUADRATIC.replace("evaluate: {every: 10}", "x-tuner: &t {name: exact}\nevaluate: {tuned: {fine_tuner: *t}}")
    (folder / "quadratic.yaml").write_text(text)
    with pytest.raises(ConfigError, match="x-tuner: unknown key"):
        quadratic(folder)
    shared = "grid: {cases: [{algorithm.fine_tuner: &t {name: conjugate_gradient, steps: 1}},"
    (folder / "quadratic.yaml").write_text(QUADRATIC + shared + " {algorithm.fine_tuner: *t, seed: 1}]}")
    assert len(load_cells(folder / "quadratic.yaml")) == 2
    value = parse_yaml("a: &a {x: 1}\nb: {<<: *a, x: 2, y: 3}", "text")
    assert value == {"a": {"x": 1}, "b": {"x": 2, "y": 3}}


def test_overrides_make_missing_sections_and_leave_others_alone(folder: Path) -> None:
    config = supervised(folder, "evaluate.tuned.epochs=0", "problem.model={name: mlp, hidden: [8]}")
    assert config.evaluate.tuned.epochs == 0
    assert config.evaluate.every == 10
    assert config.problem.model_dump()["model"]["hidden"] == (8,)


def test_all_findings_are_reported_but_not_endlessly(folder: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        quadratic(folder, "rounds=0", "seed=-1", "problem.zeta=x")
    assert [finding.where for finding in raised.value.findings] == ["seed", "rounds", "problem.zeta"]
    with pytest.raises(ConfigError) as raised:
        quadratic(folder, *(f"key{number}=0" for number in range(50)))
    assert len(raised.value.lines) == 21
    assert raised.value.lines[-1].endswith("and 30 more")


def test_a_key_called_like_the_plug_in_does_not_lead_astray(folder: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        quadratic(folder, "problem.quadratic={zeta: 3}", "problem.zeta=-1")
    assert [(finding.where, finding.given) for finding in raised.value.findings] == [
        ("problem.zeta", -1), ("problem.quadratic", {"zeta": 3}),
    ]  # fmt: skip


def test_the_schema_takes_the_examples_and_refuses_what_the_models_refuse(folder: Path) -> None:
    validator = jsonschema.Draft202012Validator(schema())
    validator.check_schema(schema())
    grid = "grid: {seed: [0, 1], zip: [{rounds: [1, 2], algorithm.lr: [0.1, 0.2]}], cases: [{problem.zeta: 1}]}"
    for text in (QUADRATIC, SUPERVISED, QUADRATIC + grid):
        validator.validate(yaml.safe_load(text))
    for wrong in (QUADRATIC + "round: 3", QUADRATIC.replace("zeta: 1", "zeta: x"), QUADRATIC + "grid: {seed: []}"):
        assert not validator.is_valid(yaml.safe_load(wrong))


def test_every_key_of_the_schema_is_described() -> None:
    def undescribed(node: dict[str, Any], path: str) -> list[str]:
        return [
            f"{path}.{key}"
            for key, value in node.get("properties", {}).items()
            if key not in ("name", "zip", "cases") and not value.get("description")
        ]

    document = schema()
    assert [
        missing for path, node in [("", document), *document["$defs"].items()] for missing in undescribed(node, path)
    ] == []


CHECK_DEFERRED = """
import sys
from ppfl.cli import main
from ppfl.config.deferred import defer_torch
defer_torch()
main(["grid", sys.argv[1]], standalone_mode=False)
loaded = [name for name in sys.modules if name.startswith(("torch.", "numpy.", "mpi4py", "rich", "h5py"))]
assert not loaded, loaded
import torch, inspect
inspect.getmodule(sys._getframe())
assert "torch.nn" not in sys.modules
assert float(torch.ones(2).sum()) == 2.0   # now the real one
assert sys.modules["torch"].__version__ == torch.__version__ and "torch.nn" in sys.modules
import torch as again
assert again.Tensor is torch.Tensor
"""


def test_listing_a_grid_loads_neither_torch_nor_mpi(folder: Path) -> None:
    (folder / "quadratic.yaml").write_text(QUADRATIC + "grid: {seed: [0, 1]}")
    done = subprocess.run(
        [sys.executable, "-c", CHECK_DEFERRED, str(folder / "quadratic.yaml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert quadratic_digest_in(done.stdout, folder)


def quadratic_digest_in(text: str, folder: Path) -> bool:
    (folder / "quadratic.yaml").write_text(QUADRATIC)
    return quadratic(folder).digest in text


def test_the_fine_tuner_of_the_last_stage_is_the_algorithms_own_unless_it_is_given(folder: Path) -> None:
    own = "{name: conjugate_gradient, steps: 5, start: redraw}"
    assert quadratic(folder).digest == quadratic(folder, f"evaluate.tuned.fine_tuner={own}").digest
    assert quadratic(folder).digest != quadratic(folder, "evaluate.tuned.fine_tuner={name: exact}").digest
