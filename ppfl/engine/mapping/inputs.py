"""What a client's function is given in a round beside the message and its state: data and draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.method import Algorithm
    from ppfl.core.problem import Problem
    from ppfl.core.types import Data, Draws


class ClientInputs:
    """Data and draws of the clients of this rank; data that never change are fetched once."""

    def __init__(self, problem: Problem, algorithm: Algorithm) -> None:
        self._problem = problem
        self._algorithm = algorithm
        self._kept: dict[int, Data] = {}

    def data(self, client: int, round: int) -> Data:
        """Return what a client computes on."""
        if not self._problem.fixed_data:
            return self._problem.data(client, round)
        if client not in self._kept:
            self._kept[client] = self._problem.data(client, round)
        return self._kept[client]

    def draws(self, client: int, round: int, num_samples: int) -> Draws:
        """Return the random inputs of one call."""
        return self._algorithm.draws(self._problem, client, round, num_samples)

    def of_all(self, clients: Sequence[int], round: int) -> tuple[list[Data], list[int], list[Draws]]:
        """Return data, numbers of samples and draws of some clients."""
        datas = [self.data(client, round) for client in clients]
        sizes = [num_samples(data) for data in datas]
        return datas, sizes, [self.draws(client, round, size) for client, size in zip(clients, sizes, strict=True)]


def num_samples(data: Data) -> int:
    """Return S; 1 where there are no samples."""
    return len(data["y"]) if "y" in data else 1
