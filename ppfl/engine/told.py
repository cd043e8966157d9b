"""What clients have told in their reports: the series that a configuration asks for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ppfl.core.agree import on_every_rank
from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from ppfl.core.types import Params
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.method import Report

_PREFIX = "told/"


class Told:
    """For each client what it told last since the scores before; NaN where it told nothing."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._names = setup.reports
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
                f"evaluate.reports: clients of {self._setup.algorithm.name!r} tell {', '.join(sorted(self._known))}, "
                f"and no {', '.join(unknown)}"
            )

    def series(self) -> dict[str, np.ndarray]:
        """Return {report_<name>: (M,)}, and begin anew. Collective."""
        if not self._names:
            return {}
        found = {name.replace(_PREFIX, "report_"): value.numpy() for name, value in self.tensors().items()}
        self._forget()
        return found

    def tensors(self) -> Params:
        """Return the same for a snapshot, on every rank. Collective."""
        if not self._names:
            return {}
        everyone = self._setup.communicator.allgather_rows(self._values)
        return {_PREFIX + name: everyone[:, column].clone() for column, name in enumerate(self._names)}

    def restore(self, tensors: Params) -> None:
        """Go on from the tensors of a snapshot."""
        clients = self._setup.problem.client_data.clients
        for column, name in enumerate(self._names):
            self._values[:, column] = tensors[_PREFIX + name][clients.start : clients.stop]

    def _forget(self) -> None:
        self._values = torch.full(
            (len(self._setup.problem.client_data.clients), len(self._names)), math.nan, dtype=torch.float64
        )
