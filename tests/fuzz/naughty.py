"""Kinds that do what no reader may, by the number of the flip, to see that the harness notices."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from tests.fuzz.harness import Kind

GOOD = b"\0" * 64


def make(folder: Path) -> Path:
    (folder / "beside.txt").write_text("beside")
    file = folder / "file.bin"
    file.write_bytes(GOOD)
    return file


def check(file: Path) -> str:
    content = file.read_bytes()
    assert (file.parent / "beside.txt").read_text() == "beside"
    (file.parent / "beside.txt").unlink()  # each file has a folder of its own
    if content == GOOD:
        return "equal"
    assert sum(one != other for one, other in zip(content, GOOD, strict=True)) == 1
    match int(file.parent.name.rpartition("-")[2]):
        case 1:
            raise KeyError("a traceback")
        case 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        case 3:
            time.sleep(3600)
        case 4:
            bytearray(16 << 30)
        case 5:
            return "read as if nothing were wrong"
        case 6:
            sys.stdout.write("a reader that prints")
    return "refused: a wrong byte"


KINDS = (Kind("naughty", make, check), Kind("other", make, lambda file: "equal"))
