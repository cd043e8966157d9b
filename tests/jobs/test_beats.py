"""One thread keeps all claims of a process fresh, and none of them ends with another one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ppfl.jobs import claim as module
from ppfl.jobs.beats import Beats
from ppfl.jobs.claim import Claim
from ppfl.jobs.owner import read_owner

ROOT = Path(__file__).parents[2]
FORKED = """
import os, sys, time
from pathlib import Path
from ppfl.jobs import claim
claim.BEAT_SECONDS = 0.02
mine = claim.Claim(Path(sys.argv[1]), 1, 100)
read, write = os.pipe()
if not os.fork():
    mine.tell(77)  # a beat of this process would write it
    own = claim.Claim(Path(sys.argv[2]), 1, 100)
    own.tell(33)
    time.sleep(0.3)
    found = [claim.read_owner(one.path) for one in (mine, own)]
    os.write(write, repr([one and one.round for one in found]).encode())
    os._exit(0)
os.wait()
print(os.read(read, 100).decode())
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "beats"}


def test_one_thread_calls_all_until_they_are_removed() -> None:
    beats, called, before = Beats(lambda: 0.01), dict.fromkeys("ab", 0), threads()

    def beat(name: str) -> bool:
        called[name] += 1
        return True

    for name in "ab":
        beats.add(name, lambda name=name: beat(name))  # type: ignore[misc]
    (thread,) = threads() - before
    wait_for(lambda: min(called.values()) > 2)
    beats.remove("a")
    number = called["a"]
    wait_for(lambda: called["b"] > 10)
    assert called["a"] <= number + 1  # a call that has begun goes on
    beats.remove("b")
    thread.join(20)
    assert not thread.is_alive()


def test_one_that_has_ended_or_breaks_takes_no_other_along(caplog: pytest.LogCaptureFixture) -> None:
    beats, called = Beats(lambda: 0.01), dict.fromkeys("abc", 0)

    def beat(name: str) -> bool:
        called[name] += 1
        if name == "a":
            raise RuntimeError("broken")
        return name != "b" or called["b"] < 3

    for name in "abc":
        beats.add(name, lambda name=name: beat(name))  # type: ignore[misc]
    wait_for(lambda: called["c"] > 10)
    assert called["a"] == 1
    assert called["b"] == 3
    assert "a is not kept fresh any more" in caplog.text
    beats.remove("c")


def test_the_last_one_wakes_the_thread_and_the_next_one_is_kept_fresh_again() -> None:
    seconds, called = [100.0], [0]
    beats, before = Beats(lambda: seconds[0]), threads()
    beats.add("a", lambda: True)
    (thread,) = threads() - before
    beats.remove("a")
    thread.join(20)  # long before its hundred seconds are over
    assert not thread.is_alive()
    seconds[0] = 0.01

    def beat() -> bool:
        called[0] += 1
        return True

    beats.add("b", beat)
    wait_for(lambda: called[0] > 2)
    beats.remove("b")


def test_many_claims_are_refreshed_and_each_is_released_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    before = threads()
    claims = [Claim(tmp_path / f"{number}.h5", 1, 100) for number in range(20)]
    assert len(threads() - before) <= 1

    def rounds() -> list[int | None]:
        return [owner.round for claim in claims if (owner := read_owner(claim.path)) is not None]

    for number, claim in enumerate(claims):
        claim.tell(number + 1)
    wait_for(lambda: rounds() == list(range(1, 21)))
    for claim in claims[:19]:
        claim.release()
    claims[19].tell(50)
    wait_for(lambda: rounds() == [50])
    claims[19].release()
    assert not list(tmp_path.iterdir())


def test_a_forked_process_keeps_its_own_claims_fresh_and_no_others(tmp_path: Path) -> None:
    arguments = [sys.executable, "-W", "ignore", "-c", FORKED, *(str(tmp_path / name) for name in ("a.h5", "b.h5"))]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[0, 33]\n", done.stderr
