"""What clients send, before it leaves their rank: strategic ones change it, and squared norms of all are told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ppfl.engine.mapping.mapping import Uplink, UplinkRows
from ppfl.interfaces.strategic import SQUARED_NORM, squared_norm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ppfl.core.types import Params, State
    from ppfl.engine.mapping.mapping import AnyUplink
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.method import Report


def as_sent(setup: Setup, server: State, uplinks: Iterable[AnyUplink], round: int) -> Iterable[AnyUplink]:
    """Return what the clients of this rank send, given what they computed, and what they tell of it."""
    # where nobody lies nothing is wrapped: sums over chunks, which have no single uplinks, stay possible
    return _as_sent(setup, server, uplinks, round) if setup.looks_at_each else uplinks


def one_as_sent(setup: Setup, server: State, uplink: Uplink, round: int) -> Uplink:
    """Return the same of one client; asynchronously `round` is the number of its job."""
    if not setup.looks_at_each:
        return uplink
    if uplink.client in setup.roles.strategic:
        uplink = replace(uplink, params=_misreport(setup, uplink.params, uplink.client, round))
    if SQUARED_NORM not in setup.reports:
        return uplink
    # of what is sent, not of what was computed: that is what a server sees, and what payments are for
    return replace(uplink, report={**uplink.report, **_told(_of_weight(setup, server, uplink, round))})


def rows_as_sent(setup: Setup, clients: Sequence[int], computed: Params, round: int) -> Params:
    """Return what some clients send, a row (K, …) each; untouched where none of them is strategic."""
    rows = [row for row, client in enumerate(clients) if client in setup.roles.strategic]
    if not setup.misreports or not rows:
        return computed
    # a copy: clients go on from what they computed, and their next states may be in the same memory
    sent = {name: value.clone() for name, value in computed.items()}
    # noise is drawn by client, as it is for one that is computed alone
    for row in rows:
        mine = {name: value[row] for name, value in computed.items()}
        for name, value in _misreport(setup, mine, clients[row], round).items():
            sent[name][row] = value
    return sent


def told_of_row(setup: Setup, sent: Params, row: int) -> Report:
    """Return what is told of one of the rows (K, …), none of whose coordinates has a weight of its own."""
    return _told({name: value[row] for name, value in sent.items()}) if SQUARED_NORM in setup.reports else {}


def _as_sent(setup: Setup, server: State, uplinks: Iterable[AnyUplink], round: int) -> Iterator[AnyUplink]:
    for uplink in uplinks:
        if isinstance(uplink, Uplink):
            yield one_as_sent(setup, server, uplink, round)
        elif isinstance(uplink, UplinkRows):
            sent = replace(uplink, params=rows_as_sent(setup, uplink.clients, uplink.params, round))
            if SQUARED_NORM in setup.reports:
                told = [_told(_of_weight(setup, server, one, round)) for one in sent.one_by_one()]
                reports: list[Report] = [{**report, **more} for report, more in zip(sent.reports, told, strict=True)]
                sent = replace(sent, reports=reports)
            yield sent
        else:
            raise TypeError(f"{setup.algorithm.name} was added up, where single uplinks are needed")


def _misreport(setup: Setup, computed: Params, client: int, round: int) -> Params:
    """Return m_i of a strategic client; weights that it sends beside what they weigh stay as they are."""
    assert setup.strategic is not None
    # the seed of the run, not that of the data: counterfactuals on the same data may draw other noise
    changed = setup.strategic.misreport(_weighed(setup, computed), setup.problem.objective.seed, client, round)
    return {name: changed.get(name, value) for name, value in computed.items()}


def _weighed(setup: Setup, sent: Params) -> Params:
    """Return what a client sends without the weights that it sends of it."""
    weights = set(setup.algorithm.sent_weights().values())
    return {name: value for name, value in sent.items() if name not in weights} if weights else sent


def _told(sent: Params) -> Report:
    return {SQUARED_NORM: squared_norm(sent)}


def _of_weight(setup: Setup, server: State, uplink: Uplink, round: int) -> Params:
    """Return what a client sends, without coordinates that have no weight: those stay with it."""
    if not uplink.params:
        return {}
    # asked for again: masks are not kept, since both sides can find them from θ whenever they need them
    weights = setup.algorithm.coordinate_weights(server, round, uplink.client)
    if weights is None:
        return _weighed(setup, uplink.params)
    return {name: torch.where(weights[name] > 0, value, 0.0) for name, value in uplink.params.items()}
