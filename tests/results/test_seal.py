"""Results and collections carry a checksum: what does not match is refused; other programs read them as before."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import xarray

from ppfl.core.errors import UserError
from ppfl.jobs.outcome import outline
from ppfl.jobs.states import state_of, states_of
from ppfl.results.layout import shared_path
from ppfl.results.quick_reader import FAILED, check, is_finished, kind_of
from ppfl.results.reader import open_result
from ppfl.results.recorder import look, set_aside
from ppfl.results.seal import DamagedError, seal_anew
from tests.conftest import MakeResult
from tests.grids import change, curve, fill, grid_file, ppfl

CONFIG = {"name": "trial", "seed": 0}


@pytest.fixture
def result(make_result: MakeResult) -> Path:
    return make_result("abc", CONFIG, curve(1.0))


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]


def test_a_changed_byte_anywhere_is_seen(result: Path) -> None:
    good = result.read_bytes()
    seal = good.index(b"ppfl result sha256")
    for position in [*range(0, len(good), 97), *range(seal - 40, seal + 90)]:
        result.write_bytes(flipped(good, position))
        if position in range(20, 24):  # says who has it open
            continue
        found = outline(result)
        assert (found.status, found.has_file) == (FAILED, False), position
        assert not is_finished(result)
    with pytest.raises(DamagedError, match="checksum does not match"):
        open_result(result)
    result.write_bytes(good[:-1])
    with pytest.raises(DamagedError, match="checksum does not match"):
        open_result(result)
    result.write_bytes(good)
    assert open_result(result).attrs["status"] == "complete"


def test_other_readers_read_it_and_leave_it_as_it_is(result: Path) -> None:
    good = result.read_bytes()
    with h5py.File(result, "a") as file:  # as notebooks open files that they only read
        assert file["rounds/operator_norm"][0] == 1.0
    assert result.read_bytes() == good
    with xarray.open_dataset(result, engine="h5netcdf", group="rounds") as rounds:
        assert rounds.operator_norm.sizes == {"round": 5}


def test_a_result_that_another_program_has_open_is_read(result: Path) -> None:
    with result.open("r+b") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)  # what HDF5 does
        assert look(result, "abc") == "already done"
        assert state_of(result).kind == "done"
        assert outline(result).status == "complete"
        assert open_result(result).attrs["digest"] == "abc"
    with h5py.File(result, "a"):
        assert look(result, "abc") == "already done"


def test_a_result_that_a_killed_program_had_open_is_as_it_was_written(result: Path) -> None:
    program = "import h5py, os, sys; file = h5py.File(sys.argv[1], 'a'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program, result], check=False).returncode == -9
    assert open_result(result).attrs["digest"] == "abc"
    assert look(result, "abc") == "already done"


def test_what_the_system_does_not_let_us_read_is_told_with_its_reason(tmp_path: Path) -> None:
    out = tmp_path / "r.h5"
    out.symlink_to(out)
    with pytest.raises(UserError, match=r"r.h5: exists and cannot be read: Too many levels of symbolic links"):
        look(out, "abc")
    with pytest.raises(UserError, match=r"r.h5: Too many levels of symbolic links"):
        open_result(out)
    assert "Too many levels of symbolic links" in outline(out).reason


def test_a_change_on_purpose_is_sealed_anew(result: Path) -> None:
    with h5py.File(result, "r+") as file:
        file.attrs["status"] = "diverged"
    with pytest.raises(DamagedError, match="changed after it was written"):
        open_result(result)
    assert look(result, "abc") == "damaged"
    seal_anew(result)
    assert open_result(result).attrs["status"] == "diverged"
    assert look(result, "abc") == "already done"


def test_a_result_without_the_checksum_that_it_had_is_refused(result: Path) -> None:
    with h5py.File(result, "r+") as file:
        del file.attrs["checksum"]
        file.attrs["results_version"] = 4
    with pytest.raises(DamagedError):
        open_result(result)


def test_a_damaged_result_without_a_checksum_makes_nobody_wait(result: Path) -> None:
    """HDF5 goes in circles in the heap of texts: those of version 3 are looked at before."""
    with h5py.File(result, "r+") as file:
        del file.attrs["checksum"]
        file.attrs["results_version"] = 3
    found = open_result(result)
    assert (found.attrs["results_version"], outline(result).status) == (3, "complete")
    content = bytearray(result.read_bytes())
    heap = content.index(b"GCOL\1")
    content[heap + 16 : heap + 32] = bytes(16)
    result.write_bytes(content)
    assert kind_of(result) is None
    for read in (open_result, check):
        with pytest.raises(UserError, match=r"cannot be read as HDF5 \(an object of the heap is damaged"):
            read(result)
    assert outline(result).status == FAILED


def test_an_unfinished_result_with_parameters_is_not_done(make_result: MakeResult) -> None:
    """A disk that was full at the last write leaves it so."""
    out = make_result("abc", CONFIG, curve(1.0), status="running")
    shared_path(out).write_bytes(b"")
    assert state_of(out).kind == "missing"
    assert states_of([out])[out].kind == "missing"


def test_a_damaged_result_is_set_aside_under_a_name_of_its_own(result: Path) -> None:
    good = result.read_bytes()
    names = []
    for _ in range(2):
        result.write_bytes(flipped(good, 3000))
        assert look(result, "abc") == "damaged"
        names.append(set_aside(result).name)
    assert names == ["abc.h5.damaged-1", "abc.h5.damaged-2"]
    assert look(result, "abc") == "new"


def test_a_newer_version_is_refused_by_all_readers(result: Path, make_result: MakeResult, tmp_path: Path) -> None:
    change(result, results_version=99)
    for read in (open_result, outline, lambda path: look(path, "abc")):
        with pytest.raises(UserError, match=r"results_version 99, this one reads up to \d+\); update ppfl"):
            read(result)
    assert state_of(result).kind == "missing"


def test_a_damaged_result_in_a_folder_does_not_stop_the_others(make_result: MakeResult, tmp_path: Path) -> None:
    cells = fill(make_result, grid_file(tmp_path, "{seed: [0, 1, 2]}"))
    path = tmp_path / f"{cells[1].digest}.h5"
    path.write_bytes(flipped(path.read_bytes(), 3000))
    found = ppfl("table", tmp_path, "--format", "csv", "--seeds")
    assert found.exit_code == 0, found.output
    assert f"left out, damaged: {path.name}" in found.output


def test_a_collection_has_one_too(make_result: MakeResult, tmp_path: Path) -> None:
    grid = grid_file(tmp_path, "{seed: [0, 1]}")
    fill(make_result, grid)
    out = tmp_path / "all.h5"
    assert ppfl("collect", grid, "--results", tmp_path, "--out", out).exit_code == 0
    good = out.read_bytes()
    assert ppfl("table", out).exit_code == 0
    for position in range(100, len(good), len(good) // 7):
        out.write_bytes(flipped(good, position))
        refused = ppfl("table", out)
        assert refused.exit_code == 2
        assert "does not match" in refused.output
