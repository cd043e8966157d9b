"""A web server of files on this machine, which breaks off, changes and refuses as it is told, and a proxy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Site:
    """What is served, and how."""

    files: dict[str, bytes]
    address: str = ""
    cut: int | None = None
    """Bytes after which a connection ends."""
    status: int = 200
    has_ranges: bool = True
    etag: str | None = '"first"'
    says_length: bool = True
    wrong_range: bool = False
    heeds_if_range: bool = True
    encoding: str | None = None
    """That the server says a file has."""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Path, or address where it is asked as a proxy, and headers."""

    def ranges(self) -> list[str | None]:
        """What parts were asked for."""
        return [headers.get("Range") for _, headers in self.requests]


@contextmanager
def served(files: dict[str, bytes], **how: Any) -> Iterator[Site]:
    """Serve until the block ends."""
    site = Site(dict(files), **how)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append((self.path, dict(self.headers)))
            content = site.files.get(urlsplit(self.path).path.lstrip("/"))
            if site.status != 200 or content is None:
                self.send_error(site.status if site.status != 200 else 404)
                return
            first, whole = _wanted(site, self.headers), len(content)
            if first is not None and first >= whole:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{whole}")
                self.end_headers()
                return
            self.send_response(200 if first is None else 206)
            if first is not None:
                shown = first + 1 if site.wrong_range else first
                self.send_header("Content-Range", f"bytes {shown}-{whole - 1}/{whole}")
            if site.etag:
                self.send_header("ETag", site.etag)
            if site.encoding:
                self.send_header("Content-Encoding", site.encoding)
            rest = content[first or 0 :]
            if site.says_length:
                self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: site.cut])
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Be silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _wanted(site: Site, headers: Any) -> int | None:
    """The first byte, of a request for the rest of the file that is still the same."""
    if not site.has_ranges or "Range" not in headers:
        return None
    if site.heeds_if_range and "If-Range" in headers and headers["If-Range"] != site.etag:
        return None
    return int(headers["Range"].removeprefix("bytes=").removesuffix("-"))
