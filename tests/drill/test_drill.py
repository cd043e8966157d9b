"""A small part of the drill; `make drill` is the whole."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.drill.drill import Drill
from tests.drill.processes import kill, tree, wait_until_gone, workers
from tests.drill.scenarios import SCENARIOS, Scenario


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.parametrize("scenario", [SCENARIOS[0], SCENARIOS[3]], ids=lambda scenario: scenario.name)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path: Path, scenario: Scenario) -> None:
    drill = Drill(scenario, tmp_path, 30, random.Random(7))
    drill.repeat(2)
    assert not drill.complaints
    assert drill.kills.total() >= 2
    assert drill.completed >= 1


def test_other_bytes_and_leftovers_are_noticed(tmp_path: Path) -> None:
    drill = Drill(SCENARIOS[0], tmp_path, 2, random.Random(7))
    out = tmp_path / "out"
    out.mkdir()
    for path in (tmp_path / "whole").iterdir():
        path.rename(out / path.name)
    drill._compare(out)
    assert not drill.complaints
    (out / f".{drill._results(out)[0].name}.partial").touch()
    drill._compare(out)
    drill._whole[0]["rounds/round"] = b""
    drill._compare(out)
    assert ["left" in line for line in drill.complaints] == [True, False, True]


def test_a_kill_reaches_every_process_of_a_job() -> None:
    """Those with a session of their own among them."""
    sleeps = "import subprocess, sys, time; print(flush=True); time.sleep(600)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleeps!r}], start_new_session=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        everybody = tree(process.pid)
        assert len(everybody) == 2
        assert workers(everybody) == everybody
        assert kill(process, "kill -9 of all", random.Random(0))
        assert process.wait() == -signal.SIGKILL
        wait_until_gone(everybody)
