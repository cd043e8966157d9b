"""What clients of a cohort send, as mappings hand it over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ppfl.core.types import Params
    from ppfl.interfaces.method import Report


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
    """What several clients of the cohort sent, a row (K, …) each, and what each told."""

    clients: range
    params: Params
    reports: list[Report]

    def one_by_one(self) -> Iterator[Uplink]:
        """Yield the uplink of every client."""
        for row, (client, report) in enumerate(zip(self.clients, self.reports, strict=True)):
            yield Uplink(client, {name: value[row] for name, value in self.params.items()}, report)


AnyUplink: TypeAlias = Uplink | UplinkSum | UplinkRows
