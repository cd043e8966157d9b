"""What clients have of their own at the end of a run, as it is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.core.params import map_params

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from ppfl.core.types import State
    from ppfl.engine.run import Run


class OwnParameters:
    """w of every client of a rank, and its θ where it deploys another one than the server's, as of Ditto
    (`ppfl.core.snapshot.ClientStates`)."""

    def __init__(self, engine: Run) -> None:
        self._engine = engine
        clients = engine.group.clients
        # a method is one of the two for all of its clients
        self._has_theta = bool(clients) and "theta" in self._deployed(clients.start)

    @property
    def clients(self) -> Sequence[int]:
        """All of this rank."""
        return self._engine.group.clients

    def like(self, client: int) -> State:
        """Return shapes and number types, on the device "meta"."""
        local = self._engine.group.like(client)["local"]
        theta = map_params(_to_meta, self._engine.server["shared"]) if self._has_theta else {}
        return {"local": {**theta, **local}}

    def state(self, client: int) -> State:
        """Return what a client has."""
        return {"local": {name: x for of in self._deployed(client).values() for name, x in of.items()}}

    def _deployed(self, client: int) -> State:
        server = self._engine.server
        theta, local = self._engine.setup.algorithm.view(server, self._engine.group.state(client))
        return {"local": local} if theta is server["shared"] else {"theta": theta, "local": local}


def _to_meta(value: torch.Tensor) -> torch.Tensor:
    return value.to("meta")
