"""Who takes part in a round, which of them attack, and what each of them is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from ppfl.core.params import num_bytes
from ppfl.core.rng import generator
from ppfl.interfaces.attack import AttackOnData
from ppfl.interfaces.client_data import Joined, LabelledData, join
from ppfl.interfaces.cohort_size import cohort_size
from ppfl.interfaces.trigger import SampleFacts

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ppfl.core.types import Data, Params, State
    from ppfl.interfaces.client_data import ClientData
    from ppfl.interfaces.method import Algorithm
    from ppfl.interfaces.network import Network
    from ppfl.interfaces.placement import Placement
    from ppfl.interfaces.strategic import Strategic
    from ppfl.interfaces.trigger import Probe


class CohortSampler:
    """Uniform sampling of clients without replacement, the same on every rank.

    cohort: "all", a number of clients, or a fraction of those with training samples, rounded half to even, at
    least one. Clients without training samples never take part; where a network has some of them away at times, those
    who are there are drawn from, and all of them taken where fewer are there. Raises ValueError when more are wanted
    than there are.
    """

    def __init__(
        self, data: ClientData, cohort: Literal["all"] | int | float, seed: int, network: Network | None = None
    ) -> None:
        self._eligible = [client for client, samples in enumerate(data.num_train_samples) if samples > 0]
        self._choices = np.array(self._eligible)
        self._seed = seed
        self._network = network if network is not None and network.is_away_at_times else None
        self.size = cohort_size(cohort, len(self._eligible))
        if not 1 <= self.size <= len(self._eligible):
            raise ValueError(f"{cohort} clients wanted, {len(self._eligible)} have training samples")

    @property
    def eligible(self) -> tuple[int, ...]:
        """Clients with training samples, ascending."""
        return tuple(self._eligible)

    @property
    def is_full(self) -> bool:
        """True when every client with samples takes part in every round."""
        return self.size == len(self._eligible) and self._network is None

    @property
    def participation(self) -> float:
        """Size of the cohort over the number of clients with samples, in (0, 1]."""
        return self.size / len(self._eligible)

    def __call__(self, round: int) -> frozenset[int]:
        """Return the clients of a round."""
        if self.is_full:
            return frozenset(self._eligible)
        choices = self._choices
        if self._network is not None:
            there = [client for client in self._eligible if self._network.is_there(self._seed, client, round)]
            # nobody is waited for: a round goes on with fewer than were wanted
            if len(there) <= self.size:
                return frozenset(there)
            choices = np.array(there)
        draw = generator(self._seed, "cohort", round=round)
        chosen: list[int] = draw.choice(choices, self.size, replace=False).tolist()
        return frozenset(chosen)

    def position(self, num_choices: int, draw: int) -> int:
        """Return draw number `draw` of one out of several; out of all clients it is the cohort of one of that round."""
        return int(generator(self._seed, "cohort", round=draw).choice(num_choices, 1, replace=False)[0])


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
    samples: SampleFacts | None = None
    """Of these data."""
    strategic: frozenset[int] = frozenset()
    """Clients of all ranks that misreport; all else of them is as of honest ones, scores included."""

    @classmethod
    def of(cls, placement: Placement, data: ClientData, strategic: Strategic | None = None) -> Roles:
        """Say who is what; Byzantine clients are drawn as a problem draws them for its scores and its theory."""
        byzantine = placement.byzantine_clients(data.client_names, data.num_train_samples)
        honest = tuple(sorted(set(data.clients) - byzantine) if byzantine else data.clients)
        attack = placement.byzantine.attack if placement.byzantine is not None else None
        on_data, samples = None, None
        if isinstance(attack, AttackOnData):
            assert isinstance(data, LabelledData)
            on_data, samples = attack, SampleFacts(data.sample_shape, data.num_classes, len(byzantine))
            attack.refuse_samples(samples)
        misreporting: frozenset[int] = frozenset()
        if strategic is not None:
            misreporting = strategic.members(data.client_names, data.num_train_samples, byzantine, placement.seed)
        return cls(byzantine, honest, data.num_clients - len(byzantine), on_data, samples, misreporting)

    def seen_by(self, client: int, data: Data) -> Data:
        """Return the data that a client computes on in a round, given those of the problem."""
        if self.on_data is None or client not in self.byzantine:
            return data
        assert self.samples is not None
        return self.on_data.poison_of(sorted(self.byzantine).index(client), data, self.samples)

    @property
    def probe(self) -> Probe | None:
        """What scored samples are tried with; None where attackers have no trigger."""
        return self.on_data.probe(self.samples) if self.on_data is not None and self.samples is not None else None

    def seen_by_all(self, clients: Sequence[int], joined: Joined) -> Joined:
        """Return the same of several clients."""
        if self.on_data is None or self.byzantine.isdisjoint(clients):
            return joined
        of_clients = zip(*(torch.split(value, joined.sizes) for value in joined.data.values()), strict=True)
        datas = [
            self.seen_by(client, dict(zip(joined.data, values, strict=True)))
            for client, values in zip(clients, of_clients, strict=True)
        ]
        return Joined(join(datas), joined.sizes)


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
