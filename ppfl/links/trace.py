"""Links whose bandwidths were measured, or drawn, elsewhere."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ppfl.core.agree import SharedUserError
from ppfl.core.data_file import DataFile
from ppfl.core.errors import UserError
from ppfl.interfaces.links import DIRECTIONS, Direction, Links

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ppfl.core.plugins import Example


class Trace(Links):
    """b of a client in round t, asynchronously of its job t: entry t of its row in the file.

    The file has `down_bits_per_second` and `up_bits_per_second`, (clients, entries) each, in the order of clients; one
    that is missing means that what goes in that direction takes its latency alone.
    """

    name: Literal["trace"]
    example: ClassVar[Example] = {"file": "bandwidths.h5"}
    file: DataFile
    """HDF5."""
    repeats: bool = False
    """Whether a trace goes on from its beginning after its end; otherwise one that is too short is refused."""

    def bits_per_second(self, direction: Direction, seed: int, client: int, job: int) -> float:
        """Return the entry. Raises SharedUserError behind the last one."""
        trace = self._traces.get(direction)
        if trace is None:
            return float("inf")
        if job >= trace.shape[1] and not self.repeats:
            raise SharedUserError(f"network.file: {self._too_short(direction, f'job {job + 1} of client {client}')}")
        return float(trace[client, job % trace.shape[1]])

    def has_none(self, direction: Direction, seed: int, client: int) -> bool:
        """Say no: all entries are above 0."""
        return False

    def check(self, num_clients: int, num_rounds: int | None) -> None:
        """Refuse files of other clients, with entries that are not above 0, and with fewer than there are rounds."""
        super().check(num_clients, num_rounds)
        if not self._traces:
            names = " nor ".join(_key(direction) for direction in DIRECTIONS)
            raise ValueError(f"file: {self.file.path.name} has neither {names}")
        for direction, trace in self._traces.items():
            if trace.shape[0] != num_clients:
                many = f"{trace.shape[0]} rows for {num_clients} clients"
                raise ValueError(f"file: {self.file.path.name}, {_key(direction)}: {many}; one for each")
            if num_rounds is not None and trace.shape[1] < num_rounds and not self.repeats:
                raise ValueError(f"file: {self._too_short(direction, f'{num_rounds} rounds')}")

    def _too_short(self, direction: Direction, asked: str) -> str:
        entries = self._traces[direction].shape[1]
        return (
            f"{self.file.path.name}, {_key(direction)}: {entries} entries, and {asked} asked for; give a longer trace, "
            f"or network.repeats: true"
        )

    @cached_property
    def _traces(self) -> dict[Direction, NDArray[np.float64]]:
        """Read once, as the digest is. Raises UserError for anything but finite numbers above 0."""
        # now, as configurations are read without HDF5
        from ppfl.interfaces.data_hdf5 import open_data

        path, found = self.file.path, {}
        with open_data(path, f"network.file: {path.name}") as root:
            for direction in DIRECTIONS:
                where = f"network.file: {path.name}, {_key(direction)}"
                array = root.array(_key(direction), where)
                if array is None:
                    continue
                if len(array.shape) != 2 or array.dtype.kind not in "iuf" or 0 in array.shape:
                    raise UserError(f"{where}: is no table of numbers, (clients, entries)")
                values = array.read().astype(np.float64)
                wrong = np.argwhere(~(np.isfinite(values) & (values > 0)))
                if len(wrong):
                    client, entry = wrong[0].tolist()
                    number = values[client, entry]
                    raise UserError(
                        f"{where}: client {client} has {number:g} at entry {entry}; allowed are numbers above 0"
                    )
                found[direction] = values
        return found


def _key(direction: Direction) -> str:
    return f"{direction}_bits_per_second"
