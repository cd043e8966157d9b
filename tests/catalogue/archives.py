"""Archives made of bytes."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping


def tar(members: Mapping[str, bytes | tarfile.TarInfo], mode: str = "w:bz2") -> bytes:
    """Return an archive of files, or of other things that a header describes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            if isinstance(content, bytes):
                head = tarfile.TarInfo(name)
                head.size = len(content)
                archive.addfile(head, io.BytesIO(content))
            else:
                archive.addfile(content)
    return out.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    """Return a zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()
