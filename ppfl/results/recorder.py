"""Writes a result file so that a kill at any moment leaves the last written state readable.

The whole file is written anew under another name and moved over the old one (`ppfl.core.files`),
at most every `WRITE_INTERVAL_SECONDS` while scores arrive (less often when writing takes long). A finished result is
never overwritten; who may write an unfinished one is decided by `ppfl.jobs.claim`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import h5py
import numpy as np

from ppfl.core.errors import UserError
from ppfl.core.files import try_to_write, write_whole
from ppfl.results.hdf5 import NotHDF5Error
from ppfl.results.layout import FILE_KIND, FINISHED, RUNNING
from ppfl.results.quick_reader import attributes_of, kind_of
from ppfl.results.seal import CHECKSUM, DamagedError, blank, sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WRITE_INTERVAL_SECONDS = 2.0
LONGEST_INTERVAL_SECONDS = 4.0


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
        self._attributes = {"kind": FILE_KIND, **attributes}
        self._groups: dict[str, Mapping[str, Any]] = {"provenance": provenance}
        self._rounds: list[int] = []
        self._series: dict[str, list[float | np.ndarray]] = {}
        self._clients: dict[str, np.ndarray] = {}
        self._summary: dict[str, np.ndarray] = {}
        self._stage_costs: dict[str, np.ndarray] = {}
        self._arrivals: Callable[[], Mapping[str, np.ndarray]] | None = None
        self._seconds: Callable[[], Mapping[str, float]] | None = None
        self._summary_labels: tuple[list[str], list[str]] = ([], [])
        self._status = RUNNING
        self._last_write = -np.inf
        self._interval_seconds = WRITE_INTERVAL_SECONDS
        self._written_round: int | None = None

    def describe_problem(self, facts: Mapping[str, Any], clients: Mapping[str, np.ndarray]) -> None:
        """Store what is known before the first round; `clients` has arrays (M, …), names under "client"."""
        self._groups["problem"] = facts
        self._clients.update(clients)

    def follow_arrivals(self, arrivals: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Store with every write what `arrivals` returns then: arrays (arrival,)."""
        self._arrivals = arrivals

    def follow_seconds(self, seconds: Callable[[], Mapping[str, float]]) -> None:
        """Store with every write what `seconds` returns then: seconds by what they were spent on."""
        self._seconds = seconds

    def append(self, round: int, scores: Mapping[str, float | np.ndarray]) -> None:
        """Add the scores after `round` rounds; write when the last write is old enough."""
        self._rounds.append(round)
        for name, value in scores.items():
            self._series.setdefault(name, []).append(value)
        if time.monotonic() - self._last_write >= self._interval_seconds:
            self.write()

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """All that was appended: {"round": (rounds,), name: (rounds, …)}."""
        return {"round": np.array(self._rounds), **{name: np.array(values) for name, values in self._series.items()}}

    def restore(self, rows: Mapping[str, np.ndarray]) -> None:
        """Begin with the rows of an earlier part of the run."""
        self._rounds = rows["round"].tolist()
        self._series = {name: list(values) for name, values in rows.items() if name != "round"}

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
        self._groups["provenance"] = {**self._groups["provenance"], **provenance}
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
        self._written_round = self._rounds[-1] if self._rounds else 0

    def _image(self) -> bytes:
        """Build the file in memory: HDF5 does not survive a full disk, plain writing does."""
        with h5py.File("image", "w", driver="core", backing_store=False) as file:
            file.attrs[CHECKSUM] = np.bytes_(blank(FILE_KIND))  # the first of all, so that it is near the beginning
            self._write_groups(file)
            file.flush()
            return sealed(file.id.get_file_image())

    def _write_groups(self, file: h5py.File) -> None:
        file.attrs.update({**self._attributes, "status": self._status, "complete": int(self._status in FINISHED)})
        for name, attributes in self._groups.items():
            file.create_group(name).attrs.update(attributes)
        if self._seconds is not None:
            file.create_group("seconds").attrs.update(self._seconds())
        names = self._clients.get("client")
        series = {name: np.array(values) for name, values in self._series.items()}
        _write_dataset_group(file, "rounds", {"round": np.array(self._rounds)}, series, names)
        coordinates = {"client": names} if names is not None else {}
        _write_dataset_group(file, "clients", coordinates, self._clients, None)
        if self._arrivals is not None:
            columns = self._arrivals()
            numbers = np.arange(len(next(iter(columns.values()))))
            _write_dataset_group(file, "arrivals", {"arrival": numbers}, columns, None)
        if self._summary:
            stages, statistics = self._summary_labels
            labels = {"stage": np.array(stages, dtype=object), "statistic": np.array(statistics, dtype=object)}
            _write_dataset_group(file, "summary", labels, self._summary, None)
            _write_dataset_group(file, "stages", {"stage": labels["stage"]}, self._stage_costs, None)


def _write_dataset_group(
    file: h5py.File,
    group_name: str,
    coordinates: Mapping[str, np.ndarray],
    variables: Mapping[str, np.ndarray],
    client_names: np.ndarray | None,
) -> None:
    """Write variables whose first dimensions are the coordinates, as dimension scales: xarray sees named dimensions."""
    group = file.create_group(group_name)
    for name, values in coordinates.items():
        # scales first, since variables are attached to them
        _write_coordinate(group, name, values)
    for name, array in variables.items():
        if name in coordinates:
            continue
        dataset = group.create_dataset(name, data=array)
        dimensions = list(coordinates)[: array.ndim]
        if array.ndim > len(dimensions):
            dimensions += _extra_dimension(group, group_name, array, client_names)
        for axis, dimension in enumerate(dimensions):
            dataset.dims[axis].attach_scale(group[dimension])


def _extra_dimension(
    group: h5py.Group, group_name: str, array: np.ndarray, client_names: np.ndarray | None
) -> list[str]:
    """Name the last dimension of a two-dimensional variable: clients beside rounds, labels beside clients."""
    name = "client" if group_name == "rounds" else "label"
    if name not in group:
        _write_coordinate(group, name, client_names if name == "client" else np.arange(array.shape[-1]))
    return [name]


def _write_coordinate(group: h5py.Group, name: str, values: np.ndarray | None) -> None:
    assert values is not None
    is_text = values.dtype.kind in "OU"
    data = group.create_dataset(
        name, data=values.astype(object) if is_text else values, dtype=h5py.string_dtype() if is_text else None
    )
    data.make_scale(name)
