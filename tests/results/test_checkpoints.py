"""Checkpoints on the disk: a damaged one, or one of another run, is refused with the reason; the one before is used."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import RESULTS_VERSION
from ppfl.core.agree import SharedUserError
from ppfl.core.snapshot import Snapshot
from ppfl.jobs.attempt import Caller
from ppfl.jobs.failures import read_failure
from ppfl.results import checkpoints as module
from ppfl.results.checkpoint_parts import read_entry, write_entry
from ppfl.results.checkpoints import Checkpoints
from ppfl.results.reader import open_result
from ppfl.results.seal import DamagedError
from ppfl.results.tensor_file import TensorFile, write_tensors
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.algorithms.cases import sections
from tests.engine.build import config
from tests.mpi.jobs import arrays, left_beside

KEPT = Path(__file__).parents[1] / "kept" / "version-3" / "stopped.h5.checkpoint"
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


def change_entry(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the entry says, with the checksum of what it says then."""
    entry = json.loads((folder / "current.json").read_text())
    del entry["checksum"]
    change(entry)
    write_entry(folder / "current.json", entry)


def lead_out(folder: Path) -> None:
    """Move a part out of its folder, and leave a link to it."""
    part = folder / "round-18" / "rank-0.safetensors"
    part.rename(folder.parent / "elsewhere")
    part.symlink_to(folder.parent / "elsewhere")


def lead_folder_out(folder: Path) -> None:
    (folder / "round-18").rename(folder.parent / "elsewhere")
    (folder / "round-18").symlink_to(folder.parent / "elsewhere")


NO_CHECKPOINT_HAS = "names files or numbers that no checkpoint has"
TAMPERED: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda entry: entry.update(folder="../round-18"), NO_CHECKPOINT_HAS),
    (lambda entry: entry.update(folder=["round-18"]), NO_CHECKPOINT_HAS),
    (lambda entry: entry.update(round=True, folder="round-True"), NO_CHECKPOINT_HAS),
    (lambda entry: entry.update(round=-1, folder="round--1"), NO_CHECKPOINT_HAS),
    (lambda entry: entry.update(parts=[]), NO_CHECKPOINT_HAS),
    (lambda entry: entry.update(parts={"name": 1}), NO_CHECKPOINT_HAS),
    (lambda entry: entry.update(num_ranks=10**12), NO_CHECKPOINT_HAS),
    (lambda entry: entry["parts"][0].update(name="/etc/passwd"), NO_CHECKPOINT_HAS),
    (lambda entry: entry["parts"][0].update(name="../../x.safetensors"), NO_CHECKPOINT_HAS),
    (lambda entry: entry["parts"][0].update(clients=[0]), NO_CHECKPOINT_HAS),
    (lambda entry: entry["parts"][0].update(clients=["0", "4"]), NO_CHECKPOINT_HAS),
    (lambda entry: entry["parts"][0].update(size=10**30), NO_CHECKPOINT_HAS),
    (lambda entry: entry["parts"][0].update(sha256=None), NO_CHECKPOINT_HAS),
]


@pytest.mark.parametrize(("change", "reason"), TAMPERED)
def test_an_entry_that_no_checkpoint_has_is_refused(
    tmp_path: Path, warnings: list[str], change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    folder = tmp_path / "r.h5.checkpoint"
    shutil.copytree(KEPT, folder)
    change_entry(folder, change)
    entry = json.loads((folder / "previous.json").read_text())
    identity = {name: entry[name] for name in ("digest", "results_version", "clients_per_chunk")}
    found = Checkpoints(tmp_path / "r.h5", identity, SoloCommunicator()).load(range(10))
    assert found is not None
    assert found.round == 50
    assert len(warnings) == 1
    assert reason in warnings[0]


@pytest.mark.parametrize(
    "content", [b"", b"[" * 10**6, b"null", b"[1]", b"7", b'"text"', b"\xff\xfe", b'{"checksum": {}}']
)
def test_an_entry_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "current.json").write_bytes(content)
    with pytest.raises(DamagedError):
        read_entry(tmp_path / "current.json")


@pytest.mark.parametrize("tamper", [lead_out, lead_folder_out])
def test_no_path_leads_out_of_the_folder(stopped: Path, warnings: list[str], tamper: Callable[[Path], None]) -> None:
    tamper(folder_of(stopped))
    assert go(stopped, 16) == ("stopped", [16])
    assert len(warnings) == 1
    assert "is damaged" in warnings[0]


def test_a_state_that_the_run_cannot_have_had_is_refused(
    stopped: Path, whole: dict[str, bytes], warnings: list[str]
) -> None:
    """Checksums that match say nothing about who wrote it."""
    part = folder_of(stopped) / "round-18" / "rank-0.safetensors"
    file = TensorFile(part)
    header = json.loads(file.metadata["state"])
    del header["numbers"]["limit"]
    tensors = file.read(header["names"])
    size, digits = write_tensors(part, tensors, tensors.__getitem__, {"state": json.dumps(header)})
    change_entry(folder_of(stopped), lambda entry: entry["parts"][0].update(size=size, sha256=digits))
    assert go(stopped) == ("complete", list(range(16, 30)))
    assert len(warnings) == 1
    assert "does not fit the run (KeyError" in warnings[0]
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


def test_a_checkpoint_of_chunks_as_they_were_computed_before_is_refused(tmp_path: Path, warnings: list[str]) -> None:
    """Several clients at once have had other last bits; one at a time has not."""
    out, chunks = tmp_path / "r.h5", {"clients_per_chunk": 2}
    go(out, 18, engine=chunks)
    (folder_of(out) / "previous.json").unlink(missing_ok=True)
    change_entry(folder_of(out), lambda entry: entry.pop("mapping"))
    assert go(out, engine=chunks)[1] == list(range(1, 30))
    assert any("its mapping is None, here it is batched" in line for line in warnings)


def test_a_checkpoint_of_other_results_is_refused(
    stopped: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppfl.runs.experiment.RESULTS_VERSION", 3)
    assert go(stopped)[1] == list(range(1, 30))
    assert f"its results_version is {RESULTS_VERSION}, here it is 3" in warnings[0]


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
    original = module.write_snapshot

    def refuse(path: Path, snapshot: Snapshot, *, with_numbers: bool) -> tuple[int, str]:
        if path.parent.name == "round-15":
            raise OSError(28, "No space left on device")
        return original(path, snapshot, with_numbers=with_numbers)

    monkeypatch.setattr(module, "write_snapshot", refuse)
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
