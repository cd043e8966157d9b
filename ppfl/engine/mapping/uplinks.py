"""What clients of a cohort send, as mappings hand it over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppfl.core.types import Params


@dataclass(frozen=True)
class Uplink:
    """What one client of the cohort sent, and the samples it was computed on."""

    client: int
    params: Params
    num_samples: int


@dataclass(frozen=True)
class UplinkSum:
    """Σ_k v_k x_k of what several clients of the cohort would have sent, v their weights, and the samples of each."""

    params: Params
    num_samples: tuple[int, ...]


@dataclass(frozen=True)
class UplinkRows:
    """What several clients of the cohort sent, a row (K, …) each, and the samples of each."""

    clients: range
    params: Params
    num_samples: tuple[int, ...]

    def one_by_one(self) -> Iterator[Uplink]:
        """Yield the uplink of every client."""
        for row, (client, num_samples) in enumerate(zip(self.clients, self.num_samples, strict=True)):
            yield Uplink(client, {name: value[row] for name, value in self.params.items()}, num_samples)


AnyUplink: TypeAlias = Uplink | UplinkSum | UplinkRows
