"""Clients that train and have nothing to be tested on are told in a line, with the file, before training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ppfl.cli import main
from tests.supervised_problems import make
from tests.test_datasets import images, write
from tests.test_flat_data import write_flat

CONFIG = """\
name: notices
rounds: 1
problem:
  name: supervised
  dataset: {name: federated_hdf5, train: train.h5, test: test.h5, clients: {min_train: 5}}
  model: {name: logistic_regression}
  split: {local: []}
  batch_size: all
algorithm: {name: fedavg, lr: 0.1, epochs: 1}
"""


def told(caplog: pytest.LogCaptureFixture, dataset: dict[str, Any]) -> list[tuple[int, str]]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "ppfl"):
        make({
            "dataset": {"name": "federated_hdf5", **dataset}, "model": {"name": "logistic_regression"},
            "split": {"local": []},
        })  # fmt: skip
    return [(record.levelno, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize("writer", [write, write_flat], ids=["grouped", "flat"])
def test_who_has_no_test_samples(tmp_path: Path, caplog: pytest.LogCaptureFixture, writer: Any) -> None:
    train = writer(tmp_path / "train.h5", {name: images(6) for name in "abcde"} | {"z": images(0)})
    test = writer(tmp_path / "test.h5", {"a": images(2), "c": images(0), "new": images(2)})
    line = f"problem.dataset.test: {test}: 4 of 5 clients with training samples have no test samples: 'b', 'c', 'd', …"
    assert told(caplog, {"train": train, "test": test}) == [(logging.INFO, line)]
    few = writer(tmp_path / "few.h5", {"a": images(40), "b": images(3), "c": images(40)})
    line = f"problem.dataset.train: {few}: 1 of 3 clients with training samples have no test samples: 'b'"
    assert told(caplog, {"train": few}) == [(logging.INFO, line)]
    assert told(caplog, {"train": few, "test": few}) == []
    assert told(caplog, {"train": few, "test": 0}) == []


def test_files_without_a_common_client(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = write(tmp_path / "train.h5", {name: images(6) for name in "ab"})
    test = write(tmp_path / "test.h5", {name: images(6) for name in "AB"})
    line = f"problem.dataset.test: {test}: has no client in common with training, whose are 'a', 'b', …"
    assert told(caplog, {"train": train, "test": test}) == [(logging.WARNING, line)]


def test_notices_stand_on_standard_error_and_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PPFL_DATA", raising=False)
    write(tmp_path / "train.h5", {"a": images(6), "b": images(6), "c": images(4)})
    write(tmp_path / "test.h5", {"a": images(6)})
    Path("config.yaml").write_text(CONFIG)
    done = CliRunner().invoke(main, ["run", "config.yaml"], prog_name="ppfl", catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (log,) = Path("results").rglob("*.log")
    for text in (done.stderr, log.read_text()):
        lines = text.splitlines()
        assert "ppfl: problem.dataset.clients: 2 of 3 clients take part" in lines
        (notice,) = [line for line in lines if "no test samples" in line]
        assert notice.startswith(f"ppfl: problem.dataset.test: {tmp_path / 'test.h5'}: 1 of 2 clients with ")
