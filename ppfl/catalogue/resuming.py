"""pooch's downloader for connections that break: what has come stays in a file, and the rest is asked for."""

from __future__ import annotations

import json
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ppfl.core.errors import UserError
from ppfl.core.files import write_whole

if TYPE_CHECKING:
    from requests import HTTPError, Response

    from ppfl.catalogue.told import Told

_TRIES = 4
"""In a row that bring nothing new."""
_WAIT_SECONDS = 1.0
"""Before the second try; twice as long before each later one."""
_TIMEOUT_SECONDS = (30, 60)
"""To connect, and between pieces."""
_PIECE_BYTES = 1 << 16
_RANGE_NOT_SATISFIABLE = 416
_PARTIAL_CONTENT = 206
_SERVER_ERRORS = 500


class ResumingDownloader:
    """Downloads over HTTP into `<name>.part` in a folder, and gives that to pooch when it is whole.

    Goes on where an earlier call, or another process, ended, if the file at the address is still the same: by its
    validator (`If-Range`, RFC 9110), or because a known hash will tell. Proxies are those of the environment
    (HTTPS_PROXY, …), as the library `requests` reads them.
    """

    def __init__(self, folder: Path, name: str, told: Told, *, is_hash_known: bool, num_bytes: int | None) -> None:
        self.part = folder / f"{name}.part"
        """What has come."""
        self._validators = folder / f"{name}.part.json"
        self._name = name
        self._told = told
        self._is_hash_known = is_hash_known
        self._num_bytes = num_bytes

    def __call__(self, url: str, output_file: str, pooch: Any, check_only: bool = False) -> None:
        """Bring the file at an address to a path. Raises the errors of `requests` when several tries in vain are over.

        Raises UserError for files that are longer than they are said to be, or than the disk has room for.
        """
        import requests

        in_vain = 0
        while True:
            before = self.size
            try:
                self._get(url)
                break
            except requests.HTTPError as error:
                if _status(error) < _SERVER_ERRORS or in_vain + 1 >= _TRIES:
                    raise
            except (requests.ConnectionError, requests.Timeout):
                in_vain = 0 if self.size > before else in_vain
                if in_vain + 1 >= _TRIES:
                    raise
            time.sleep(_WAIT_SECONDS * 2**in_vain)
            in_vain += 1
        self.part.replace(output_file)
        self._validators.unlink(missing_ok=True)

    def _get(self, url: str) -> None:
        import requests

        begun = self.size
        headers = {"Accept-Encoding": "identity"}  # ranges and lengths are those of the file itself
        if begun and (wanted := self._rest(url, begun)):
            headers |= wanted
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS) as response:
            if response.status_code == _RANGE_NOT_SATISFIABLE:
                if response.headers.get("Content-Range") == f"bytes */{begun}":
                    return  # all of it had come
                self._begin_anew("what has come is longer than the file")
            response.raise_for_status()
            if response.status_code != _PARTIAL_CONTENT:
                begun = 0
            elif _first_byte(response) != begun:
                self._begin_anew("another part of the file comes than was asked for")
            # not every server heeds If-Range
            elif headers.get("If-Range", _validator(response)) != _validator(response):
                self._begin_anew("the file at the address is another one by now")
            length = response.headers.get("Content-Length", "")
            total = begun + int(length) if length.isdecimal() else self._num_bytes
            self._check_room(total, begun)
            self._keep_validator(url, _validator(response))
            self._receive(response, begun, total)
        if total is not None and self.size != total:
            raise requests.ConnectionError(f"{self.size:,} of {total:,} bytes came")

    def _begin_anew(self, why: str) -> NoReturn:
        import requests

        self.part.unlink()
        raise requests.ConnectionError(why)

    def _receive(self, response: Response, begun: int, total: int | None) -> None:
        import requests
        import urllib3

        with self.part.open("r+b" if begun else "wb") as file:
            file.seek(begun)
            file.truncate()
            try:
                # as they are: of files in gzip some servers say that it is an encoding, which requests would undo
                for piece in response.raw.stream(_PIECE_BYTES, decode_content=False):
                    begun += len(piece)
                    if total is not None and begun > total:
                        raise UserError(f"{self._name}: is longer than the {total:,} bytes that it should have")
                    file.write(piece)
                    self._told.update(self._name, begun, total, "bytes")
            except urllib3.exceptions.HTTPError as error:
                raise requests.ConnectionError(error) from error

    @property
    def size(self) -> int:
        """Return how many bytes have come."""
        with suppress(FileNotFoundError):
            return self.part.stat().st_size
        return 0

    def _rest(self, url: str, begun: int) -> dict[str, str]:
        """Return the headers that ask for the rest, or none where nobody can tell whether it fits."""
        wanted = {"Range": f"bytes={begun}-"}
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(self._validators.read_text(encoding="utf-8"))
            if kept["address"] == url:
                return {**wanted, "If-Range": kept["validator"]}
        return wanted if self._is_hash_known else {}

    def _keep_validator(self, url: str, validator: str) -> None:
        if validator:
            write_whole(self._validators, json.dumps({"address": url, "validator": validator}).encode())
        else:
            self._validators.unlink(missing_ok=True)

    def _check_room(self, total: int | None, begun: int) -> None:
        if self._num_bytes is not None and total != self._num_bytes:
            raise UserError(
                f"{self._name}: the file at the address has {total:,} bytes, the published one {self._num_bytes:,}"
            )
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and total - begun > free:
            raise UserError(f"{self.part.parent}: has room for {free:,} bytes, and {total - begun:,} are to come")


def _status(error: HTTPError) -> int:
    return error.response.status_code if error.response is not None else 0


def _validator(response: Response) -> str:
    """Return what tells whether a file is still the same, or nothing."""
    tag = response.headers.get("ETag", "")
    # a weak tag says that two files mean the same, not that their bytes are
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _first_byte(response: Response) -> int | None:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None
