"""One scenario, killed again and again."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import yaml

from ppfl.jobs.stopping import STOPPED
from ppfl.results.layout import apart_path, checkpoint_path, running_path
from tests.drill.processes import kill, tree, wait_until_gone
from tests.drill.scenarios import CHECKPOINT_SECONDS, Scenario
from tests.mpi.jobs import ROOT, arrays

KINDS = ("kill -9 of one", "kill -9 of all", "suspended", "SIGTERM", "SIGHUP", "SIGUSR1")
_SIGNALS = KINDS[3:]
_SLACK = 1.3
"""Times the time of an undisturbed run: until then a kill comes."""


class Drill:
    """Counts what was done to a scenario and what came of it."""

    def __init__(self, scenario: Scenario, folder: Path, rounds: int, draw: random.Random) -> None:
        self.kills: Counter[str] = Counter()
        self.completed = 0
        self.longest_loss = 0.0
        """Seconds beyond a checkpoint that were computed again, at most."""
        self.complaints: list[str] = []
        self._scenario = scenario
        self._folder = folder
        self._draw = draw
        self._config = scenario.write(folder, rounds)
        self._rounds = rounds
        self._whole, self._seconds = self._undisturbed()

    def summary(self) -> str:
        """Return the counts in words."""
        kinds = ", ".join(f"{self.kills[kind]} {kind}" for kind in KINDS)
        return (
            f"{self.kills.total()} kills ({kinds}), {self.completed} times to the end, {self.longest_loss:.1f} s lost"
        )

    def repeat(self, kills: int, tell: Callable[[str], None] = lambda line: None) -> None:
        """Compute the results anew, each time with kills until they are there, until there were so many kills; `tell`
        is given the counts each time."""
        while self.kills.total() < kills and not self.complaints:
            out = self._folder / f"out-{self.completed}"
            out.mkdir()
            for _ in range(100):
                if self._attempt(out):
                    break
            self.completed += 1
            self._compare(out)
            shutil.rmtree(out)
            tell(self.summary())

    def _undisturbed(self) -> tuple[list[dict[str, bytes]], float]:
        out = self._folder / "whole"
        out.mkdir()
        started = time.monotonic()
        done = subprocess.run(self._command(out), cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [arrays(path) for path in self._results(out)], time.monotonic() - started

    def _attempt(self, out: Path) -> bool:
        """Start it once; return whether it came to its end."""
        with (self._folder / "log").open("w+") as log:
            process = subprocess.Popen(
                self._command(out), cwd=ROOT, stdout=log, stderr=log, text=True, start_new_session=True
            )
            everybody, how, is_listening = [process.pid], "", False
            while True:
                try:
                    process.wait(self._draw.uniform(0.0, _SLACK * self._seconds))
                    break
                except subprocess.TimeoutExpired:
                    everybody = sorted({*everybody, *tree(process.pid)})
                    how = self._draw.choice(KINDS)
                    at_work = self._at_work(out, everybody)
                    is_listening = bool(at_work)
                    if how not in _SIGNALS:
                        self._note_loss(at_work)
                    self.kills[how] += 1
                    if kill(process, how, self._draw):
                        break
            code = process.wait(120)
            wait_until_gone(everybody)
            log.seek(0)
            said = log.read()
        must_save = how in _SIGNALS and is_listening and not (how == "SIGHUP" and self._scenario.is_under_launcher)
        if "Traceback" in said or (must_save and code not in (0, STOPPED)) or (not how and code != 0):
            self.complaints.append(f"{self._scenario.name}: after {how or 'nothing'} exit code {code}: {said[-2000:]}")
        return code == 0

    def _at_work(self, out: Path, everybody: list[int]) -> dict[Path, datetime]:
        """Return since when these processes have been at work on results; what lies there may be of an attempt before,
        while this one has not begun to listen to signals."""
        found = {}
        for result in self._results(out):
            with suppress(OSError, ValueError, TypeError, KeyError):
                claim = json.loads(running_path(result).read_text())
                if claim["pid"] in everybody:
                    found[result] = datetime.fromisoformat(claim["started"])
        return found

    def _note_loss(self, at_work: Mapping[Path, datetime]) -> None:
        """Learn how much a kill costs: since the last checkpoint or the beginning of each run that is at work."""
        for result, started in at_work.items():
            marks = [checkpoint_path(path) / "current.json" for path in (result, apart_path(result))]
            try:
                begun = max(mark.stat().st_mtime for mark in marks if mark.exists())
            except (OSError, ValueError):  # not yet at its first checkpoint
                continue
            since = time.time() - max(begun, started.timestamp())
            self.longest_loss = max(self.longest_loss, since - CHECKPOINT_SECONDS)

    def _compare(self, out: Path) -> None:
        name = self._scenario.name
        for number, path in enumerate(self._results(out)):
            found = arrays(path)
            if found != (self._replayed(path, found) if self._scenario.is_replayed else self._whole[number]):
                self.complaints.append(f"{name}: {path.name} has other bytes than undisturbed")
        names = {path.name for path in self._results(out)}
        left = [p.name for p in out.iterdir() if p.name not in names and not p.name.endswith(".safetensors")]
        left += [p.name for p in out.iterdir() if p.name.startswith(".")]
        apart = [f"running/{p.name}" for p in (out / "running").glob("*")]
        if apart or set(left) - {"running", "logs"}:
            self.complaints.append(f"{name}: left beside the results: {left + apart}")

    def _replayed(self, live: Path, found: dict[str, bytes]) -> dict[str, bytes]:
        """Return what a replay of the log of a run holds, of what the run has."""
        config = yaml.safe_load(self._config.read_text())
        path, again = self._folder / "replay.yaml", self._folder / "replay.h5"
        path.write_text(yaml.safe_dump(config | {"asynchronous": {"engine": "virtual", "replay": str(live)}}))
        again.unlink(missing_ok=True)
        command = Scenario("replay").command(path, self._folder)
        command[command.index("--out") + 1] = str(again)
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        replayed = arrays(again)
        return {key: found[key] if key == "arrivals/seconds" else replayed.get(key, b"") for key in found}

    def _results(self, out: Path) -> list[Path]:
        return self._scenario.results(self._config, out)

    def _command(self, out: Path) -> list[str]:
        return self._scenario.command(self._config, out, delivers=self._draw.random() < 0.5)
