"""What became of the jobs of a recorded run: which of them arrived, which were lost, and when."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from ppfl.interfaces.network import Fate

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


class RecordedLoss(NamedTuple):
    """One job that was lost."""

    client: int
    version: int
    seconds: float


class Recorded:
    """The fates of jobs by client and number, and the losses in their order."""

    def __init__(self, arrivals: Mapping[str, np.ndarray], losses: Mapping[str, np.ndarray] | None) -> None:
        self._losses = {} if losses is None else {name: values.tolist() for name, values in losses.items()}
        self._num_losses = len(self._losses.get("client", ()))
        self._fates: dict[int, list[Fate]] = defaultdict(list)
        if not self._num_losses:
            return
        # by client: numbers of jobs are not in a log, and each client has its jobs one after another
        lost = 0
        for position, client in enumerate(arrivals["client"].tolist()):
            while lost < self._num_losses and self._losses["arrivals"][lost] <= position:
                self._fates[self._losses["client"][lost]].append(Fate(self._losses["fate"][lost]))
                lost += 1
            self._fates[client].append(Fate.ARRIVED)

    def of(self, client: int, number: int) -> Fate:
        """Return what became of a job; of one that the log does not know the end of, that it will arrive."""
        known = self._fates.get(client, ())
        return known[number] if number < len(known) else Fate.ARRIVED

    def loss(self, number: int, position: int) -> RecordedLoss | None:
        """Return a loss where it was before the arrival at a position; else None."""
        if number >= self._num_losses or self._losses["arrivals"][number] > position:
            return None
        return RecordedLoss(*(self._losses[name][number] for name in RecordedLoss._fields))
