"""What a mapping is: the one way in which an engine calls the function of a client, what that is given and sends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from ppfl.interfaces.client_data import SampledData

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.engine.participants import Downlink
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.client_data import Joined
    from ppfl.interfaces.method import Report


NOT_FOR_SEVERAL = (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What functions of one client raise that do with tensors what several clients at once, lanes or vectorized, cannot."""


@dataclass(frozen=True)
class Uplink:
    """What one client of the cohort sent, and what it told."""

    client: int
    params: Params
    report: Report
    weights: Params | None = None
    """Of its coordinates in the mean; the exchange fills them in where a method has them."""

    @property
    def clients(self) -> list[int]:
        """This one."""
        return [self.client]

    @property
    def reports(self) -> list[Report]:
        """One for every client."""
        return [self.report]


@dataclass(frozen=True)
class UplinkSum:
    """Σ_k v_k x_k of what several clients of the cohort would have sent, v their weights, and what each told."""

    clients: Sequence[int]
    params: Params
    reports: list[Report]


@dataclass(frozen=True)
class UplinkRows:
    """What several clients of the cohort sent, a row (K, …) each, in their order, and what each told."""

    clients: Sequence[int]
    params: Params
    reports: list[Report]

    def one_by_one(self) -> Iterator[Uplink]:
        """Yield the uplink of every client."""
        for row, (client, report) in enumerate(zip(self.clients, self.reports, strict=True)):
            yield Uplink(client, {name: value[row] for name, value in self.params.items()}, report)


AnyUplink: TypeAlias = Uplink | UplinkSum | UplinkRows


def stack_states(states: Sequence[State]) -> State:
    """Return the states of K clients with a first dimension K."""
    first = states[0]
    return {
        name: {key: torch.stack([state[name][key] for state in states]) for key in group}
        for name, group in first.items()
    }


def member(states: State, row: int) -> State:
    """Return the state of one of them."""
    # a copy in memory of its own: kernels round differently for other alignments
    return {name: {key: value[row].clone() for key, value in group.items()} for name, group in states.items()}


_MOST_KEPT_CLIENTS = 50_000
"""Whose data are kept as they are computed with: a million small ones would be gigabytes of tensors."""


class ClientInputs:
    """Data and draws of the clients of this rank; data that never change are fetched once."""

    def __init__(self, setup: Setup) -> None:
        self._objective = setup.problem.objective
        self._client_data = setup.problem.client_data
        self._roles = setup.roles
        self._algorithm = setup.algorithm
        self._kept: dict[int, Data] = {}
        self._joined: dict[tuple[int, ...], Joined] = {}
        self._keeps_joined = setup.problem.client_data.fixed_data and setup.cohort.is_full

    def data(self, client: int, round: int) -> Data:
        """Return what a client computes on."""
        if client in self._kept:
            return self._kept[client]
        data = self._roles.seen_by(client, self._client_data.data(client, round))
        if self._client_data.fixed_data and len(self._kept) < _MOST_KEPT_CLIENTS:
            self._kept[client] = data
        return data

    def joined(self, clients: Sequence[int], round: int) -> Joined:
        """Return the samples that several clients compute on."""
        key = tuple(clients)
        if key in self._joined:
            return self._joined[key]
        assert isinstance(self._client_data, SampledData)
        joined = self._roles.seen_by_all(clients, self._client_data.joined(clients, round))
        if self._keeps_joined:
            self._joined[key] = joined
        return joined

    def draws(self, client: int, round: int, num_samples: int) -> Draws:
        """Return the random inputs of one call."""
        return self._algorithm.draws(self._objective, client, round, num_samples)

    def draws_of(self, clients: Sequence[int], sizes: Sequence[int], round: int) -> list[Draws]:
        """Return those of several clients with S samples each."""
        return [self.draws(client, round, size) for client, size in zip(clients, sizes, strict=True)]


class Mapping(ABC):
    """Applies an algorithm's `client` to a chunk of clients of one rank.

    A kernel sees one chunk only, so that nothing depends on which other clients a rank happens to have. Each mapping
    says by itself whether it can serve a run; `ppfl.engine.mapping.choose` asks them in turn.
    """

    def __init__(self, setup: Setup) -> None:
        self.objective = setup.problem.objective
        self.setup = setup
        self.algorithm = setup.algorithm
        self.inputs = ClientInputs(setup)

    @classmethod
    @abstractmethod
    def can(cls, setup: Setup) -> bool:
        """Say whether a run can be computed like this, on this rank."""

    @abstractmethod
    def __call__(
        self, downlink: Downlink, chunk: range, members: Sequence[int], states: State, round: int
    ) -> tuple[Sequence[AnyUplink], State]:
        """Return what the members of a chunk send, in order, and the states of the whole chunk, stacked (K, …).

        members: clients of the chunk that take part; the states of the others
        stay as they are.
        """
