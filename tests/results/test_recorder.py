"""The result file: named dimensions, never overwritten, readable after kill -9 at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray

from ppfl.core.errors import UserError
from ppfl.results import recorder as module
from ppfl.results.recorder import Recorder, prepare

NAMES = np.array(["anna", "björn", "çelik"], dtype=object)


def new_recorder(out: Path) -> Recorder:
    recorder = Recorder(out, {"digest": "abc", "name": "t", "config": "a: 1", "results_version": 1}, {"host": "h"})
    recorder.describe_problem({"L": 2.5}, {"client": NAMES, "num_train_samples": np.array([1, 2, 3])})
    return recorder


def finish(recorder: Recorder, status: str = "complete") -> None:
    clients = {"personal_loss": np.array([0.1, 0.2, np.nan])}
    summary, costs = {"loss": np.ones((2, 2))}, {"local_gradients": np.array([0.0, 4.0])}
    recorder.finish(status, clients, summary, ["global", "personal"], ["mean", "q10"], {"ended": "x"}, costs)


def test_xarray_opens_it_with_named_dimensions(tmp_path: Path) -> None:
    recorder = new_recorder(tmp_path / "r.h5")
    for number in (0, 10, 20):
        recorder.append(number, {"loss": 1.0 / (number + 1), "client_gradient_norm": np.arange(3.0) + number})
    finish(recorder)
    rounds = xarray.open_dataset(tmp_path / "r.h5", engine="h5netcdf", group="rounds")
    assert list(rounds.coords["round"].values) == [0, 10, 20]
    assert rounds.loss.dims == ("round",)
    assert rounds.client_gradient_norm.dims == ("round", "client")
    assert float(rounds.client_gradient_norm.sel(round=10, client="björn")) == 11.0
    clients = xarray.open_dataset(tmp_path / "r.h5", engine="h5netcdf", group="clients")
    assert clients.personal_loss.dims == ("client",)
    assert int(clients.num_train_samples.sel(client="çelik")) == 3
    summary = xarray.open_dataset(tmp_path / "r.h5", engine="h5netcdf", group="summary")
    assert float(summary.loss.sel(stage="personal", statistic="q10")) == 1.0
    stages = xarray.open_dataset(tmp_path / "r.h5", engine="h5netcdf", group="stages")
    assert float(stages.local_gradients.sel(stage="personal")) == 4.0
    with h5py.File(tmp_path / "r.h5") as file:
        assert file.attrs["status"] == "complete"
        assert file.attrs["complete"] == 1
        assert file["problem"].attrs["L"] == 2.5
        assert file["provenance"].attrs["ended"] == "x"


def test_an_unfinished_file_says_so(tmp_path: Path) -> None:
    recorder = new_recorder(tmp_path / "r.h5")
    recorder.append(0, {"loss": 1.0})
    with h5py.File(tmp_path / "r.h5") as file:
        assert (file.attrs["status"], file.attrs["complete"]) == ("running", 0)


@pytest.mark.parametrize("status", ["complete", "diverged"])
def test_a_finished_result_is_left_alone(tmp_path: Path, status: str) -> None:
    out = tmp_path / "r.h5"
    recorder = new_recorder(out)
    recorder.append(0, {"loss": 1.0})
    finish(recorder, status)
    before = out.read_bytes()
    assert prepare(out, "abc") == "already done"
    assert out.read_bytes() == before


def test_an_unfinished_result_stays_until_it_is_written_anew(tmp_path: Path) -> None:
    out = tmp_path / "r.h5"
    new_recorder(out).append(0, {"loss": 1.0})
    before = out.read_bytes()
    assert prepare(out, "abc") == "unfinished"
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["r.h5"]


def test_rows_go_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    whole, first, second = (new_recorder(tmp_path / f"{name}.h5") for name in ("whole", "first", "second"))
    rows = [(n, {"loss": 1 / (n + 3), "norms": np.arange(3, dtype=np.float32) / (n + 7)}) for n in range(5)]
    for number, scores in rows:
        whole.append(number, scores)
        if number < 3:
            first.append(number, scores)
    second.restore(first.rows)
    for number, scores in rows[3:]:
        second.append(number, scores)
    assert second._image() == whole._image()


def test_nothing_is_written_by_one_who_must_not(tmp_path: Path) -> None:
    def refuse() -> None:
        raise UserError("is no longer ours")

    out = tmp_path / "r.h5"
    with pytest.raises(UserError, match="no longer ours"):
        Recorder(out, {"digest": "abc"}, {}, refuse).write()
    assert not list(tmp_path.iterdir())


def test_another_run_is_refused(tmp_path: Path) -> None:
    new_recorder(tmp_path / "r.h5").append(0, {"loss": 1.0})
    with pytest.raises(UserError, match="holds run abc, this is run def"):
        prepare(tmp_path / "r.h5", "def")


@pytest.mark.parametrize("content", ["text", "hdf5"])
def test_a_foreign_file_is_refused(tmp_path: Path, content: str) -> None:
    out = tmp_path / "r.h5"
    if content == "text":
        out.write_text("precious")
    else:
        h5py.File(out, "w").close()
    before = out.read_bytes()
    with pytest.raises(UserError, match="choose another name"):
        prepare(out, "abc")
    assert out.read_bytes() == before


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        prepare(tmp_path / "folder" / "r.h5", "abc")


def test_a_full_disk_keeps_the_rounds_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_INTERVAL_SECONDS", 0.0)
    recorder = new_recorder(tmp_path / "r.h5")
    recorder.append(0, {"loss": 1.0})
    recorder.append(7, {"loss": 0.5})

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError, match=r"No space left on device.*rounds up to 7 are in it"):
        recorder.append(8, {"loss": 0.4})
    assert [path.name for path in tmp_path.iterdir()] == ["r.h5"]
    with h5py.File(tmp_path / "r.h5") as file:
        assert list(file["rounds/round"]) == [0, 7]


WRITER = """
import sys
from pathlib import Path
from ppfl.results import recorder as module
from tests.results.test_recorder import new_recorder
module.LONGEST_INTERVAL_SECONDS = 0.0
recorder = new_recorder(Path(sys.argv[1]))
for number in range(1_000_000):
    recorder.append(number, {"loss": float(number)})
    print(number, flush=True)
"""


@pytest.mark.parametrize("seed", range(4))
def test_kill_minus_nine_loses_nothing_that_was_written(tmp_path: Path, seed: int) -> None:
    out = tmp_path / "r.h5"
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", WRITER, str(out)], cwd=root, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(random.Random(seed).uniform(0.02, 0.3))
        os.kill(writer.pid, signal.SIGKILL)
        # on a slow disk the first one may be all
        written = [int(line) for line in (first + writer.stdout.read()).split()]
    with h5py.File(out) as file:
        stored = list(file["rounds/round"])
        assert file.attrs["complete"] == 0
    assert stored == list(range(len(stored)))
    assert len(stored) - 1 >= written[-1]
    assert np.array_equal(stored, xarray.open_dataset(out, engine="h5netcdf", group="rounds").loss.values)


FILLER = """
import resource, sys
from pathlib import Path
from ppfl.core.errors import UserError
from ppfl.results import recorder as module
from tests.results.test_recorder import new_recorder
module.LONGEST_INTERVAL_SECONDS = 0.0
recorder = new_recorder(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))
try:
    for number in range(1_000_000):
        recorder.append(number, {"loss": float(number)})
except UserError as error:
    sys.exit(str(error))
"""


def test_a_really_full_disk_ends_with_one_line_and_keeps_the_rounds_so_far(tmp_path: Path) -> None:
    """A limit on the size of files, which HDF5 itself would not survive."""
    out = tmp_path / "r.h5"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FILLER, str(out)], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "cannot write the result" in done.stderr
    with h5py.File(out) as file:
        stored = list(file["rounds/round"])
    assert stored == list(range(len(stored)))
    assert f"rounds up to {stored[-1]} are in it" in done.stderr
