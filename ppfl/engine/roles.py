"""Who is honest: which clients attack, and which of them compute on data that an attack has changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppfl.interfaces.attack import AttackOnData
from ppfl.interfaces.client_data import LabelledData

if TYPE_CHECKING:
    from ppfl.core.types import Data
    from ppfl.interfaces.client_data import ClientData
    from ppfl.interfaces.placement import Placement


@dataclass(frozen=True)
class Roles:
    """What each client of the problem is, the same in all rounds."""

    byzantine: frozenset[int]
    """Clients of all ranks that attack; means of scores are over the others, as θ* and constants are."""
    honest: tuple[int, ...]
    """Clients of this rank that do not."""
    num_honest: int
    """Those of all ranks."""
    on_data: AttackOnData | None = None
    """What attackers do to their data, if it is that."""
    num_classes: int = 0
    """Of the labels of these data."""

    @classmethod
    def of(cls, placement: Placement, data: ClientData) -> Roles:
        """Say who is what; Byzantine clients are drawn as a problem draws them for its scores and its theory."""
        byzantine = placement.byzantine_clients(data.client_names, data.num_train_samples)
        honest = tuple(client for client in data.clients if client not in byzantine)
        attack = placement.byzantine.attack if placement.byzantine is not None else None
        if not isinstance(attack, AttackOnData):
            return cls(byzantine, honest, data.num_clients - len(byzantine))
        assert isinstance(data, LabelledData)
        return cls(byzantine, honest, data.num_clients - len(byzantine), attack, data.num_classes)

    def seen_by(self, client: int, data: Data) -> Data:
        """Return the data that a client computes on in a round, given those of the problem."""
        if self.on_data is None or client not in self.byzantine:
            return data
        return self.on_data.poison(data, self.num_classes)
