"""Files with one wrong byte, read in a child process, so that a crash, a hang or a huge allocation is seen.

A module of kinds has `KINDS`, a tuple of `Kind`, and ends with a call of `main("tests.fuzz.<module>")`:
`python -m tests.fuzz.<module> --flips 20000 --seed 1` damages as many files as one likes, and tests call `fuzz`.
One child reads many files, one after the other; when it dies or stays silent, that is noted and another one goes on.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import importlib
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

PATIENCE_SECONDS = 60.0
"""Silence after which a child counts as hung, by its own processor time; one file takes milliseconds."""
SLEEP_FACTOR = 10.0
"""So many times as long it may be silent by the clock on the wall: on a busy machine it may wait for a processor."""
SPARE_BYTES = 2 << 30
"""Address space that a child may take beyond what it has before it reads the first file."""
_ROOT = Path(__file__).parent.parent.parent
_MEMORY = Path("/dev/shm")
"""Thousands of copies are made and removed: where there is a file system in memory, no disk has to know of them."""


@dataclass(frozen=True)
class Kind:
    """One kind of file: how a good one is made, and how one is read."""

    name: str
    make: Callable[[Path], Path]
    """Writes a good file into a folder, and whatever must lie beside it, by relative paths alone; returns the file."""
    check: Callable[[Path], str]
    """Reads a damaged one, in a copy of that folder of its own; returns what came of it, such as "refused: …".

    Raises for whatever must not be: an exception that is not meant for users fails the test.
    """
    allowed: tuple[str, ...] = ("refused", "equal")
    """What may come of it: texts that `check` returns, up to the first colon."""


@dataclass
class Report:
    """What came of the damaged files of one kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """One text a file that did what it must not, with the number of the flip, the byte and what happened."""


def fuzz(
    module: str, flips: int, seed: int, names: Sequence[str] = (), patience_seconds: float = PATIENCE_SECONDS
) -> dict[str, Report]:
    """Damage the good file of each kind (default: all of the module) `flips` times, one byte at a time."""
    chosen = [kind.name for kind in _kinds(module) if not names or kind.name in names]
    units = [(name, number) for name in chosen for number in range(flips)]
    reports = {name: Report() for name in chosen}
    with tempfile.TemporaryDirectory(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None) as folder:
        done = 0
        while done < len(units):
            told = _told_by_child([module, *chosen], flips, seed, done, Path(folder), patience_seconds)
            before = done
            for outcome in told:
                _note(reports[units[done][0]], units[done][1], outcome)
                done += 1
            assert done > before, "a child ended without a word"
    return reports


def main(module: str) -> None:
    """Damage files from the command line and show what came of it; exit code 1 when something must not be."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--flips", type=int, default=500, help="files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", default=[], choices=[kind.name for kind in _kinds(module)])
    asked = parser.parse_args()
    reports = fuzz(module, asked.flips, asked.seed, asked.kind)
    for name, report in reports.items():
        counts = ", ".join(f"{count} {outcome}" for outcome, count in report.outcomes.most_common())
        lines = [f"{name}: {asked.flips} flips: {counts or 'nothing allowed'}; {len(report.failures)} failures"]
        sys.stdout.write("\n  ".join([*lines, *report.failures]) + "\n")
    sys.exit(any(report.failures for report in reports.values()))


def damage(content: bytes, seed: int, number: int) -> tuple[bytes, str]:
    """Return the content with one byte changed, and in words which; decided by (seed, number) alone."""
    draws = np.random.default_rng([seed, number])
    position, change = int(draws.integers(len(content))), int(draws.integers(1, 256))
    changed = bytearray(content)
    changed[position] ^= change
    return bytes(changed), f"byte {position}: {content[position]:#04x} -> {changed[position]:#04x}"


def _kinds(module: str) -> tuple[Kind, ...]:
    kinds: tuple[Kind, ...] = importlib.import_module(module).KINDS
    return kinds


def _note(report: Report, number: int, outcome: str) -> None:
    verdict, _, text = outcome.partition(" ")
    if verdict == "allowed":
        report.outcomes[text] += 1
    else:
        report.failures.append(f"flip {number}: {text}")


def _told_by_child(
    kinds: list[str], flips: int, seed: int, first: int, folder: Path, patience_seconds: float
) -> Iterator[str]:
    """Yield "allowed OUTCOME" or "failed WHAT" for one file after the other, from number `first` on.

    The last one may be that the child died or hung; the files after it are for another child.
    """
    command = [sys.executable, "-m", "tests.fuzz.harness", *map(str, (flips, seed, first, folder)), *kinds]
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=_ROOT)
        assert child.stdout is not None
        num_begun, num_ended, what, is_ready, hung = 0, 0, "", False, False
        try:
            for line in _lines(child, patience_seconds):
                word, _, text = line.partition(" ")
                if word == "ready":
                    is_ready = True
                elif word == "begin":
                    num_begun, what = num_begun + 1, text
                else:
                    num_ended += 1
                    yield f"{word} {text}" if word == "allowed" else f"{word} {what}: {text}"
        except TimeoutError:
            hung = True
            child.kill()
        code = child.wait()
        child.stdout.close()
        errors.seek(0)
        said = errors.read()
    if num_begun > num_ended:
        yield f"failed {what}: " + ("hung" if hung else f"died with {_name(code)}: {_last_lines(said)}")
    elif code != 0 or not is_ready:
        raise RuntimeError(f"the child ended with {_name(code)} between two files:\n{said}")


def _lines(child: subprocess.Popen[str], patience_seconds: float) -> Iterator[str]:
    """Yield what a child prints, to its end. Raises TimeoutError when, after the first piece, it is silent too long."""
    assert child.stdout is not None
    rest, patience = b"", PATIENCE_SECONDS
    spent, heard = _processor_seconds(child.pid), time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(1.0):
                is_hung = _processor_seconds(child.pid) - spent > patience
                if is_hung or time.monotonic() - heard > SLEEP_FACTOR * patience:
                    raise TimeoutError
                continue
            piece, patience = os.read(child.stdout.fileno(), 1 << 16), patience_seconds
            if not piece:
                return
            spent, heard = _processor_seconds(child.pid), time.monotonic()
            *whole, rest = (rest + piece).split(b"\n")
            yield from (line.decode() for line in whole)


def _processor_seconds(pid: int) -> float:
    """Return the processor time of a process of ours that has not been waited for."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def _name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _last_lines(text: str, last_first: bool = False) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip(" ^~")][-9:]
    return " | ".join([lines[-1], *lines[:-1]] if last_first and lines else lines)


def _child(arguments: list[str]) -> None:
    """Read the damaged files from number `first` on, and tell of each of them in one line before and one after."""
    flips, seed, first = map(int, arguments[:3])
    folder, module, chosen = Path(arguments[3]), arguments[4], arguments[5:]
    told, sys.stdout = sys.stdout, sys.stderr  # what is read may print
    faulthandler.enable()
    kinds = {kind.name: kind for kind in _kinds(module)}
    units = [(name, number) for name in chosen for number in range(flips)]
    good = {name: _Good.of(_make(kinds[name], folder / name), folder / name) for name in chosen}
    _limit_memory()
    gc.freeze()
    _tell(told, "ready")
    for name, number in units[first:]:
        kind = kinds[name]
        file = good[name].damaged(folder / f"{name}-{number}", seed, number, told)
        try:
            outcome = kind.check(file)
            is_allowed = outcome.split(":", 1)[0] in kind.allowed
            text = outcome.split(":", 1)[0] if is_allowed else outcome
            _tell(told, f"{'allowed' if is_allowed else 'failed'} {text}")
        except BaseException:  # noqa: BLE001  (whatever it is, the next file comes)
            _tell(told, f"failed {_last_lines(traceback.format_exc(), last_first=True)}")
        shutil.rmtree(folder / f"{name}-{number}", ignore_errors=True)
        gc.collect()  # what an error holds, such as an open file, is not to decide about the next one
        gc.freeze()  # looks at what is new alone the next time


def _make(kind: Kind, folder: Path) -> Path:
    """Make the good file, which must be read without damage; an earlier child may have made it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    file = kind.make(folder)
    copy = folder.with_name(f"{folder.name}-good")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    outcome = kind.check(copy / file.relative_to(folder))
    assert outcome == "equal", f"{kind.name}: the file without damage is {outcome!r}"
    return file


@dataclass(frozen=True)
class _Good:
    """A good file and what lies beside it, by relative paths: read once, written for each flip."""

    file: Path
    folders: tuple[Path, ...]
    contents: dict[Path, bytes]

    @classmethod
    def of(cls, file: Path, folder: Path) -> _Good:
        found = sorted(folder.rglob("*"))
        folders = tuple(path.relative_to(folder) for path in found if path.is_dir())
        contents = {path.relative_to(folder): path.read_bytes() for path in found if path.is_file()}
        return cls(file.relative_to(folder), folders, contents)

    def damaged(self, target: Path, seed: int, number: int, told: IO[str]) -> Path:
        """Write all of it anew, the file with a wrong byte; tell which."""
        if target.exists():  # of a child that has died
            shutil.rmtree(target)
        target.mkdir()
        for folder in self.folders:
            (target / folder).mkdir()
        content, words = damage(self.contents[self.file], seed, number)
        for path, whole in self.contents.items():
            (target / path).write_bytes(content if path == self.file else whole)
        _tell(told, f"begin {words}")
        return target / self.file


def _tell(told: IO[str], text: str) -> None:
    told.write(" ".join(text.split()) + "\n")
    told.flush()


def _limit_memory() -> None:
    """Bound the address space: a size that a damaged file declares becomes an error, not a machine without memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    _child(sys.argv[1:])
