"""Checkpoints on the disk: a damaged one, or one of another run, is refused with the reason; the one before is used."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ppfl.config import RESULTS_VERSION
from ppfl.core.agree import SharedUserError
from ppfl.experiment import run
from ppfl.place import Caller
from ppfl.progress import Silent
from ppfl.results import checkpoints as module
from ppfl.results.failures import read_failure
from ppfl.results.reader import open_result
from tests.algorithms.cases import sections
from tests.engine.build import config
from tests.mpi.jobs import arrays, left_beside

DOCUMENT = {
    **sections("scaffold_theta", "quadratic"),
    "problem": {**sections("scaffold_theta", "quadratic")["problem"], "clients": 4},
    "rounds": 30,
    "evaluate": {"every": 4, "tuned": {"epochs": 0}},
    "save": {"local": True},
    "checkpoint": {"every_seconds": None, "every_rounds": 5},
}


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What the library warns of."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Handler()
    logging.getLogger("ppfl").addHandler(handler)
    yield lines
    logging.getLogger("ppfl").removeHandler(handler)


def go(out: Path, stop_after: int | None = None, **sections: Any) -> tuple[str, list[int]]:
    """Run to the end, or until some rounds are done; return the status and the rounds that were computed."""
    rounds: list[int] = []

    def wants_stop() -> bool:
        return stop_after is not None and rounds[-1] >= stop_after

    caller = Caller(wants_stop=wants_stop, told=rounds.append)
    status = run(config(**{**DOCUMENT, **sections}), out, Silent(), caller=caller)
    return status, [number for number in rounds if number]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "r.h5"
    assert go(out)[0] == "complete"
    return arrays(out)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that was stopped after 18 rounds; the checkpoint before is of round 15."""
    out = tmp_path / "r.h5"
    assert go(out, 18) == ("stopped", list(range(1, 19)))
    assert sorted(path.name for path in folder_of(out).iterdir()) == [
        "current.json", "previous.json", "round-15", "round-18",
    ]  # fmt: skip
    return out


def folder_of(out: Path) -> Path:
    return out.with_name("r.h5.checkpoint")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 16
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_a_stopped_run_keeps_its_rows_and_goes_on(stopped: Path, whole: dict[str, bytes], warnings: list[str]) -> None:
    assert open_result(stopped).attrs["status"] == "running"
    assert open_result(stopped).rounds["round"].to_numpy().tolist() == [0, 4, 8, 12, 16]
    assert left_beside(stopped) == {".checkpoint"}
    assert go(stopped) == ("complete", list(range(19, 30)))
    assert arrays(stopped) == whole
    assert left_beside(stopped) == set()
    assert not warnings


@pytest.mark.parametrize(
    ("damage", "name", "reason"),
    [
        (flip, "round-18/rank-0.safetensors", "rank-0.safetensors has another checksum"),
        (truncate, "round-18/rank-0.safetensors", "bytes instead of"),
        (Path.unlink, "round-18/rank-0.safetensors", "No such file"),
        (flip, "current.json", "current.json of the checkpoints is damaged"),
        (truncate, "current.json", "current.json of the checkpoints is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_used(
    stopped: Path,
    whole: dict[str, bytes],
    warnings: list[str],
    damage: Callable[[Path], None],
    name: str,
    reason: str,
) -> None:
    damage(folder_of(stopped) / name)
    assert go(stopped, 23) == ("stopped", list(range(16, 24)))
    assert len(warnings) == 1
    assert reason in warnings[0]
    assert go(stopped) == ("complete", list(range(24, 30)))
    assert arrays(stopped) == whole


def test_the_good_one_stays_until_a_newer_one_is_there(stopped: Path, whole: dict[str, bytes]) -> None:
    """After falling back, a kill before the next checkpoint does not leave the damaged one alone."""
    flip(folder_of(stopped) / "round-18" / "rank-0.safetensors")
    go(stopped, 16)
    names = {"current.json", "previous.json", "round-15", "round-16"}
    assert {path.name for path in folder_of(stopped).iterdir()} == names
    flip(folder_of(stopped) / "current.json")
    assert go(stopped) == ("complete", list(range(16, 30)))
    assert arrays(stopped) == whole


def test_without_a_good_checkpoint_it_is_computed_anew(
    stopped: Path, whole: dict[str, bytes], warnings: list[str]
) -> None:
    for name in ("round-15", "round-18"):
        flip(folder_of(stopped) / name / "rank-0.safetensors")
    assert go(stopped) == ("complete", list(range(1, 30)))
    assert len(warnings) == 3
    assert "computed anew" in warnings[-1]
    assert arrays(stopped) == whole


def test_an_unfinished_checkpoint_is_no_checkpoint(stopped: Path, whole: dict[str, bytes]) -> None:
    """What a kill between the first part and the switch leaves."""
    shutil.copytree(folder_of(stopped) / "round-18", folder_of(stopped) / "round-20")
    flip(folder_of(stopped) / "round-20" / "rank-0.safetensors")
    (folder_of(stopped) / ".current.json.partial").write_text("{")
    assert go(stopped) == ("complete", list(range(19, 30)))
    assert arrays(stopped) == whole
    assert left_beside(stopped) == set()


def test_a_checkpoint_of_another_run_is_refused(stopped: Path, warnings: list[str]) -> None:
    stopped.unlink()
    assert go(stopped, seed=5) == ("complete", list(range(1, 30)))
    assert len(warnings) == 2
    assert all("is of another run: its digest is" in line for line in warnings)


def test_a_checkpoint_of_other_chunks_is_refused(stopped: Path, warnings: list[str]) -> None:
    """Bits depend on how many clients are computed together."""
    assert go(stopped, engine={"clients_per_chunk": 2}) == ("complete", list(range(1, 30)))
    assert all("its clients_per_chunk is 1, here it is 2" in line for line in warnings[:2])


def test_a_checkpoint_of_other_results_is_refused(
    stopped: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppfl.experiment.RESULTS_VERSION", 999)
    assert go(stopped)[1] == list(range(1, 30))
    assert f"its results_version is {RESULTS_VERSION}, here it is 999" in warnings[0]


def test_by_time(tmp_path: Path) -> None:
    out = tmp_path / "r.h5"
    go(out, 18, checkpoint={"every_seconds": 1e-9})
    previous = json.loads((folder_of(out) / "previous.json").read_text())
    assert previous["round"] == 17
    go(tmp_path / "none.h5", 18, checkpoint={"every_seconds": None})
    assert not (tmp_path / "none.h5.checkpoint" / "previous.json").exists()


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.h5"
    original = module._write_whole

    def refuse(path: Path, content: bytes) -> None:
        if path.parent.name == "round-15":
            raise OSError(28, "No space left on device")
        original(path, content)

    monkeypatch.setattr(module, "_write_whole", refuse)
    with pytest.raises(SharedUserError, match=r"rank-0.safetensors: cannot write the checkpoint .*No space left"):
        go(out)
    failure = read_failure(out)
    assert failure is not None
    assert "No space left" in failure.reason
    monkeypatch.undo()
    assert go(out) == ("complete", list(range(11, 30)))
    assert arrays(out) == whole
    assert left_beside(out) == set()


def test_an_exception_leaves_its_traceback_and_lets_go_of_the_result(tmp_path: Path) -> None:
    out = tmp_path / "r.h5"

    def told(done: int) -> None:
        if done == 7:
            raise RuntimeError("something broke")

    with pytest.raises(RuntimeError):
        run(config(**DOCUMENT), out, Silent(), caller=Caller(cell="zeta=1", told=told))
    failure = read_failure(out)
    assert failure is not None
    assert (failure.reason, failure.round, failure.cell) == ("RuntimeError: something broke", 7, "zeta=1")
    assert any("test_checkpoints.py" in line for line in failure.log_tail)
    assert left_beside(out) == {".failed.json", ".rank-0.log", ".checkpoint"}
    assert go(out)[0] == "complete"
    assert left_beside(out) == set()


def test_a_run_that_lost_its_claim_writes_nothing_more(tmp_path: Path) -> None:
    out = tmp_path / "r.h5"

    def told(done: int) -> None:
        if done == 7:
            out.with_name("r.h5.running.json").write_text(json.dumps({"token": "other", "pid": 1, "host": "elsewhere"}))

    with pytest.raises(SharedUserError, match=r"no longer ours.*elsewhere"):
        run(config(**DOCUMENT), out, Silent(), caller=Caller(told=told))
    assert read_failure(out) is None
    assert not (folder_of(out) / "round-10").exists()
    assert left_beside(out) == {".running.json", ".checkpoint"}
