"""The claim on a result: one job at a time, whichever way the one before ended; no file locks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ppfl.jobs import claim as module
from ppfl.jobs.claim import Claim, ClaimedError
from ppfl.jobs.leftovers import clear_result
from ppfl.jobs.owner import Owner

ROOT = Path(__file__).parents[2]
TAKER = """
import sys, time
from pathlib import Path
from ppfl.core.errors import UserError
from ppfl.jobs.claim import Claim
print("ready", flush=True)
sys.stdin.readline()
try:
    claim = Claim(Path(sys.argv[1]), 1, 100)
except UserError as error:
    print(error, flush=True)
else:
    print("mine", flush=True)
    sys.stdin.readline()
    claim.check()
    claim.release()
"""


def taker(out: Path) -> subprocess.Popen[str]:
    """Start a process that claims a result at the first line that it is sent, and lets go at the second."""
    process = subprocess.Popen(
        [sys.executable, "-c", TAKER, str(out)], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def send(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "r.h5"


@pytest.fixture
def takers(out: Path) -> Iterator[list[subprocess.Popen[str]]]:
    processes = [taker(out) for _ in range(4)]
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def written(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.with_name("r.h5.running.json").read_text())
    return found


def test_it_says_who_works_and_goes_when_let_go(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    claim = Claim(out, 3, 100)
    found = written(out)
    assert (found["pid"], found["job"], found["num_ranks"], found["round"], found["rounds"]) == (
        os.getpid(),
        "77",
        3,
        0,
        100,
    )
    assert set(found) >= {"host", "token", "started", "updated", "rounds_per_second", "seconds_left"}
    claim.check()
    claim.release()
    assert not list(out.parent.iterdir())


def test_a_second_job_is_refused_with_one_line(out: Path) -> None:
    claim = Claim(out, 1, 100)
    second = taker(out)
    send(second)
    line = answer(second)
    assert all(word in line for word in (str(os.getpid()), written(out)["host"], "last seen", "at work"))
    second.communicate()
    claim.check()
    claim.release()


def test_a_killed_job_that_nobody_has_collected_yet_is_gone(out: Path) -> None:
    first = taker(out)
    send(first)
    assert answer(first) == "mine"
    os.kill(first.pid, signal.SIGKILL)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # it is dead, and stays to be collected
    claim = Claim(out, 1, 100)
    assert first.returncode is None
    assert written(out)["token"] == claim.token
    claim.release()
    first.communicate()


def test_a_job_that_is_about_to_end_is_waited_for(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Claim(out, 1, 100)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: first.release())
    second = Claim(out, 1, 100)
    assert written(out)["token"] == second.token
    second.release()


def test_beats_tell_how_far_it_is(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    claim = Claim(out, 1, 100)
    claim.begin(40)
    claim.tell(60)
    deadline = time.monotonic() + 20
    while written(out)["round"] != 60:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert written(out)["rounds_per_second"] > 0
    assert written(out)["seconds_left"] > 0
    claim.release()
    time.sleep(0.1)
    assert not list(out.parent.iterdir())


def test_beats_end_with_the_thread_that_works(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    others = set(threading.enumerate())
    worker = threading.Thread(target=lambda: Claim(out, 1, 100))
    worker.start()
    worker.join()
    for thread in set(threading.enumerate()) - others:
        thread.join(60)
        assert not thread.is_alive()
    before = written(out)["updated"]
    time.sleep(0.2)
    assert written(out)["updated"] == before


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(10))
def test_of_simultaneous_starts_one_wins(out: Path, takers: list[subprocess.Popen[str]], attempt: int) -> None:
    for process in takers:
        send(process)
    answers = [answer(process) for process in takers]
    assert sorted("mine" if line == "mine" else "no" for line in answers) == ["mine", "no", "no", "no"], answers
    winner = takers[answers.index("mine")]
    assert written(out)["pid"] == winner.pid
    send(winner)
    assert winner.wait(timeout=60) == 0
    assert not list(out.parent.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(10))
def test_of_simultaneous_takers_of_a_dead_claim_one_wins(
    out: Path, takers: list[subprocess.Popen[str]], attempt: int
) -> None:
    dead = taker(out)
    send(dead)
    assert answer(dead) == "mine"
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    for process in takers:
        send(process)
    answers = [answer(process) for process in takers]
    assert answers.count("mine") == 1, answers
    winner = takers[answers.index("mine")]
    send(winner)
    assert winner.wait(timeout=60) == 0


def other_host(out: Path, age: float, **facts: Any) -> None:
    """Leave a claim of another host that was refreshed some seconds ago."""
    path = out.with_name("r.h5.running.json")
    now = time.time()
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "job": "", "token": "t", "updated": now - age, **facts}))
    os.utime(path, (now - age, now - age))


def test_a_claim_of_another_host_is_taken_over_when_it_is_old(out: Path) -> None:
    other_host(out, 61)
    claim = Claim(out, 1, 100)
    assert written(out)["pid"] == os.getpid()
    claim.release()
    other_host(out, 5)
    with pytest.raises(ClaimedError, match="process 1 on elsewhere"):
        Claim(out, 1, 100)
    assert written(out)["host"] == "elsewhere"


def test_a_doubtful_claim_is_waited_for(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a sign of life it becomes stale, with one it is another job's."""
    signs = [20.0, 21.0, 61.0]  # how old it is whenever the taker has slept
    monkeypatch.setattr(module.time, "sleep", lambda seconds: other_host(out, signs.pop(0)))
    other_host(out, 20)
    Claim(out, 1, 100).release()
    assert not signs
    signs += [0.0]
    other_host(out, 20)
    with pytest.raises(ClaimedError, match="elsewhere"):
        Claim(out, 1, 100)
    assert not signs


def test_a_requeued_job_does_not_wait_for_its_former_self(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    other_host(out, 0, job="77", restart=0)
    with pytest.raises(ClaimedError, match="job 77"):
        Claim(out, 1, 100)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    Claim(out, 1, 100).release()


def test_the_same_process_number_after_a_restart_of_the_host_is_another_process(out: Path) -> None:
    other_host(out, 0, host=module.platform.node(), pid=os.getpid())
    Claim(out, 1, 100).release()


def test_a_lost_claim_is_noticed_and_left_alone(out: Path) -> None:
    claim = Claim(out, 1, 100)
    other_host(out, 0)
    with pytest.raises(ClaimedError, match=r"no longer ours.*elsewhere"):
        claim.check()
    assert claim.is_lost
    claim.release()
    assert written(out)["host"] == "elsewhere"
    out.with_name("r.h5.running.json").unlink()
    with pytest.raises(ClaimedError, match="no longer ours"):
        claim.check()


def test_a_live_claim_that_was_taken_by_mistake_is_put_back(out: Path) -> None:
    """Its owner, silent for a minute, let go after all, and another one came: what is renamed is not the dead one."""
    first = Claim(out, 1, 100)
    second = object.__new__(Claim)
    second.path, second.token = first.path, "second"
    second._remove(Owner(modified=0, user=0, token="dead"))
    first.check()
    first.release()
    assert not list(out.parent.iterdir())


def test_a_slow_taker_does_not_touch_the_claim_of_a_fast_one(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both saw the dead claim. While the slow one had that of the fast one aside, a third could come."""
    other_host(out, 61)
    fast, slow = Claim(out, 1, 100), object.__new__(Claim)
    slow.path, slow.token = fast.path, "slow"
    mine = out.with_name("mine")
    mine.touch()
    monkeypatch.setattr(Path, "rename", None)
    slow._take_over(Owner(modified=0, user=0, token="t"), mine)
    mine.unlink()
    fast.check()
    fast.release()
    assert not list(out.parent.iterdir())


def test_takers_wait_for_their_turn(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other_host(out, 61)
    turn = out.with_name(".r.h5.running.json.turn")
    turn.touch()
    waited: list[str] = []

    def wait(seconds: float) -> None:
        waited.append(written(out)["host"])
        turn.unlink()

    monkeypatch.setattr(module.time, "sleep", wait)
    Claim(out, 1, 100).release()
    assert waited == ["elsewhere"]
    assert not list(out.parent.iterdir())


def test_what_killed_jobs_were_writing_goes(out: Path) -> None:
    """Of this host at once, of others when it is a minute old; what living ones write stays."""
    other_host(out, 61)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    here = module.platform.node()
    dead = f"{process.pid}-0123abcd@{here}"
    left = [f"running.json.{dead}.partial", f"failed.json.{dead}.partial", "partial", "running.json.turn"]
    kept = [f"running.json.{os.getpid()}-0123abcd@{here}.partial", "running.json.1-0123abcd@elsewhere.org.stale"]
    for ending in left + kept:
        out.with_name(f".r.h5.{ending}").touch()
    os.utime(out.with_name(".r.h5.running.json.turn"), (1, 1))
    claim = Claim(out, 1, 100)
    clear_result(out)
    claim.release()
    assert {path.name for path in out.parent.iterdir()} == {f".r.h5.{ending}" for ending in kept}
    for ending in kept:
        os.utime(out.with_name(f".r.h5.{ending}"), (1, 1))
    clear_result(out)
    assert {path.name for path in out.parent.iterdir()} == {f".r.h5.{kept[0]}"}
