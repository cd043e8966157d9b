"""What clients have told in their reports: the series that a configuration asks for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ppfl.core.agree import on_every_rank
from ppfl.core.errors import UserError
from ppfl.engine.history import refuse_long_pairs
from ppfl.interfaces.mixing import MIXING, Mixing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from ppfl.core.types import Params
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.method import Report

_PREFIX = "told/"


class Told:
    """For each client what it told last since the scores before; NaN where it told nothing.

    Of each pair of clients an exchange may tell something, on every rank.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._of_pairs = (MIXING,) if isinstance(setup.algorithm, Mixing) else ()
        self._pairs = [name for name in setup.reports if name in self._of_pairs]
        self._names = [name for name in setup.reports if name not in self._of_pairs]
        for name in self._pairs:
            refuse_long_pairs(setup, name)
        self._known: set[str] = set()
        self._is_checked = not self._names
        self._forget()

    def note(self, clients: Sequence[int], reports: Sequence[Report]) -> None:
        """Keep what clients of this rank tell."""
        if not self._names:
            return
        for client, report in zip(clients, reports, strict=True):
            self._known.update(report)
            row = self._values[client - self._setup.problem.client_data.clients.start]
            for column, name in enumerate(self._names):
                if name in report:
                    row[column] = float(report[name])

    def note_pairs(self, name: str, clients: Sequence[int], values: torch.Tensor) -> None:
        """Keep what an exchange tells of some clients and each other, (k, k), the same on every rank."""
        if name in self._pairs:
            rows = torch.zeros(len(clients), self._setup.problem.client_data.num_clients, dtype=torch.float64)
            rows[:, clients] = values
            self._values_of_pairs[name][clients] = rows

    def check(self) -> None:
        """Raise SharedUserError when clients tell other things than asked for, until any has told something.

        Collective. A method may tell nothing in some rounds, so that silence is no mistake.
        """
        if self._is_checked:
            return
        communicator = self._setup.communicator
        on_every_rank(communicator, self._refuse_unknown)
        told = communicator.allreduce(torch.tensor([len(self._known)]), "max")
        self._is_checked = int(told) > 0

    def _refuse_unknown(self) -> None:
        unknown = [name for name in self._names if name not in self._known]
        if self._known and unknown:
            raise UserError(
                f"evaluate.reports: clients of {self._setup.algorithm.name!r} tell "
                f"{', '.join(sorted(self._known.union(self._of_pairs)))}, and no {', '.join(unknown)}"
            )

    def series(self) -> dict[str, np.ndarray]:
        """Return {report_<name>: (M,), of pairs (M, M)}, and begin anew. Collective."""
        if not self._names and not self._pairs:
            return {}
        found = {name.replace(_PREFIX, "report_"): value.numpy() for name, value in self.tensors().items()}
        self._forget()
        return found

    def tensors(self) -> Params:
        """Return the same for a snapshot, on every rank. Collective."""
        of_pairs = {_PREFIX + name: value for name, value in self._values_of_pairs.items()}
        if not self._names:
            return of_pairs
        everyone = self._setup.communicator.allgather_rows(self._values)
        return {_PREFIX + name: everyone[:, column].clone() for column, name in enumerate(self._names)} | of_pairs

    def restore(self, tensors: Params) -> None:
        """Go on from the tensors of a snapshot."""
        clients = self._setup.problem.client_data.clients
        for column, name in enumerate(self._names):
            self._values[:, column] = tensors[_PREFIX + name][clients.start : clients.stop]
        self._values_of_pairs = {name: tensors[_PREFIX + name].clone() for name in self._pairs}

    def _forget(self) -> None:
        data = self._setup.problem.client_data
        self._values = torch.full((len(data.clients), len(self._names)), math.nan, dtype=torch.float64)
        everybody = (data.num_clients, data.num_clients)
        self._values_of_pairs = {name: torch.full(everybody, math.nan, dtype=torch.float64) for name in self._pairs}
