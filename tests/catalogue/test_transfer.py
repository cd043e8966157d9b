"""How far a transfer is: lines in a log, a bar on a terminal, and names of files as they are."""

from __future__ import annotations

import sys

import pytest

from ppfl.cli import transfer
from ppfl.cli.transfer import Transfer


def test_lines_are_written_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 6.0, 6.0, 7.0, 12.0, 12.0])
    monkeypatch.setattr(transfer.time, "monotonic", lambda: next(clock))
    with Transfer() as told:
        told.tell("file: from somewhere")
        told.update("file", 1000, 4000, "bytes")
        told.update("file", 2000, 4000, "bytes")
        told.update("file", 3000, 4000, "bytes")
        told.update("file", 3500, None, "bytes")
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err == "ppfl: file: from somewhere\nppfl: file: 2,000 of 4,000 bytes\nppfl: file: 3,500 bytes\n"


def test_a_terminal_has_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with Transfer() as told:
        told.tell("[red]file[/red]: " + "long " * 40)
        told.update("[b]one[/b]", 1, 4, "images")
        told.update("[b]one[/b]", 2, 4, "images")
        told.update("another", 5, None, "bytes")
    written = capsys.readouterr()
    assert written.out == ""
    assert "ppfl: [red]file[/red]: " + "long " * 40 in written.err
    assert "[b]one[/b]" in written.err
    assert "50%" in written.err
