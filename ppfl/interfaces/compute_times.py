"""How long a client takes: the interface of what gives a virtual clock its times."""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from ppfl.core.plugins import PlugIn
from ppfl.core.rng import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np


class ComputeTimes(PlugIn):
    """Virtual seconds from the moment a client is sent θ to the arrival of its uplink, job by job.

    Times are asked for in any order, on any rank, and again after a checkpoint, hence no state:

    >>> from typing import Literal
    >>> from ppfl.interfaces.compute_times import ComputeTimes
    >>> class Ramp(ComputeTimes):
    ...     name: Literal["ramp"]
    ...     slope: float
    ...
    ...     def seconds(self, seed, client, job):
    ...         return 1.0 + self.slope * client
    ...
    ...     def check(self, clients):
    ...         if 1.0 + self.slope * max(clients) <= 0.0:
    ...             raise ValueError(f"slope: {self.slope:g} leaves client {max(clients)} no time")
    >>> Ramp(name="ramp", slope=0.5).seconds(seed=0, client=3, job=17)
    2.5
    """

    @abstractmethod
    def seconds(self, seed: int, client: int, job: int) -> float:
        """Return the time of the client's job number `job`, counted from 0: a function of its arguments alone."""

    @abstractmethod
    def check(self, clients: Sequence[int]) -> None:
        """Raise ValueError, beginning with the key, when these clients cannot all have times."""


_JOBS_PER_DRAW = 64
_KEPT_DRAWS = 1 << 14


class RandomComputeTimes(ComputeTimes):
    """t = mean · x, x independent with mean 1; the first `stragglers` clients take `straggler_factor` times as long.

    A law says how x is drawn:

    >>> from typing import Literal
    >>> from ppfl.interfaces.compute_times import RandomComputeTimes
    >>> class Uniform(RandomComputeTimes):
    ...     name: Literal["uniform"]
    ...
    ...     def draw(self, generator, size):
    ...         return generator.uniform(0.5, 1.5, size)
    >>> times = Uniform(name="uniform", mean_seconds=2.0, stragglers=1, straggler_factor=10.0)
    >>> 10.0 <= times.seconds(seed=0, client=0, job=0) <= 30.0
    True
    >>> times.seconds(seed=0, client=1, job=7) == times.seconds(seed=0, client=1, job=7) <= 3.0
    True
    """

    mean_seconds: PositiveFloat = 1.0
    """Mean time of a job of a client that is no straggler."""
    stragglers: Annotated[int, Field(ge=0)] = 0
    """Slow clients: those with the lowest numbers."""
    straggler_factor: Annotated[float, Field(ge=1)] = 100.0
    """How many times as long a slow client takes."""

    @abstractmethod
    def draw(self, generator: np.random.Generator, size: int) -> np.ndarray:
        """Draw x of so many jobs, (size,)."""

    def seconds(self, seed: int, client: int, job: int) -> float:
        """Return mean · x, times the factor for a straggler."""
        factor = self.straggler_factor if client < self.stragglers else 1.0
        drawn = _draw(self, seed, client, job // _JOBS_PER_DRAW)
        return self.mean_seconds * factor * drawn[job % _JOBS_PER_DRAW]

    def check(self, clients: Sequence[int]) -> None:
        """Refuse more stragglers than clients."""
        if self.stragglers > len(clients):
            raise ValueError(f"stragglers: {self.stragglers} slow clients wanted, {len(clients)} have training samples")


@lru_cache(maxsize=_KEPT_DRAWS)
def _draw(times: RandomComputeTimes, seed: int, client: int, number: int) -> list[float]:
    """Draw x of 64 successive jobs at once: to set up a generator takes longer than to draw from it."""
    drawn = times.draw(generator(seed, "compute time", round=number, client=client), _JOBS_PER_DRAW)
    return [float(value) for value in drawn]
