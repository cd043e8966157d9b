"""Names that are given once, and what relies on them, claims and notes of failures: with and without hard links."""

from __future__ import annotations

import errno
import os
import resource
import threading
from pathlib import Path

import pytest

from ppfl.core.errors import UserError
from ppfl.jobs import claim as claims
from ppfl.jobs.claim import Claim, ClaimedError
from ppfl.jobs.exclusive import put_once
from ppfl.jobs.failures import Failure, read_failure, write_failure
from ppfl.jobs.owner import Owner
from ppfl.results.layout import running_path


@pytest.fixture(params=["links", "EPERM", "EOPNOTSUPP", "ENOSYS"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the file system says to a hard link."""

    def refuse(source: Path, target: Path) -> None:
        number = getattr(errno, request.param)
        raise OSError(number, os.strerror(number))

    if request.param != "links":
        monkeypatch.setattr(os, "link", refuse)
    return str(request.param)


def test_the_first_one_gets_it(links: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    for number in (1, 2):
        source = tmp_path / f"{number}"
        source.write_text(f"of {number}")
        assert put_once(source, target) is (number == 1)
        source.unlink()
        assert target.read_text() == "of 1"


def test_of_many_at_once_one_gets_it(links: str, tmp_path: Path) -> None:
    together, winners = threading.Barrier(8), list[int]()

    def take(number: int) -> None:
        for attempt in range(20):
            source = tmp_path / f"{attempt}-{number}"
            source.write_text(str(number))
            together.wait()
            if put_once(source, tmp_path / f"target {attempt}"):
                winners.append(number)
            together.wait()

    takers = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert [(tmp_path / f"target {attempt}").read_text() for attempt in range(20)] == list(map(str, winners))


def test_a_request_that_was_sent_twice_has_succeeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS may answer the second one: the name is taken, by ourselves."""
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    (tmp_path / "source").touch()
    assert put_once(tmp_path / "source", tmp_path / "target")


@pytest.mark.parametrize("links", ["EPERM"], indirect=True)
def test_a_file_that_cannot_be_filled_is_removed(links: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("x" * 100)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            put_once(source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not target.exists()


@pytest.mark.slow
def test_claims(links: str, tmp_path: Path) -> None:
    out = tmp_path / "r.h5"
    claim = Claim(out, 1, 100)
    with pytest.raises(ClaimedError, match=f"process {os.getpid()}"):
        Claim(out, 1, 100)
    second = object.__new__(Claim)
    second.path, second.token = claim.path, "second"
    second._remove(Owner(modified=0, user=0, token="dead"))  # by mistake: it is put back
    claim.check()
    claim.release()
    assert not list(tmp_path.iterdir())
    running_path(out).write_text("{}")
    os.utime(running_path(out), (1, 1))
    Claim(out, 1, 100).release()
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_a_claim_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(claims, "put_once", refuse)
    with pytest.raises(UserError, match=r"r\.h5: cannot write into .*: No space left"):
        Claim(tmp_path / "r.h5", 1, 100)
    assert not list(tmp_path.iterdir())


def test_notes_of_failures(links: str, tmp_path: Path) -> None:
    out = tmp_path / "r.h5"
    first = Failure(digest="0", reason="the first death is the cause")
    assert write_failure(out, first)
    assert not write_failure(out, Failure(digest="0", reason="a consequence"))
    assert read_failure(out) == first
    assert [path.name for path in tmp_path.iterdir()] == ["r.h5.failed.json"]
