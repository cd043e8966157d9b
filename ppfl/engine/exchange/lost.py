"""What becomes of uplinks that a network loses: their clients have worked, and nobody sees what they sent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ppfl.engine.exchange.sent import Sent
from ppfl.engine.mapping.mapping import Uplink, UplinkRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ppfl.core.types import Params, State
    from ppfl.engine.mapping.mapping import AnyUplink
    from ppfl.engine.setup import Setup


def of_arrived(uplinks: Iterable[AnyUplink], arrived: frozenset[int]) -> Iterator[AnyUplink]:
    """Yield the uplinks of those clients alone; all of them work."""
    for uplink in uplinks:
        # looked at one by one, so that clients whose uplinks nobody sees are computed all the same
        if isinstance(uplink, UplinkRows):
            yield from _rows(uplink, arrived)
        elif isinstance(uplink, Uplink):
            if uplink.client in arrived:
                yield uplink
        elif not arrived.issuperset(uplink.clients):
            raise TypeError("clients were added up, where uplinks of some of them are lost")


def of_unheard(
    setup: Setup, server: State, uplinks: Iterable[AnyUplink], arrived: frozenset[int], like: Params, round: int
) -> int:
    """Let the clients of a round work of which the server hears too few; return the size of what this rank's sent."""
    sent = Sent(setup.algorithm, server, of_arrived(uplinks, arrived), arrived, like, round)
    for _ in sent:
        pass
    return sent.num_bytes


def _rows(uplink: UplinkRows, arrived: frozenset[int]) -> Iterator[UplinkRows]:
    rows = [row for row, client in enumerate(uplink.clients) if client in arrived]
    if len(rows) == len(uplink.clients):
        yield uplink
    elif rows:
        yield replace(
            uplink,
            clients=[uplink.clients[row] for row in rows],
            params={name: value[rows] for name, value in uplink.params.items()},
            reports=[uplink.reports[row] for row in rows],
        )
