"""The section `network:`: what the network between clients and server is like, and what becomes of messages on it."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple, TypeAlias

from pydantic import Field, PositiveFloat, model_validator

from ppfl.core.plugins import PlugIn, Settings, refusal
from ppfl.core.rng import generator

if TYPE_CHECKING:
    from ppfl.interfaces.asynchronous import Asynchronous
    from ppfl.interfaces.compute_times import ComputeTimes
    from ppfl.interfaces.method import Algorithm


class Uniform(Settings):
    """One number a client, drawn uniformly from an interval by the seed of the run."""

    low: float
    """The least."""
    high: float
    """The most."""

    @model_validator(mode="after")
    def _is_an_interval(self) -> Uniform:
        if self.high < self.low:
            raise refusal("high", f"at least `low`, {self.low:g}")
        return self


Amounts: TypeAlias = float | Annotated[tuple[float, ...], Field(strict=False, min_length=1)] | Uniform
"""The same number for all clients, one for each, or an interval to draw from."""

Share = Annotated[float, Field(gt=0, le=1)]
"""A part of something, and not nothing."""


class Fate(IntEnum):
    """What becomes of a client that was to be asked, or of the job that it was given."""

    ARRIVED = 0
    DROPPED = 1
    """It worked, and dropped out before its uplink was through."""
    LATE = 2
    """It worked, and its uplink was not there at the timeout."""
    AWAY = 3
    """It was not available, and nothing was sent to it."""


class Trip(NamedTuple):
    """One job on the virtual clock: seconds of its parts, of all of it, and how it ended."""

    down: float
    compute: float
    up: float
    seconds: float
    fate: Fate = Fate.ARRIVED


class Network(PlugIn):
    """Who can be asked, who drops out, how long the server waits; what extends it says how long messages take.

    Everything is a function of seed, client and number of the round, asynchronously of the client's job: all ranks know
    who drops out without a message, and a run that goes on knows it again.

    >>> from typing import Literal
    >>> from ppfl.interfaces.network import Network
    >>> class Lossy(Network):
    ...     name: Literal["lossy"]
    >>> network = Lossy(name="lossy", drop_out=0.25, timeout_seconds=3.0)
    >>> [network.fate(seed=0, client=2, job=job, seconds=1.0 + job).name for job in range(4)]
    ['ARRIVED', 'ARRIVED', 'ARRIVED', 'LATE']
    >>> network.is_there(seed=0, client=2, job=0), network.part_heard
    (True, 0.75)
    """

    silent: ClassVar[frozenset[str]] = frozenset({"availability", "drop_out", "timeout_seconds", "least_arrivals"})
    availability: Share | Annotated[tuple[Share, ...], Field(strict=False, min_length=1)] = 1.0
    """Chance that a client is there in a round, the same for all clients or one for each; who is not there is not
    asked."""
    drop_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance that a client which was asked drops out: it works, and its uplink is lost."""
    timeout_seconds: PositiveFloat | None = None
    """Seconds after which the server waits for nobody any more; null: it waits for all that have not dropped out."""
    least_arrivals: Annotated[int, Field(ge=1)] = 1
    """Uplinks of a round without which the server keeps θ as it is; a rule that needs more of them gets more."""

    @model_validator(mode="after")
    def _ends(self) -> Network:
        may_be_missed = self.drop_out > 0 or self.is_away_at_times or self.least_arrivals > 1
        if self.timeout_seconds is None and may_be_missed:
            reason = "with availability below 1, drop_out above 0 or least_arrivals above 1"
            raise refusal("timeout_seconds", f"a number of seconds, since nobody may come to end the waiting {reason}")
        return self

    @property
    def is_away_at_times(self) -> bool:
        """Say whether some clients cannot be asked in some rounds."""
        return self.availability != 1.0

    @property
    def loses(self) -> bool:
        """Say whether a round may have to do without the uplink of a client."""
        return self.is_away_at_times or self.drop_out > 0 or self.timeout_seconds is not None

    @property
    def part_heard(self) -> float:
        """Return the part of a cohort that is there and does not drop out, on average; 1 where nobody is lost."""
        there = self.availability
        mean = there if isinstance(there, float) else sum(there) / len(there)
        return mean * (1.0 - self.drop_out)

    def is_there(self, seed: int, client: int, job: int) -> bool:
        """Say whether a client can be asked in a round, or given the job of this number."""
        chance = self.availability if isinstance(self.availability, float) else self.availability[client]
        # nothing is drawn for who is always there: in a large cohort that would be most of the time
        return chance >= 1.0 or uniform(seed, "network availability", client, job) < chance

    def fate(self, seed: int, client: int, job: int, seconds: float) -> Fate:
        """Return what becomes of the job of a client that is there, which takes so long."""
        # dropping out comes first: who has gone is waited for by nobody, however long it would have taken
        if self.drop_out > 0 and uniform(seed, "network drop-out", client, job) < self.drop_out:
            return Fate.DROPPED
        return Fate.LATE if self.timeout_seconds is not None and seconds > self.timeout_seconds else Fate.ARRIVED

    def check(self, num_clients: int, num_rounds: int | None) -> None:
        """Raise ValueError, beginning with the key, for lists that are not of all clients, and for traces that end
        before the run does; num_rounds: None where jobs are not rounds."""
        if not isinstance(self.availability, float):
            self.refuse_length("availability", len(self.availability), num_clients)

    @staticmethod
    def refuse_length(key: str, number: int, num_clients: int) -> None:
        """Raise ValueError unless there is one number a client."""
        if number != num_clients:
            raise ValueError(f"{key}: {number} numbers for {num_clients} clients; one for each, or one for all")

    def refuse_others(
        self, algorithm: Algorithm, compute_times: ComputeTimes | None, asynchronous: Asynchronous | None
    ) -> None:
        """Raise pydantic's error for what does not go with this network."""
        if asynchronous is not None:
            self._refuse_asynchrony(asynchronous)
        if self.loses and algorithm.needs_all_uplinks:
            key = "timeout_seconds" if self.drop_out == 0 else "drop_out"
            key = "availability" if self.is_away_at_times else key
            reason = f"since no uplink of {algorithm.name!r} may be lost: {algorithm.needs_all_uplinks}"
            raise refusal(f"network.{key}", f"nothing, {reason}")

    def _refuse_asynchrony(self, asynchronous: Asynchronous) -> None:
        if asynchronous.engine == "messages":
            raise refusal("network", "null with asynchronous.engine 'messages', where time is real")
        if asynchronous.replay is not None:
            raise refusal("network", "null with asynchronous.replay, whose log has the times, and what was lost")
        if self.least_arrivals != 1:
            raise refusal("network.least_arrivals", "1 in asynchronous runs, where no round waits for arrivals")


_JOBS_PER_DRAW = 64
_KEPT_DRAWS = 1 << 14


def uniform(seed: int, purpose: str, client: int, job: int) -> float:
    """Return a number from [0, 1) for the job of a client."""
    return _drawn("uniform", seed, purpose, client, job // _JOBS_PER_DRAW)[job % _JOBS_PER_DRAW]


def normal(seed: int, purpose: str, client: int, job: int) -> float:
    """Return z ~ N(0, 1) for the job of a client."""
    return _drawn("normal", seed, purpose, client, job // _JOBS_PER_DRAW)[job % _JOBS_PER_DRAW]


@lru_cache(maxsize=_KEPT_DRAWS)
def _drawn(law: Literal["uniform", "normal"], seed: int, purpose: str, client: int, number: int) -> list[float]:
    """Draw for 64 successive jobs at once: to set up a generator takes longer than to draw from it."""
    of_client = generator(seed, purpose, round=number, client=client)
    draw = of_client.random if law == "uniform" else of_client.standard_normal
    return [float(value) for value in draw(_JOBS_PER_DRAW)]


def amount(key: str, amounts: Amounts, seed: int, client: int) -> float:
    """Return the number of one client of all."""
    if isinstance(amounts, Uniform):
        return _of_interval(key, amounts.low, amounts.high, seed, client)
    return amounts if isinstance(amounts, float) else amounts[client]


@lru_cache(maxsize=_KEPT_DRAWS)
def _of_interval(key: str, low: float, high: float, seed: int, client: int) -> float:
    return generator(seed, f"network {key}", client=client).uniform(low, high)
