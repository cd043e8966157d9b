"""`ppfl data fetch` against a server on this machine: broken connections, altered files, proxies, no network."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ppfl.catalogue import fetch as fetching
from ppfl.catalogue import index, resuming
from ppfl.catalogue.entry import DataSet, Download, Source
from ppfl.catalogue.fetch import fetch
from ppfl.catalogue.told import Silent
from ppfl.core.errors import UserError
from tests.catalogue.archives import tar
from tests.catalogue.server import Site, served
from tests.grids import ppfl

CONTENT = bytes(range(256)) * 4000
SOURCE = Source("somebody/something", "file.py", "0" * 40)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "_WAIT_SECONDS", 0)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def site() -> Iterator[Site]:
    with served({"data.bin": CONTENT}) as found:
        yield found


def offered(monkeypatch: pytest.MonkeyPatch, *downloads: Download) -> None:
    """Have the catalogue be one data set."""
    found = DataSet("made up", downloads, (), "", lambda folder: None)
    for module in (index, fetching):
        monkeypatch.setattr(module, "find", lambda name: found)


def get(folder: Path, origin: str | None = None) -> bytes:
    fetch("made_up", folder, origin, Silent())
    return (folder / "made_up" / "data.bin").read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "made_up").iterdir())


@pytest.mark.parametrize("hashed", [SHA256, f"md5:{hashlib.md5(CONTENT).hexdigest()}", None])
def test_a_file_comes_once_and_its_hash_is_kept(
    site: Site, hashed: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(monkeypatch, Download(f"{site.address}/data.bin", SOURCE, hashed))
    assert get(tmp_path) == CONTENT
    assert names(tmp_path) == ["SHA256SUMS", "data.bin"]
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "made_up", check=True)
    assert get(tmp_path) == CONTENT
    assert len(site.requests) == 1


@pytest.mark.parametrize(("hashed", "etag"), [(SHA256, None), (None, '"first"'), (SHA256, '"first"')])
def test_a_download_that_breaks_off_goes_on(
    site: Site, hashed: str | None, etag: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.cut, site.etag = 300_001, etag
    offered(monkeypatch, Download(f"{site.address}/data.bin", SOURCE, hashed))
    assert get(tmp_path) == CONTENT
    assert site.ranges() == [None, "bytes=300001-", "bytes=600002-", "bytes=900003-"]
    assert names(tmp_path) == ["SHA256SUMS", "data.bin"]


def test_what_came_is_kept_for_the_next_time(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, Download(f"{site.address}/data.bin", SOURCE))
    site.cut = 300_001

    def broken(*_: object) -> None:
        site.status = 503

    monkeypatch.setattr(resuming.time, "sleep", broken)
    with pytest.raises(
        UserError, match=r"the server says 503.*300,001 bytes came and are kept.*put into .*made_up: data"
    ):
        get(tmp_path)
    assert names(tmp_path) == ["data.bin.part", "data.bin.part.json"]
    site.status, site.cut = 200, None
    assert get(tmp_path) == CONTENT
    assert site.ranges()[-1] == "bytes=300001-"


@pytest.mark.parametrize("heeds_if_range", [True, False])
@pytest.mark.parametrize("etag", ['"second"', None, 'W/"first"'])
def test_pieces_of_two_files_are_never_put_together(
    site: Site, etag: str | None, heeds_if_range: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.cut, site.heeds_if_range = 300_001, heeds_if_range
    if etag != '"second"':
        site.etag = etag
    offered(monkeypatch, Download(f"{site.address}/data.bin", SOURCE))

    def altered(*_: object) -> None:
        site.cut, site.etag, site.files["data.bin"] = None, etag, CONTENT[::-1]

    monkeypatch.setattr(resuming.time, "sleep", altered)
    assert get(tmp_path) == CONTENT[::-1]


@pytest.mark.parametrize("how", ["without ranges", "another range", "shorter"])
def test_servers_that_give_no_rest_begin_anew(
    how: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(monkeypatch, Download(f"{site.address}/data.bin", SOURCE, SHA256))
    part = tmp_path / "made_up" / "data.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:1000] if how != "shorter" else CONTENT + b"more")
    site.has_ranges, site.wrong_range = how != "without ranges", how == "another range"
    assert get(tmp_path) == CONTENT


def test_all_that_had_come_is_not_asked_for_again(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, Download(f"{site.address}/data.bin", SOURCE, SHA256))
    part = tmp_path / "made_up" / "data.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    assert get(tmp_path) == CONTENT
    assert site.ranges() == [f"bytes={len(CONTENT)}-"]


def test_files_in_gzip_stay_as_they_are(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(CONTENT, mtime=0)
    site.files["data.bin"], site.encoding = packed, "gzip"
    offered(monkeypatch, Download(f"{site.address}/data.bin", SOURCE))
    assert get(tmp_path) == packed


def test_an_altered_file_at_the_address_is_refused_and_not_kept(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(monkeypatch, Download(f"{site.address}/data.bin", SOURCE, SHA256))
    site.files["data.bin"] = CONTENT[:-1] + b"x"
    with pytest.raises(UserError, match=r"data\.bin: is another file than the published one: its hash is not sha256:"):
        get(tmp_path)
    assert names(tmp_path) == []


def test_a_hash_that_is_published_nowhere_is_that_of_the_first_time(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(monkeypatch, Download(f"{site.address}/data.bin", SOURCE))
    get(tmp_path)
    (tmp_path / "made_up" / "data.bin").unlink()
    site.files["data.bin"] = CONTENT[:-1] + b"x"
    with pytest.raises(UserError, match=r"is another file than the published one"):
        get(tmp_path)
    site.files["data.bin"] = CONTENT
    assert get(tmp_path) == CONTENT


@pytest.mark.parametrize("hashed", [SHA256, None])
def test_a_file_that_was_altered_here_is_told_and_left(
    site: Site, hashed: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(monkeypatch, Download(f"{site.address}/data.bin", SOURCE, hashed))
    get(tmp_path)
    (tmp_path / "made_up" / "data.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"data\.bin: (was altered|is another file).*remove it to have it anew"):
        get(tmp_path)
    assert (tmp_path / "made_up" / "data.bin").read_bytes() == b"mine"


def test_a_size_that_is_published_must_fit(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, Download(f"{site.address}/data.bin", SOURCE, SHA256, num_bytes=1000))
    with pytest.raises(UserError, match=r"has 1,024,000 bytes, the published one 1,000"):
        get(tmp_path)
    site.says_length = False
    with pytest.raises(UserError, match=r"is longer than the 1,000 bytes that it should have"):
        get(tmp_path)


def test_there_must_be_room(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, Download(f"{site.address}/data.bin", SOURCE))
    monkeypatch.setattr(resuming.shutil, "disk_usage", lambda path: _Usage(1000))
    with pytest.raises(UserError, match=r"has room for 1,000 bytes, and 1,024,000 are to come"):
        get(tmp_path)


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_a_proxy_of_the_environment_is_asked(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, Download("http://nobody.invalid/data.bin", SOURCE, SHA256))
    monkeypatch.setenv("HTTP_PROXY", site.address)
    site.cut = 600_000
    assert get(tmp_path) == CONTENT
    assert [path for path, _ in site.requests] == ["http://nobody.invalid/data.bin"] * 2


def test_a_proxy_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, Download("http://nobody.invalid/data.bin", SOURCE, SHA256))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the proxy cannot be reached"):
        get(tmp_path)


def test_without_a_network_one_is_told_which_file_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "http://127.0.0.1:9/data.bin"
    offered(monkeypatch, Download(address, SOURCE, SHA256))
    with pytest.raises(UserError) as told:
        get(tmp_path)
    message = f"{address}: cannot be reached. Without a network, put into {tmp_path}/made_up: data.bin from {address}"
    assert str(told.value) == f"{message} ({SHA256}); and start again"
    (tmp_path / "made_up" / "data.bin").write_bytes(CONTENT)
    assert get(tmp_path) == CONTENT
    assert "SHA256SUMS" in names(tmp_path)


@pytest.mark.parametrize(("status", "num_tries"), [(404, 1), (500, 4)])
def test_what_the_server_says_is_told(
    status: int, num_tries: int, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(monkeypatch, Download(f"{site.address}/data.bin", SOURCE))
    site.status = status
    with pytest.raises(UserError, match=f"the server says {status} "):
        get(tmp_path)
    assert len(site.requests) == num_tries


MEMBERS = {"made/up_train.bin": "data.bin", "made/up_test.bin": "test.bin"}
ARCHIVE = tar({"made/other": b"1", "made/up_train.bin": CONTENT, "./made/up_test.bin": b"test"})
ARCHIVED = f"sha256:{hashlib.sha256(ARCHIVE).hexdigest()}"


def of_archive(address: str) -> Download:
    return Download(f"{address}/all.tar.bz2", SOURCE, ARCHIVED, members=MEMBERS)


def test_archives_are_unpacked_and_what_is_there_stays(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["all.tar.bz2"] = ARCHIVE
    offered(monkeypatch, of_archive(site.address))
    assert get(tmp_path) == CONTENT
    assert names(tmp_path) == ["SHA256SUMS", "all.tar.bz2", "data.bin", "test.bin"]
    (tmp_path / "made_up" / "all.tar.bz2").unlink()  # it was only on the way
    assert get(tmp_path) == CONTENT
    (tmp_path / "made_up" / "test.bin").unlink()
    assert get(tmp_path) == CONTENT
    assert (tmp_path / "made_up" / "test.bin").read_bytes() == b"test"
    assert len(site.requests) == 2
    (tmp_path / "made_up" / "test.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"test\.bin: was altered"):
        get(tmp_path)


@pytest.mark.parametrize("called", ["all.tar.bz2", "data.bin", "up_train.bin"])
def test_files_come_from_a_folder_of_the_user(called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, of_archive("http://127.0.0.1:9"))
    source = tmp_path / "source"
    source.mkdir()
    if called == "all.tar.bz2":
        (source / called).write_bytes(ARCHIVE)
    else:
        (source / called).write_bytes(CONTENT)
        with pytest.raises(UserError, match=r"--from .*: has no all\.tar\.bz2, nor data\.bin, test\.bin"):
            get(tmp_path, str(source))
        (source / ("test.bin" if called == "data.bin" else "up_test.bin")).write_bytes(b"test")
    assert get(tmp_path, str(source)) == CONTENT
    assert (tmp_path / "made_up" / "test.bin").read_bytes() == b"test"


def test_another_archive_of_the_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, of_archive("http://127.0.0.1:9"))
    (tmp_path / "all.tar.bz2").write_bytes(tar({"made/up_train.bin": b"another"}))
    with pytest.raises(UserError, match=r"all\.tar\.bz2: is another file than the published one: its sha256 is"):
        get(tmp_path, str(tmp_path))


def test_one_process_fetches_at_a_time(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, Download(f"{site.address}/data.bin", SOURCE))
    home = tmp_path / "made_up"
    home.mkdir()
    descriptor = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another ppfl data fetch is at work there"):
            get(tmp_path)
    finally:
        os.close(descriptor)
    assert get(tmp_path) == CONTENT


def test_the_command_takes_another_address_and_tells_what_to_do_without_pooch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {"mirror/a9a": b"+1 3:1 123:1\n", "mirror/a9a.t": b"-1 1:1\n"}
    with served(lines) as site:
        monkeypatch.setitem(sys.modules, "pooch", None)
        arguments = ("data", "fetch", "a9a", "--folder", tmp_path, "--from", f"{site.address}/mirror/")
        done = ppfl(*arguments)
        assert (done.exit_code, "pip install 'ppfl[data]'" in done.stderr) == (2, True)
        monkeypatch.delitem(sys.modules, "pooch")
        done = ppfl(*arguments)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"a9a: {tmp_path / 'a9a'}"
    assert (tmp_path / "a9a" / "a9a.t").read_bytes() == b"-1 1:1\n"


@pytest.mark.parametrize("origin", ["ftp://127.0.0.1/", "nowhere", "file:///etc", "", "http://", "http://[::1"])
def test_other_origins_are_refused(origin: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is neither an address, http://… or https://…, nor a folder"):
        fetch("a9a", tmp_path, origin, Silent())


def test_names_that_there_are_not_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.\./a9a: there is no such data set; allowed: a9a, cifar10"):
        fetch("../a9a", tmp_path, None, Silent())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("origin", ["mirror?token=a/b#part", "mirror/data.bin?download=1", "mirror/?token=1"])
def test_what_stands_behind_a_name_stays_there(origin: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with served({"mirror/data.bin": CONTENT}) as site:
        offered(monkeypatch, Download("http://127.0.0.1:1/data.bin", SOURCE, SHA256))
        assert get(tmp_path, f"{site.address}/{origin}") == CONTENT
    assert site.requests[-1][0].partition("?")[2] == origin.partition("?")[2].partition("#")[0]
