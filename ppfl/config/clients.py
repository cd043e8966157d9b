"""Combinations that cannot work with as many clients as a configuration says: refused before a job is submitted.

Where only the data know the clients, `ppfl.engine.exchange.attackers` and `ppfl.engine.participants` refuse them when
a run starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ppfl.config.errors import NOTHING, Finding
from ppfl.interfaces.attack import AttackOnVectors
from ppfl.interfaces.cohort_size import cohort_size
from ppfl.interfaces.query_points import FEWEST_HONEST, QueryPoints

if TYPE_CHECKING:
    from ppfl.interfaces.aggregator import Aggregator
    from ppfl.interfaces.byzantine import Byzantine
    from ppfl.interfaces.method import Algorithm


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

    @property
    def size(self) -> int:
        """Return how many clients take part."""
        return cohort_size(self.wanted, self.clients)

    def unfit(self) -> Finding | None:
        """Return what cannot work with so many clients."""
        if self.size > self.clients:
            allowed = f"at most {self.clients}, the clients of the problem"
            return Finding(self.key, self.wanted, allowed, "more clients than there are")
        return self._unfit_attackers() or self._unfit_attack() or self._unfit_rule()

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
        if isinstance(byzantine.attack, AttackOnVectors) and self.size <= hostile:
            allowed = f"at least {hostile + 1}, since {hostile} clients are Byzantine"
            return Finding(self.key, self.wanted, allowed, f"{self.size} clients a round, all of whom may be Byzantine")
        return None

    def _unfit_attack(self) -> Finding | None:
        byzantine = self.byzantine
        if byzantine is None:
            return None
        varies = byzantine.placement == "among" and self.size < self.clients
        try:
            byzantine.attack.check(self.size + byzantine.num_beside, None if varies else byzantine.num_attackers)
        except ValueError as error:
            key, _, reason = str(error).partition(": ")
            allowed = "a number" if key == "factor" else "another attack"
            return Finding(f"byzantine.attack.{key}", getattr(byzantine.attack, key), f"{allowed}; {reason}")
        return None

    def _unfit_rule(self) -> Finding | None:
        try:
            self.aggregator.check(self.size + (self.byzantine.num_beside if self.byzantine is not None else 0))
        except ValueError as error:
            return Finding("aggregator", NOTHING, "a smaller f, or a larger cohort", str(error))
        return None
