"""What the server sends in a round: the same to all clients, or to each of them its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.core.params import num_bytes

if TYPE_CHECKING:
    from collections.abc import Collection

    from ppfl.core.types import Params, State
    from ppfl.interfaces.method import Algorithm


class Downlink:
    """The messages of one server state; one that goes to all is computed once."""

    def __init__(self, algorithm: Algorithm, server: State, round: int) -> None:
        self._algorithm = algorithm
        self._server = server
        self._round = round
        self.to_all = algorithm.downlink(server, round)
        """What every client is sent; None when each is sent something of its own."""
        self._num_bytes: dict[int, int] = {}

    def to(self, client: int) -> Params:
        """Return what one client is sent."""
        if self.to_all is not None:
            return self.to_all
        message = self._algorithm.downlink(self._server, self._round, client)
        if message is None:
            raise TypeError(f"{self._algorithm.name} sends nothing to all clients, and nothing to client {client}")
        self._num_bytes[client] = num_bytes(message)
        return message

    def num_bytes(self, clients: Collection[int]) -> int:
        """Return the size of what some clients were sent: those that it was asked for."""
        if self.to_all is not None:
            return len(clients) * num_bytes(self.to_all)
        return sum(self._num_bytes[client] for client in clients)
