"""Combinations that cannot work with as many clients as a configuration says: refused before a job is submitted.

Where only the data know the clients, `ppfl.engine.exchange.attackers` and `ppfl.engine.participants` refuse them when
a run starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ppfl.config.errors import NOTHING, Finding
from ppfl.core.data_file import DataFile
from ppfl.interfaces.attack import AttackOnVectors
from ppfl.interfaces.byzantine import adds_up
from ppfl.interfaces.cohort_size import cohort_size
from ppfl.interfaces.query_points import FEWEST_HONEST, QueryPoints

if TYPE_CHECKING:
    from ppfl.interfaces.aggregator import Aggregator
    from ppfl.interfaces.byzantine import Byzantine
    from ppfl.interfaces.gossip import Neighbourhood
    from ppfl.interfaces.method import Algorithm
    from ppfl.interfaces.strategic import Strategic


@dataclass(frozen=True)
class Round:
    """What a configuration says of those who take part in a round, or are in flight."""

    clients: int
    """Of the problem."""
    wanted: Literal["all"] | int | float
    key: str
    """Where the configuration says `wanted`."""
    aggregator: Aggregator
    byzantine: Byzantine | None
    strategic: Strategic | None
    least: int = 1
    """Clients that the method needs."""
    buffer: int | None = None
    """Uplinks of a step of an asynchronous server; None: in rounds, of which each client sends one."""

    @property
    def size(self) -> int:
        """Return how many clients take part."""
        return cohort_size(self.wanted, self.clients)

    @property
    def _num_sent(self) -> int:
        """Return how many clients' vectors the server looks at together."""
        return self.size if self.buffer is None else self.buffer

    @property
    def _num_vectors(self) -> int:
        """Return how many vectors the rule gets, those of attackers beside the clients included."""
        return self._num_sent + (self.byzantine.num_beside if self.byzantine is not None else 0)

    def unfit(self) -> Finding | None:
        """Return what cannot work with so many clients."""
        if self.size > self.clients:
            allowed = f"at most {self.clients}, the clients of the problem"
            return Finding(self.key, self.wanted, allowed, "more clients than there are")
        if self.size < self.least:
            allowed = f"at least {self.least}, which the method needs"
            return Finding(self.key, self.wanted, allowed, f"{self.size} client(s) a round")
        if self.buffer is not None and self.buffer > self.clients and not adds_up(self.aggregator, self.byzantine):
            allowed = f"at most {self.clients}, the clients of the problem, each of whom is in a buffer once"
            return Finding("asynchronous.buffer", self.buffer, allowed, "more clients than there are")
        return self._unfit_attackers() or self._unfit_strategic() or self._unfit_attack() or self._unfit_rule()

    def unfit_queries(self, algorithm: Algorithm) -> Finding | None:
        """Return what cannot work of a method whose clients ask each other."""
        if not isinstance(algorithm, QueryPoints):
            return None
        beside = self.byzantine is None or self.byzantine.placement == "beside"
        hostile = 0 if beside or self.byzantine is None else self.byzantine.num_attackers
        honest, mains = self.clients - hostile, algorithm.main_clients
        if isinstance(mains, int) and mains > honest:
            allowed = f"at most {honest}, the honest clients of the problem, or all"
            return Finding("algorithm.main_clients", mains, allowed, "more main clients than there are")
        if algorithm.asks and self.size < hostile + FEWEST_HONEST:
            allowed = f"at least {hostile + FEWEST_HONEST}, so that two honest clients answer at a query point"
            return Finding(self.key, self.wanted, allowed, "fewer than two honest clients at a query point")
        return None

    def _unfit_attackers(self) -> Finding | None:
        byzantine = self.byzantine
        if byzantine is None or byzantine.placement == "beside":
            return None
        hostile = byzantine.num_attackers
        if hostile >= self.clients:
            allowed = f"at most {self.clients - 1} of {self.clients} clients, so that an honest one is left"
            return Finding("byzantine.clients", byzantine.clients, allowed, "too many attackers")
        if self.buffer is None and isinstance(byzantine.attack, AttackOnVectors) and self.size <= hostile:
            allowed = f"at least {hostile + 1}, since {hostile} clients are Byzantine"
            return Finding(self.key, self.wanted, allowed, f"{self.size} clients a round, all of whom may be Byzantine")
        return None

    def _unfit_strategic(self) -> Finding | None:
        strategic, byzantine = self.strategic, self.byzantine
        if strategic is None:
            return None
        among = 0 if byzantine is None else byzantine.num_attackers - byzantine.num_beside
        if strategic.num_clients <= self.clients - among:
            return None
        allowed = f"at most {self.clients - among} of {self.clients} clients" + (", the honest ones" if among else "")
        return Finding("strategic.clients", strategic.clients, allowed, "too many strategic clients")

    def _unfit_attack(self) -> Finding | None:
        byzantine = self.byzantine
        if byzantine is None:
            return None
        varies = byzantine.placement == "among" and self._num_sent < self.clients
        try:
            byzantine.attack.check(self._num_vectors, None if varies else byzantine.num_attackers)
        except ValueError as error:
            key, _, reason = str(error).partition(": ")
            allowed = "a number" if key == "factor" else "another attack"
            return Finding(f"byzantine.attack.{key}", getattr(byzantine.attack, key), f"{allowed}; {reason}")
        return None

    def _unfit_rule(self) -> Finding | None:
        try:
            self.aggregator.check(self._num_vectors)
        except ValueError as error:
            larger = "cohort" if self.buffer is None else "asynchronous.buffer"
            return Finding("aggregator", NOTHING, f"a smaller f, or a larger {larger}", str(error))
        return None


def unfit_graph(neighbourhood: Neighbourhood, clients: int, seed: int) -> Finding | None:
    """Return what is wrong with a graph that is to have so many nodes."""
    try:
        neighbourhood.graph.check(clients, seed)
    except ValueError as error:
        key, _, reason = str(error).partition(": ")
        field = key.removeprefix("graph").removeprefix(".")
        value = getattr(neighbourhood.graph, field) if field else neighbourhood.graph.name
        given = str(value.path.name) if isinstance(value, DataFile) else value
        return Finding(f"gossip.{key}", given, f"a graph of {clients} nodes that fits", reason)
    return None
