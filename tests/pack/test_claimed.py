"""A run that is somebody else's, or becomes so while a child of a pack is at it, has neither failed nor been done."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.grid import load_cells
from ppfl.core.agree import SharedUserError
from ppfl.jobs.claim import Claim, ClaimedError, is_claimed
from ppfl.pack import cells, steps
from ppfl.pack.run_queue import CLAIMED, ONE_RANK
from ppfl.results.layout import failed_path, running_path
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.pack.test_sharing import ROOT, command, write

pytestmark = pytest.mark.slow

TOGETHER: dict[str, Any] = {"engine": {}, "rounds": 3, "grid": {"seed": [0, 1, 2]}}


def runs(folder: Path) -> tuple[list[Any], list[Path]]:
    """Return what a child is given for three runs that can be computed together, and their results."""
    config, outs = write(folder, **TOGETHER)
    return [ONE_RANK.payload(cell, folder / f"{digest}.h5") for digest, cell in load_cells(config).items()], outs


def test_a_run_that_is_claimed_is_an_outcome_of_its_own(tmp_path: Path) -> None:
    given, outs = runs(tmp_path)
    claim = Claim(outs[0], 1, 3)
    work = cells.make_work()
    assert work(given) == [CLAIMED, "complete", "complete"]
    assert work(given[:1]) == [CLAIMED]
    claim.check()
    claim.release()
    assert not failed_path(outs[0]).exists()
    assert work(given) == ["complete", "already done", "already done"]


def test_a_run_whose_claim_is_lost_is_an_outcome_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, outs = runs(tmp_path)

    def lose(self: Claim, round: int) -> None:
        if self.path == running_path(outs[0]):
            self.path.unlink(missing_ok=True)

    monkeypatch.setattr(Claim, "tell", lose)
    work = cells.make_work()
    assert work(given) == [CLAIMED, "complete", "complete"]
    assert work(given[:1]) == [CLAIMED]
    assert not failed_path(outs[0]).exists()


def test_a_run_that_fails_is_not_taken_for_a_claimed_one(tmp_path: Path) -> None:
    given, outs = runs(tmp_path)
    outs[0].write_text("in the way")
    answers = cells.make_work()(given)
    assert isinstance(answers[0], Exception)
    assert "no HDF5 file" in str(answers[0])
    assert answers[1:] == ["complete", "complete"]


def complaints(out: Path) -> list[str]:
    """Return what `ppfl run` says when it finds a claim, and when it loses its own."""
    claim = Claim(out, 1, 3)
    with pytest.raises(ClaimedError) as found:
        Claim(out, 1, 3)
    running_path(out).unlink()
    with pytest.raises(ClaimedError) as lost:
        claim.check()
    claim.release()
    return [str(found.value), str(lost.value)]


def test_a_step_says_it_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever started the ranks passes on what they print, and some exit code."""
    config, outs = write(tmp_path, **TOGETHER)
    launcher = tmp_path / "launcher"
    launcher.touch(mode=0o755)
    monkeypatch.setenv("PPFL_PACK_LAUNCHER", str(launcher))
    step = steps.Step(config, (), outs[0].stem, outs[0], 2)
    for complaint in complaints(outs[0]):
        launcher.write_text(f"#!/bin/sh\necho 'ppfl: error: {complaint}'\nexit 2\n")
        assert steps._run(step, lambda: False) == CLAIMED
    launcher.write_text("#!/bin/sh\necho 'ppfl: error: no space left'\nexit 2\n")
    with pytest.raises(steps.StepError, match="no space left"):
        steps._run(step, lambda: False)


def test_ranks_that_end_together_know_it(tmp_path: Path) -> None:
    (given, *_), (out, *_) = runs(tmp_path)
    claim = Claim(out, 1, 3)
    with pytest.raises(SharedUserError, match="another job is at work on it") as refused:
        run(given.config, out, Silent(), SoloCommunicator())
    assert is_claimed(refused.value)
    assert not is_claimed(SharedUserError("another job is at work on it"))
    claim.release()


def test_a_pack_comes_back_to_a_run_that_was_claimed(tmp_path: Path) -> None:
    config, (out,) = write(tmp_path, engine={}, grid={"seed": [0]})
    launcher = tmp_path / "launcher"
    launcher.write_text(
        f"#!/bin/sh\necho started >> {tmp_path}/starts\n"
        f"[ $(wc -l < {tmp_path}/starts) = 1 ] && echo 'ppfl: error: {complaints(out)[0]}' && exit 2\n"
        f"echo complete: {out}\n"
    )
    launcher.chmod(0o755)
    done = subprocess.run(
        command(config, "--ranks-per-run", "2", "--jobs", "1"), cwd=ROOT, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PPFL_PACK_LAUNCHER": str(launcher)}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"1 complete: {tmp_path}\n"), done.stderr
    assert (tmp_path / "starts").read_text().count("started") == 2
    assert not failed_path(out).exists()
