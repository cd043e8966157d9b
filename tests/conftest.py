"""What all tests share: one thread a process, results made by hand."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it loads
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["MPIR_CVAR_ENABLE_HEAVY_YIELD"] = "1"  # MPICH: ranks outnumber the cores, so one that waits sleeps
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of hundreds of processes would compile ppfl anew
# no queue to ask but that of a test: without a file, Slurm's programs look for a site's in the DNS, for seconds
os.environ["SLURM_CONF"] = os.devnull

import numpy as np
import pytest
import yaml

from ppfl.jobs.stopping import SIGNALS

sys.dont_write_bytecode = False  # this process as well
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, here and in all that tests start


def pytest_collection_finish() -> None:
    """An error of a command that a test runs in its process would end the job, of which this process is the only rank:
    it would be gone without a word."""
    assert "mpi4py.MPI" not in sys.modules, "a module of tests has started MPI while it was imported"
    gc.freeze()  # thousands of tests and all libraries stay to the end: to walk over them takes a second each time


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A command that was run in this process leaves its handlers of signals, which are meant to last to its end."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have tests that start ranks done one after the other, as each fills the cores by itself; so those of a Slurm and
    those of workflows, which wait for much of their time. xdist begins with the largest groups, and all others fill up
    what is left, so that no process is idle at the end."""
    for item in items:
        for name in ("slurm", "workflow", "mpi"):
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.xdist_group(name))
                break


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests of a GPU where there is none."""
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU here")


MakeResult = Callable[..., Path]


@pytest.fixture
def make_result(tmp_path: Path) -> MakeResult:
    """Return a function that writes a result file from a config, a status and series over rounds."""
    from ppfl.results.recorder import Recorder

    def make(
        digest: str, config: Mapping[str, Any], series: Mapping[str, Any], *, status: str = "complete", every: int = 10,
        spent: Mapping[str, float] | None = None,
    ) -> Path:  # fmt: skip
        path = tmp_path / f"{digest}.h5"
        attributes = {"digest": digest, "name": config["name"], "config": yaml.safe_dump(dict(config), sort_keys=False)}
        recorder = Recorder(path, attributes | {"results_version": 1}, {"commit": "0123456789ab", "num_ranks": 2})
        if spent is not None:
            recorder.follow_seconds(lambda: spent)
        recorder.describe_problem({"L": 2.5}, {"client": np.array(["a", "b"], dtype=object)})
        for position in range(len(next(iter(series.values())))):
            scores = {name: np.float64(values[position]) for name, values in series.items()}
            recorder.append(position * every, scores | {"seconds": 0.5 * position})
        if status == "running":
            recorder.write()
            return path
        stages, statistics = ["global", "personal", "tuned"], ["mean", "weighted_mean", "q10", "q50", "q90"]
        summary = {"test_accuracy": np.array([[0.5], [0.75], [0.8125]]) + np.zeros(5)}
        recorder.finish(status, {}, summary, stages, statistics, {"ended": "2026-01-01T00:00:00+00:00"}, {})
        return path

    return make
