"""`ppfl data fetch`: the files of a data set come into a folder of its own, once, and are those that were published."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ppfl.catalogue.index import find, where_to_put
from ppfl.catalogue.resuming import ResumingDownloader
from ppfl.catalogue.sums import compare_or_record, hash_of, recorded
from ppfl.catalogue.unpacking import unpack
from ppfl.core.errors import UserError
from ppfl.core.files import whole_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppfl.catalogue.entry import DataSet, Download
    from ppfl.catalogue.told import Told


def fetch(name: str, folder: Path, origin: str | None, told: Told) -> DataSet:
    """Bring the files of a data set into folder/name; those that are there already are compared with their hashes.

    origin: another place than the published addresses, an address or a folder. A published hash must fit; where there
    is none, that of the first time is kept in SHA256SUMS and must fit from then on. Raises UserError.
    """
    data_set, home = find(name), folder / name
    if origin is not None and not _is_address(origin) and not (origin and Path(origin).is_dir()):
        raise UserError(f"--from {origin}: is neither an address, http://… or https://…, nor a folder")
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _alone_in(home):
            for download in data_set.downloads:
                _have(download, name, home, origin, told)
    except OSError as error:
        raise UserError(f"{error.filename or home}: {error.strerror or error}") from error
    return data_set


def _have(download: Download, name: str, home: Path, origin: str | None, told: Told) -> None:
    archive = home / download.name
    missing = [file for file in download.files if not (home / file).exists()]
    if missing and not archive.exists() and not _copied(missing, download, home, origin, told):
        _bring(download, name, home, origin, told)
    if archive.exists() and (missing or not download.members):
        _check_published(archive, download)
        compare_or_record(archive)
        # others than those that are missing may be somebody's own by now
        wanted = {member: file for member, file in download.members.items() if file in missing}
        if wanted:
            unpack(archive, wanted, home, told)
    for file in download.files:
        compare_or_record(home / file)
        told.tell(f"{home / file}: {(home / file).stat().st_size:,} bytes")


def _bring(download: Download, name: str, home: Path, origin: str | None, told: Told) -> None:
    """Have the file at its address, or where the user says, under its name in a folder."""
    if origin is not None and not _is_address(origin):
        source = Path(origin) / download.name
        if not source.exists():
            raise UserError(f"--from {origin}: has no {download.name}, nor {', '.join(download.files)}")
        _copy(source, home / download.name)
        return
    address = _address(download, origin)
    told.tell(f"{download.name}: from {address}")
    pooch = _pooch()
    known = download.hashed or (f"sha256:{digits}" if (digits := recorded(home).get(download.name)) else None)
    downloader = ResumingDownloader(
        home, download.name, told, is_hash_known=known is not None, num_bytes=download.num_bytes
    )
    import requests

    try:
        pooch.retrieve(address, known, fname=download.name, path=home, downloader=downloader)
    except requests.RequestException as error:
        kept = f"; {downloader.size:,} bytes came and are kept, next time it goes on there" if downloader.size else ""
        raise UserError(
            f"{address}: {_why(error)}{kept}. Without a network, {where_to_put(name, home.parent)}; and start again"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{address}: is another file than the published one: its hash is not {known}; nothing of it was kept"
        ) from error


def _check_published(file: Path, download: Download) -> None:
    if download.hashed is None:
        return
    algorithm, _, digits = download.hashed.partition(":")
    if (found := hash_of(file, algorithm)) != digits:
        raise UserError(
            f"{file}: is another file than the published one: its {algorithm} is {found}, and {digits} was published; "
            f"remove it to have it anew"
        )


def _copied(missing: list[str], download: Download, home: Path, origin: str | None, told: Told) -> bool:
    """Copy what an archive has in it from the folder that the user names, where it lies there unpacked."""
    if origin is None or _is_address(origin) or (Path(origin) / download.name).exists():
        return False
    there = {}
    for member, file in download.members.items():
        for called in (file, member.rsplit("/", 1)[-1]):
            if (Path(origin) / called).exists():
                there[file] = Path(origin) / called
    if not there or any(file not in there for file in missing):
        return False
    for file in missing:
        told.tell(f"{home / file}: a copy of {there[file]}; only of {download.name} a hash is published")
        _copy(there[file], home / file)
    return True


def _copy(source: Path, target: Path) -> None:
    with whole_path(target) as partial:
        shutil.copyfile(source, partial)


def _address(download: Download, origin: str | None) -> str:
    if origin is None:
        return download.address
    place = urlsplit(origin)
    if place.path.rsplit("/", 1)[-1] == download.name:
        return origin
    # what comes after a question mark, such as a token, belongs behind the name
    return place._replace(path=f"{place.path.rstrip('/')}/{download.name}").geturl()


def _is_address(origin: str) -> bool:
    try:
        place = urlsplit(origin)
        return place.scheme in ("http", "https") and place.hostname is not None
    except ValueError:  # brackets that hold no address
        return False


def _pooch() -> Any:
    try:
        import pooch
    except ImportError as error:
        raise UserError(
            "ppfl data fetch needs the package pooch: pip install 'ppfl[data]'; or bring the files yourself, see --from"
        ) from error
    # it would tell hashes that it does not know, which are kept here
    pooch.get_logger().setLevel("WARNING")
    return pooch


def _why(error: Exception) -> str:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server says {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server does not answer in time"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy cannot be reached"
    return "cannot be reached" if isinstance(error, requests.ConnectionError) else f"cannot be fetched: {error}"


@contextmanager
def _alone_in(home: Path) -> Iterator[None]:
    """Keep other processes from bringing the same files. Raises UserError where one is at it."""
    descriptor = os.open(home, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{home}: another ppfl data fetch is at work there; wait for it") from error
        except OSError:  # some file systems lock no folders
            pass
        yield
    finally:
        os.close(descriptor)
