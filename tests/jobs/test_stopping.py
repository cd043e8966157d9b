"""Signals as a wish to stop: which, how often, and up to the end of the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import pytest

from ppfl.jobs.stopping import INTERRUPTED, SIGNALS, STOPPED, StopSignals, fork_successor
from tests.mpi.jobs import finish, job, left_beside, processes_of, wait_for
from tests.pack.test_sharing import ROOT, kinds, started, staying, write


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_is_a_wish_to_stop(number: signal.Signals) -> None:
    stop = StopSignals()
    assert not stop()
    os.kill(os.getpid(), number)
    assert stop()
    stop.ignore()
    os.kill(os.getpid(), number)


def test_a_lost_terminal_that_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopSignals()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stop()


def test_a_second_ctrl_c_interrupts() -> None:
    StopSignals()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    stop = StopSignals(can_be_interrupted=False)
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGINT)
    assert stop()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_process_that_was_forked_is_ended(number: signal.Signals) -> None:
    """Pools of workers end theirs by SIGTERM, and wait for them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads
        StopSignals()
        child = os.fork()
        if not child:
            try:
                os.kill(os.getpid(), number)
            finally:
                os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # a Ctrl-C is an exception there, as it is at the beginning of any program
    assert code == (0 if number == signal.SIGINT else -number)
    assert getattr(signal.getsignal(number), "__self__", None) is not None


def test_the_rank_that_a_supervisor_forks_takes_signals_for_a_wish() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads
        stop = StopSignals()
        child = fork_successor()
        if not child:
            code = 1
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                code = 0 if stop() else 2
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "number"),
    [
        (1, signal.SIGHUP),
        (1, signal.SIGINT),
        pytest.param(2, signal.SIGINT, marks=pytest.mark.mpi),
        pytest.param(2, signal.SIGTERM, marks=pytest.mark.mpi),
    ],
)
def test_what_comes_late_changes_no_exit_code(tmp_path: Path, ranks: int, number: signal.Signals) -> None:
    """A batch system may repeat itself until the process is gone."""
    out, mark = tmp_path / "r.h5", tmp_path / "stays"
    with job(ranks, out, mark, 0, 20, config={"rounds": 1_000_000}) as process:
        wait_for(process, mark)
        process.send_signal(number)
        current = out.with_name("r.h5.checkpoint") / "current.json"
        while process.poll() is None:
            # its ranks: mpiexec fails when it is to pass on a signal and has nobody left
            for rank in processes_of(process.pid) if current.exists() else ():
                with suppress(ProcessLookupError):
                    os.kill(rank, signal.SIGTERM)
            time.sleep(0.002)
        finish(process, STOPPED)
    assert left_beside(out) == {".checkpoint"}


def test_an_interrupted_command_has_a_code_of_its_own(tmp_path: Path) -> None:
    """2 is for mistakes."""
    raised = "def raise_it():\n    raise KeyboardInterrupt\n"
    interrupted = f"import ppfl.status.show\n{raised}ppfl.status.show.wide_console = raise_it\n"
    command = [sys.executable, "-c", f"{interrupted}from ppfl.cli import main\nmain()", "status", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (INTERRUPTED, "\nppfl: error: interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_all_processes_of_a_terminal_get_stops_a_pack(number: signal.Signals, tmp_path: Path) -> None:
    """The server from which its children are forked among them."""
    config, outs = write(tmp_path, grid={"seed": [0, 1]})
    mark = tmp_path / "stays"
    with started(["setsid", *staying(mark, config)]) as process:
        while not mark.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        os.killpg(process.pid, number)
        said, complaints = process.communicate(timeout=120)
    assert (process.returncode, said) == (STOPPED, f"1 left, 1 stopped: {tmp_path}\n"), complaints
    assert sorted(kinds(outs)) == ["missing", "stopped"]
