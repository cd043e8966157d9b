"""What a client's function is given in a round beside the message and its state: data and draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.interfaces.client_data import num_samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.types import Data, Draws
    from ppfl.engine.setup import Setup


class ClientInputs:
    """Data and draws of the clients of this rank; data that never change are fetched once."""

    def __init__(self, setup: Setup) -> None:
        self._objective = setup.problem.objective
        self._client_data = setup.problem.client_data
        self._roles = setup.roles
        self._algorithm = setup.algorithm
        self._kept: dict[int, Data] = {}

    def data(self, client: int, round: int) -> Data:
        """Return what a client computes on."""
        if client in self._kept:
            return self._kept[client]
        data = self._roles.seen_by(client, self._client_data.data(client, round))
        if self._client_data.fixed_data:
            self._kept[client] = data
        return data

    def draws(self, client: int, round: int, num_samples: int) -> Draws:
        """Return the random inputs of one call."""
        return self._algorithm.draws(self._objective, client, round, num_samples)

    def of_all(self, clients: Sequence[int], round: int) -> tuple[list[Data], list[int], list[Draws]]:
        """Return data, numbers of samples and draws of some clients."""
        datas = [self.data(client, round) for client in clients]
        sizes = [num_samples(data) for data in datas]
        return datas, sizes, [self.draws(client, round, size) for client, size in zip(clients, sizes, strict=True)]
