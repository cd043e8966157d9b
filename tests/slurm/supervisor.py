"""Keeps the daemons of a test cluster: `python supervisor.py FOLDER`; everything ends when its standard input does.

The test process holds the other end of that pipe, so the cluster goes with it, however it ends. Jobs and their steps
detach themselves from the daemons; as a subreaper this process inherits them and can end them too.

Commands, one a line: `start NAME`, `kill NAME` (a node with all that runs on it). Each is answered with `done`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_SECONDS = 5.0
NODE_VARIABLE = "PPFL_TEST_NODE"
"""Set for a node's daemon; its steps inherit it, and tasks have SLURMD_NODENAME from Slurm."""


def descendants(root: int) -> Iterator[int]:
    """Yield the processes below one, zombies left out."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[:2]
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(entry.name))
    waiting = [root]
    while waiting:
        found = children.get(waiting.pop(), [])
        waiting += found
        yield from found


def runs_on(process: int, node: str) -> bool:
    """Return whether the environment of a process says that it belongs to a node."""
    try:
        variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(f"{name}={node}".encode() in variables for name in (NODE_VARIABLE, "SLURMD_NODENAME"))


def end(is_meant: Callable[[int], bool], number: signal.Signals) -> None:
    """Signal those of our descendants that are meant, until none is left or patience ends."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (meant := [p for p in descendants(os.getpid()) if is_meant(p)]) and time.monotonic() < deadline:
        for process in meant:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        time.sleep(0.05)


def reap() -> None:
    """Collect the exit codes of everything that we have inherited."""
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, 0):
                pass
        time.sleep(0.1)


def main(folder: Path) -> None:
    """Start what FOLDER/daemons.json lists, {name: [command, …]}; obey until the end of the input."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    daemons: dict[str, list[str]] = json.loads((folder / "daemons.json").read_text())

    def start(name: str) -> None:
        with (folder / "log" / f"{name}.out").open("ab") as log:
            subprocess.Popen(
                daemons[name], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True,
                env=os.environ | {NODE_VARIABLE: name},
            )  # fmt: skip

    for name in daemons:
        start(name)
    threading.Thread(target=reap, daemon=True).start()
    for line in sys.stdin:
        verb, name = line.split()
        if verb == "start":
            start(name)
        else:
            end(lambda process, node=name: runs_on(process, node), signal.SIGKILL)  # type: ignore[misc]
        sys.stdout.write("done\n")
        sys.stdout.flush()
    end(lambda _: True, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    # whoever interrupts the tests with ^C or a signal to their group ends the input, and that is enough
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    main(Path(sys.argv[1]))
