"""Archives: what is wanted of them comes out whole; damaged, strange and lying ones are refused in a line."""

from __future__ import annotations

import bz2
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from ppfl.catalogue import unpacking
from ppfl.catalogue.told import Silent
from ppfl.catalogue.unpacking import unpack
from ppfl.core.errors import UserError
from tests.catalogue.archives import tar, zipped

CONTENT = bytes(range(256)) * 300
FILES = {"all/first.bin": CONTENT, "all/second.bin": CONTENT[::-1]}
WANTED = {"all/second.bin": "two.bin"}
KINDS = ["bz2", "gz", "tar", "zip"]


def taken(folder: Path, content: bytes, wanted: dict[str, str] | None = None) -> dict[str, bytes]:
    archive = folder / "archive"
    archive.write_bytes(content)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    unpack(archive, wanted or WANTED, out, Silent())
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize("archive", [tar(FILES), tar(FILES, "w:gz"), tar(FILES, "w"), zipped(FILES)], ids=KINDS)
def test_members_that_are_wanted_come_out(archive: bytes, tmp_path: Path) -> None:
    assert taken(tmp_path, archive) == {"two.bin": CONTENT[::-1]}


def refused(folder: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        taken(folder, content)
    assert "\n" not in str(told.value)
    assert not list((folder / "out").iterdir())


@pytest.mark.parametrize("archive", [tar(FILES), tar(FILES, "w:gz"), zipped(FILES)], ids=["bz2", "gz", "zip"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9])
def test_truncated_archives_are_refused(archive: bytes, part: float, tmp_path: Path) -> None:
    refused(tmp_path, archive[: int(part * len(archive))], r"archive: (cannot be unpacked|has no all/second\.bin)")


@pytest.mark.parametrize(
    "archive", [tar({"all/first.bin": CONTENT}), zipped({"all/first.bin": CONTENT})], ids=["bz2", "zip"]
)
def test_members_that_are_missing_are_named(archive: bytes, tmp_path: Path) -> None:
    refused(tmp_path, archive, r"archive: has no all/second\.bin; is it another archive\?")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE], ids=str
)
def test_what_is_no_plain_file_is_refused(kind: bytes, tmp_path: Path) -> None:
    head = tarfile.TarInfo("all/second.bin")
    head.type, head.linkname = kind, "/etc/passwd"
    refused(tmp_path, tar({"all/second.bin": head}), r"all/second\.bin: is no plain file")


def test_names_lead_nowhere(tmp_path: Path) -> None:
    files = {"../out/three.bin": b"3", "/tmp/four.bin": b"4", **FILES}
    assert taken(tmp_path, tar(files)) == {"two.bin": CONTENT[::-1]}
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "out"}


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "_MAX_RATIO", 10)
    monkeypatch.setattr(unpacking, "_SPARE_BYTES", 500_000)
    zeros = bytes(1 << 22)
    refused(tmp_path, tar({"all/second.bin": zeros}), r"declares 4,194,304 bytes, far more than there can be")
    refused(tmp_path, zipped({"all/second.bin": zeros}), r"declares 4,194,304 bytes, far more than there can be")
    refused(tmp_path, tar({"other": zeros, **FILES}), r"far more comes out of it than there can be")


def test_heads_without_an_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long name would be read into memory, however long it is."""
    monkeypatch.setattr(unpacking, "_MAX_HEAD_BYTES", 1 << 16)
    head = tarfile.TarInfo("all/second.bin")
    head.pax_headers = {"comment": "a" * (1 << 20)}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(head)
    refused(tmp_path, out.getvalue(), r"the head of a member is longer than any has reason to be")


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_of_another_kind_is_refused(how: int, tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        archive.writestr("all/second.bin", CONTENT)
    refused(tmp_path, out.getvalue(), r"all/second\.bin: is compressed in another way")


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    archive = zipped(FILES)
    size = len(CONTENT).to_bytes(4, "little")
    refused(tmp_path, archive.replace(size, (len(CONTENT) - 1).to_bytes(4, "little")), "archive")
    refused(tmp_path, archive.replace(size, (len(CONTENT) + 1).to_bytes(4, "little")), "archive")


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("all/second.bin", CONTENT)
    refused(tmp_path, out.getvalue().replace(b"\x01\x02\x03", b"\x01\x02\x04"), "cannot be unpacked: Bad CRC-32")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"no archive", bz2.compress(b"no archive"), bytes(2000)):
        refused(tmp_path, content, "archive: (cannot be unpacked|has no all/second)")


def test_there_must_be_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5}))
    refused(tmp_path, tar(FILES), r"two\.bin: needs 76,800 bytes, and .* has room for 5")
