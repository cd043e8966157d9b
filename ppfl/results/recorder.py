"""Writes a result file so that a kill at any moment leaves the last written state readable.

The whole file is written anew under another name and moved over the old one (`ppfl.core.files`),
at most every `WRITE_INTERVAL_SECONDS` while scores arrive (less often when writing takes long). A finished result is
never overwritten; who may write an unfinished one is decided by `ppfl.jobs.claim`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from ppfl.core.errors import UserError
from ppfl.core.files import try_to_write, write_whole
from ppfl.results.hdf5 import NotHDF5Error
from ppfl.results.layout import FILE_KIND, FINISHED, RUNNING, SAMPLES
from ppfl.results.quick_reader import attributes_of, kind_of
from ppfl.results.result_image import Group, Variable, image_of
from ppfl.results.seal import DamagedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

WRITE_INTERVAL_SECONDS = 2.0
LONGEST_INTERVAL_SECONDS = 4.0
_MOST_CLIENT_BYTES = 1 << 24
"""Of arrays with a number a client that are written before the run has ended."""
_OF_ONE_RUN = {"digest", "config", "started", "ended", SAMPLES}
"""Attributes that differ between the runs of a pack."""


Found: TypeAlias = Literal["new", "unfinished", "already done", "damaged"]
"""What is at the name of a result; `damaged`: a result that is not as it was written."""


def prepare(out: Path, digest: str) -> Found:
    """Create the folder of a result and look at what is there.

    Raises UserError when `out` holds another run or something that is no result, or cannot be written.
    """
    if not out.name:
        raise UserError(f"--out {out}: is a folder; give the name of a file, such as {out / 'result.h5'}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try_to_write(out.parent)
    except OSError as error:
        raise UserError(f"--out {out}: cannot write into {out.parent}: {error.strerror}") from error
    return look(out, digest)


def look(out: Path, digest: str) -> Found:
    """Say what is at `out`.

    Raises UserError when that is another run, something that is no result, or what the system does not let us read.
    """
    try:
        found = attributes_of(out)
    except FileNotFoundError:
        return "new"
    except NotHDF5Error as error:
        raise UserError(f"--out {out}: exists and is no HDF5 file; choose another name") from error
    except DamagedError as error:
        if kind_of(out) != FILE_KIND:
            raise UserError(f"--out {error}; choose another name") from error
        return "damaged"
    except OSError as error:
        raise UserError(f"--out {out}: exists and cannot be read: {error.strerror}") from error
    if found.get("kind") != FILE_KIND:
        raise UserError(f"--out {out}: exists and is no ppfl result; choose another name")
    if found["digest"] != digest:
        raise UserError(f"--out {out}: holds run {found['digest']}, this is run {digest}; choose another name")
    return "already done" if found["status"] in FINISHED else "unfinished"


def set_aside(out: Path) -> Path:
    """Give a damaged result another name, which no reader takes for a result; return that."""
    # never over an older one: two damaged results may tell more than one
    number = 1
    while (aside := out.with_name(f"{out.name}.damaged-{number}")).exists():
        number += 1
    try:
        out.rename(aside)
    except OSError as error:
        raise UserError(f"--out {out}: is damaged and cannot be set aside: {error.strerror}") from error
    return aside


class Recorder:
    """Collects what a run yields and writes it; one writer per file, on rank 0."""

    def __init__(
        self,
        out: Path,
        attributes: Mapping[str, Any],
        provenance: Mapping[str, Any],
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        """`before_write` is called before each write and may raise, for one who must not write any more."""
        self.out = out
        self._before_write = before_write
        self._attributes = attributes
        self._provenance = dict(provenance)
        self._facts: Mapping[str, Any] | None = None
        self._best_round: Mapping[str, Any] | None = None
        self._earlier: Mapping[str, np.ndarray] = {}
        """Rows, as `rows` returns them, before those of the two below."""
        self._rounds: list[int] = []
        self._series: dict[str, list[float | np.ndarray]] = {}
        self._clients: dict[str, np.ndarray] = {}
        self._newcomers: dict[str, np.ndarray] = {}
        self._newcomer_labels: dict[str, np.ndarray] = {}
        self._summary: dict[str, np.ndarray] = {}
        self._stage_costs: dict[str, np.ndarray] = {}
        self._arrivals: Callable[[], Mapping[str, np.ndarray]] | None = None
        self._losses: Callable[[], Mapping[str, np.ndarray]] | None = None
        self._seconds: Callable[[], Mapping[str, float]] | None = None
        self._summary_labels: tuple[list[str], list[str]] = ([], [])
        self._status = RUNNING
        self._last_write = -np.inf
        self._interval_seconds = WRITE_INTERVAL_SECONDS
        self._written_round: int | None = None

    def describe_problem(self, facts: Mapping[str, Any], clients: Mapping[str, np.ndarray]) -> None:
        """Store what is known before the first round; `clients` has arrays (M, …), names under "client"."""
        self._facts = facts
        self._clients.update(clients)

    def describe_best_round(self, facts: Mapping[str, Any]) -> None:
        """Store what is known of the best round when a run has ended."""
        self._best_round = facts

    def describe_newcomers(self, names: Sequence[str], steps: Sequence[int], facts: Mapping[str, np.ndarray]) -> None:
        """Store who is held out, after how many steps they are scored, and facts about them, (M,)."""
        self._newcomer_labels = {"client": np.array(names, dtype=object), "steps": np.array(steps)}
        self._newcomers.update(facts)

    def add_of_newcomers(self, scores: Mapping[str, np.ndarray]) -> None:
        """Add what they scored, (M, steps), to be written with the final state."""
        self._newcomers.update(scores)

    def follow_arrivals(self, arrivals: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Store with every write what `arrivals` returns then: arrays (arrival,)."""
        self._arrivals = arrivals

    def follow_losses(self, losses: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Do the same with what `losses` returns, arrays (loss,)."""
        self._losses = losses

    def follow_seconds(self, seconds: Callable[[], Mapping[str, float]]) -> None:
        """Store with every write what `seconds` returns then: seconds by what they were spent on."""
        self._seconds = seconds

    def append(self, round: int, scores: Mapping[str, float | np.ndarray]) -> None:
        """Add the scores after `round` rounds; write when the last write is old enough."""
        self.add(round, scores)
        if time.monotonic() - self._last_write >= self._interval_seconds:
            self.write()

    def add(self, round: int, scores: Mapping[str, float | np.ndarray]) -> None:
        """Add the scores after `round` rounds, to be written with the next ones."""
        self._rounds.append(round)
        for name, value in scores.items():
            self._series.setdefault(name, []).append(value)

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """All that was appended: {"round": (rounds,), name: (rounds, …)}."""
        added = {"round": np.array(self._rounds, dtype=np.int64)}
        added |= {name: np.array(values) for name, values in self._series.items()}
        if not len(self._earlier.get("round", ())):
            return added
        if not self._rounds:
            return dict(self._earlier)
        return {name: np.concatenate([self._earlier[name], values]) for name, values in added.items()}

    def restore(self, rows: Mapping[str, np.ndarray]) -> None:
        """Begin with rows as `rows` returns them: of an earlier part of the run, say."""
        self._earlier, self._rounds, self._series = rows, [], {}

    def finish(
        self,
        status: str,
        clients: Mapping[str, np.ndarray],
        summary: Mapping[str, np.ndarray],
        stages: list[str],
        statistics: list[str],
        provenance: Mapping[str, Any],
        costs: Mapping[str, np.ndarray],
    ) -> None:
        """Write the final state; `summary` has arrays (stage, statistic), `costs` (stage,), `clients` (M,)."""
        self._status = status
        self._clients.update(clients)
        self._summary = dict(summary)
        self._summary_labels = (stages, statistics)
        self._stage_costs = dict(costs)
        self._provenance |= provenance
        self.write()

    def write(self) -> None:
        """Write all that is known now, atomically. Raises UserError when the disk refuses; the old file stays."""
        # before each write, not once: a claim can be lost at any time, and what another job has written must stay
        self._before_write()
        started = time.monotonic()
        try:
            write_whole(self.out, self._image())
        except OSError as error:
            there = self._written_round is not None
            last = f"rounds up to {self._written_round} are in it" if there else "nothing was written"
            raise UserError(f"{self.out}: cannot write the result ({error}); {last}") from error
        self._last_write = time.monotonic()
        # a long history takes long to write, and no more than 5 seconds of rounds may be lost
        spent = self._last_write - started
        self._interval_seconds = min(max(WRITE_INTERVAL_SECONDS, 20.0 * spent), LONGEST_INTERVAL_SECONDS)
        self._written_round = self._last_round()

    def _last_round(self) -> int:
        if self._rounds:
            return self._rounds[-1]
        return int(self._earlier["round"][-1]) if len(self._earlier.get("round", ())) else 0

    def _image(self) -> bytes:
        """Build the file in memory: HDF5 does not survive a full disk, plain writing does."""
        return image_of(list(self._content()))

    def _content(self) -> Iterator[Group]:
        yield _described("/", {**self._attributes, "status": self._status, "complete": int(self._status in FINISHED)})
        yield _described("provenance", self._provenance)
        if self._facts is not None:
            yield Group("problem", {}, self._facts)
        if self._seconds is not None:
            yield Group("seconds", {}, self._seconds())
        if self._best_round is not None:
            yield Group("best_round", {}, self._best_round)
        names = self._clients.get("client")
        series = self.rows
        # as below: histories of many clients would make every write take seconds
        if self._status not in FINISHED and _bytes_of_clients(series) > _MOST_CLIENT_BYTES:
            series = {name: values for name, values in series.items() if values.ndim == 1}
        yield _group("rounds", {"round": series.pop("round")}, series, names)
        # facts that never change, of a million clients say, would make every write take seconds
        if self._status in FINISHED or sum(values.nbytes for values in self._clients.values()) <= _MOST_CLIENT_BYTES:
            yield _group("clients", {"client": names} if names is not None else {}, self._clients)
        if self._newcomer_labels:
            yield _group("newcomers", self._newcomer_labels, self._newcomers)
        for name, dimension, log in (("arrivals", "arrival", self._arrivals), ("losses", "loss", self._losses)):
            if log is not None:
                columns = log()
                numbers = np.arange(len(columns["client"]))
                yield _group(name, {dimension: numbers}, columns)
        if self._summary:
            stages, statistics = self._summary_labels
            labels = {"stage": np.array(stages, dtype=object), "statistic": np.array(statistics, dtype=object)}
            yield _group("summary", labels, self._summary)
            yield _group("stages", {"stage": labels["stage"]}, self._stage_costs)


def _bytes_of_clients(series: Mapping[str, np.ndarray]) -> int:
    return sum(values.nbytes for values in series.values() if values.ndim > 1)


def _described(group: str, attributes: Mapping[str, Any]) -> Group:
    constants = {name: value for name, value in attributes.items() if name not in _OF_ONE_RUN}
    return Group(group, constants, {name: value for name, value in attributes.items() if name in _OF_ONE_RUN})


def _group(
    name: str,
    coordinates: Mapping[str, np.ndarray],
    variables: Mapping[str, np.ndarray],
    client_names: np.ndarray | None = None,
) -> Group:
    """Return a group of variables whose first dimensions are the coordinates; others are `client` and `partner`, or
    `label`."""
    found = {key: Variable(key, values, (key,)) for key, values in coordinates.items()}
    for key, array in variables.items():
        if key in coordinates:
            continue
        dimensions = tuple(coordinates)[: array.ndim]
        for extra, along in _further_dimensions(name, array, client_names, len(dimensions)):
            found.setdefault(extra, Variable(extra, along, (extra,)))
            dimensions += (extra,)
        # a file with other lengths can be written, and reads as numbers of the wrong clients
        assert array.shape == tuple(len(found[along].values) for along in dimensions), f"{name}/{key}: {array.shape}"
        found[key] = Variable(key, array, dimensions)
    return Group(name, {}, {}, tuple(found.values()))


def _further_dimensions(
    group: str, array: np.ndarray, client_names: np.ndarray | None, known: int
) -> list[tuple[str, np.ndarray]]:
    """Return names and values of the dimensions after the known ones: clients beside rounds, and whom they are told of;
    labels beside clients."""
    if group != "rounds":
        return [("label", np.arange(array.shape[-1]))] if array.ndim > known else []
    if array.ndim > known:
        assert client_names is not None
        return [("client", client_names), ("partner", client_names)][: array.ndim - known]
    return []
