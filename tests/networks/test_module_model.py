"""`model: {name: module, from: …}`: its file decides the digest, goes along to other processes, and is run by none
that only reads configurations."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from ppfl.cli import main
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import load
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.ranks import on_ranks

MODELS = """\
from collections import OrderedDict

from torch import nn
from .helpers import hidden


def build(width, num_classes):
    return nn.Sequential(OrderedDict(
        conv=nn.Conv2d(1, 2, 3), relu=nn.ReLU(), flatten=nn.Flatten(), hidden=hidden(width), act=nn.Tanh(),
        head=nn.Linear(width, num_classes),
    ))


def fails():
    raise ValueError("not today")


def leaves():
    raise SystemExit("not here")


def normed(num_classes):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, num_classes))
"""
HELPERS = """\
from torch import nn


def hidden(width):
    return nn.Linear(72, width)
"""
CONFIG = """\
name: own
seed: 0
rounds: 3
precision: float64
problem:
  name: supervised
  dataset: {name: digits, partition: {name: iid, clients: 4}}
  model: {name: module, from: "my_models:build", arguments: {width: 5}}
  split: {local: ["head.*"]}
  batch_size: 8
algorithm: {name: ffgg, lr: 0.1, fine_tuner: {name: gradient_descent, steps: 2, lr: 0.1}}
cohort: all
evaluate: {every: 3}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "my_models.py").write_text(MODELS, encoding="utf-8")
    (tmp_path / "helpers.py").write_text(HELPERS, encoding="utf-8")
    (tmp_path / "own.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path / "own.yaml"


def arrays(out: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(out) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return {name: value for name, value in found.items() if "seconds" not in name and value.dtype.kind == "f"}


def test_same_bits_on_one_rank_and_on_two(path: Path, tmp_path: Path) -> None:
    config = load(path)
    assert run(config, tmp_path / "one.h5", Silent(), SoloCommunicator()) == "complete"
    assert on_ranks(2, lambda rank: run(config, tmp_path / "two.h5", Silent(), rank)) == ["complete"] * 2
    alone, together = arrays(tmp_path / "one.h5"), arrays(tmp_path / "two.h5")
    assert any(value.size for value in alone.values())
    assert all(np.array_equal(value, together[name], equal_nan=True) for name, value in alone.items())


def test_the_file_and_what_it_imports_decide_the_digest_and_its_place_does_not(path: Path, tmp_path: Path) -> None:
    before = load(path).digest
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("own.yaml", "my_models.py", "helpers.py"):
        (moved / name).write_bytes((tmp_path / name).read_bytes())
    assert load(moved / "own.yaml").digest == before
    (moved / "helpers.py").write_text(HELPERS + "\n# another file\n", encoding="utf-8")
    assert load(moved / "own.yaml").digest != before
    assert load(path, ["problem.model.arguments={width: 6}"]).digest != before


def test_the_full_text_loads_again_as_the_same_run(path: Path, tmp_path: Path) -> None:
    config = load(path)
    (tmp_path / "again.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load(tmp_path / "again.yaml").digest == config.digest


def test_another_process_has_the_file_as_it_was_read(path: Path, tmp_path: Path) -> None:
    config = load(path)
    (tmp_path / "config.bin").write_bytes(pickle.dumps(config))
    (tmp_path / "my_models.py").unlink()
    (tmp_path / "helpers.py").unlink()
    script = (
        "import pickle, sys; c = pickle.load(open(sys.argv[1], 'rb'));"
        "print(c.digest, *(stage.name for stage in c.problem.model.stages((1, 8, 8), 10)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "config.bin")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [config.digest, "conv", "relu", "flatten", "hidden", "act", "head"]


def test_reading_the_configuration_runs_nothing_of_it(path: Path, tmp_path: Path) -> None:
    (tmp_path / "my_models.py").write_text(MODELS + "\nraise SystemExit('imported')\n", encoding="utf-8")
    script = (
        "import sys; from ppfl.config.deferred import defer_torch; defer_torch(); from ppfl.config.run import load;"
        "load(sys.argv[1]).digest; print('torch._C' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("problem.model.from=my_models", "problem.model.from: .*e.g. my_models:build"),
        ("problem.model.from=none:build", "problem.model.from: .*looked for .*none.py"),
        ("problem.model.from=my_models:bild", "problem.model.from: .*has OrderedDict, nn, hidden, build, fails, "),
        ("problem.model.from=3", "problem.model.from: "),
        ("problem.model.from=my_models:fails", "problem.model.arguments: fails: got an unexpected keyword argument"),
        ("problem.model.arguments={}", "problem.model.arguments: build: missing a required argument: 'width'"),
        ("problem.model={name: module, from: 'my_models:fails'}", r"my_models.py: line 15: ValueError: not today"),
        ("problem.model={name: module, from: 'my_models:leaves'}", "my_models.py: line 19: SystemExit: not here"),
        ("problem.model={name: module, from: 'my_models:normed'}", "1 is a BatchNorm1d.*nn.GroupNorm"),
        ("problem.model.arguments={width: 5, num_classes: 3}", "module makes 3 of a sample; the task"),
        ("problem.split.local=[nothing.*]", "problem.split.local: 'nothing.\\*' matches no parameter; "),
        ("problem.model.buffers=kept", "problem.model.buffers: .*'refused', 'shared'|refused, shared"),
    ],
)  # fmt: skip
def test_what_does_not_work_is_told_in_one_line_before_training(path: Path, override: str, said: str) -> None:
    done = CliRunner().invoke(main, ["run", str(path), "--out", str(path.with_suffix(".h5")), "--set", override])
    assert done.exit_code == 2, done.output
    assert not path.with_suffix(".h5").exists()
    lines = [line for line in done.output.strip().splitlines() if "own.yaml" not in line or "problem" in line]
    assert re.search(said, " ".join(lines)), done.output
