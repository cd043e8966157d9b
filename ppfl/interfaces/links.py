"""A network on which every client has a link of its own to the server, and messages take what their bytes take."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeAlias

from pydantic import Field

from ppfl.core.agree import SharedUserError
from ppfl.interfaces.network import Amounts, Network, Uniform, amount, uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

Direction: TypeAlias = Literal["down", "up"]
DIRECTIONS: tuple[Direction, Direction] = ("down", "up")
_BITS = 8.0
"""Of a byte."""


class Sizes(NamedTuple):
    """Bytes of what a client is sent, and of what it sends, in one round or job."""

    down: int
    up: int


class Links(Network):
    """A message of B bytes takes latency + jitter·u + 8B/b seconds, u ~ U[0, 1), b the bits a second of its direction;
    a message of no bytes is not sent, and takes none.

    A law says b, of a client in a round, asynchronously of its job:

    >>> from typing import Literal
    >>> from ppfl.interfaces.links import Links, Sizes
    >>> class Alternating(Links):
    ...     name: Literal["alternating"]
    ...     slow: float
    ...     fast: float
    ...
    ...     def bits_per_second(self, direction, seed, client, job):
    ...         return self.fast if job % 2 else self.slow
    ...
    ...     def has_none(self, direction, seed, client):
    ...         return False
    >>> links = Alternating(name="alternating", slow=8.0, fast=80.0, latency_seconds=0.5)
    >>> links.seconds(seed=0, client=3, job=1, sizes=Sizes(down=100, up=0))
    (10.5, 0.0)
    """

    latency_seconds: Amounts = 0.0
    """Of each message, whatever its size."""
    jitter_seconds: Annotated[float, Field(ge=0)] = 0.0
    """The most that is added to the latency of a message; drawn uniformly for each."""

    @abstractmethod
    def bits_per_second(self, direction: Direction, seed: int, client: int, job: int) -> float:
        """Return b: a function of its arguments alone; inf where sending takes no time."""

    @abstractmethod
    def has_none(self, direction: Direction, seed: int, client: int) -> bool:
        """Say whether a client has no bandwidth at all in a direction, in no round."""

    def seconds(self, seed: int, client: int, job: int, sizes: Sizes) -> tuple[float, float]:
        """Return how long a client's downlink and its uplink take."""
        return self.message(seed, "down", client, job, sizes.down), self.message(seed, "up", client, job, sizes.up)

    def message(self, seed: int, direction: Direction, client: int, job: int, num_bytes: int) -> float:
        """Return how long one message takes."""
        if not num_bytes:
            return 0.0
        latency = amount("latency_seconds", self.latency_seconds, seed, client)
        if self.jitter_seconds:
            latency += self.jitter_seconds * uniform(seed, f"network jitter {direction}", client, job)
        bandwidth = self.bits_per_second(direction, seed, client, job)
        if bandwidth == 0.0:
            raise SharedUserError(f"network.{direction}_bits_per_second: {_needs(str(client), direction, num_bytes)}")
        return latency + _BITS * num_bytes / bandwidth

    def check(self, num_clients: int, num_rounds: int | None) -> None:
        """Refuse lists that are not of all clients, and latencies below 0."""
        super().check(num_clients, num_rounds)
        self.check_amounts("latency_seconds", self.latency_seconds, num_clients)

    def check_amounts(self, key: str, amounts: Amounts, num_clients: int) -> None:
        """Raise ValueError for a list that is not of all clients, and for numbers below 0."""
        numbers: Sequence[float]
        if isinstance(amounts, Uniform):
            numbers = (amounts.low,)
        else:
            numbers = (amounts,) if isinstance(amounts, float) else amounts
            if not isinstance(amounts, float):
                self.refuse_length(key, len(numbers), num_clients)
        if (least := min(numbers)) < 0:
            raise ValueError(f"{key}: {least:g}; allowed are numbers of at least 0")

    def refuse_silent(self, seed: int, names: Sequence[str], sizes: dict[int, Sizes]) -> None:
        """Raise ValueError, beginning with the key, for a client that sends or is sent something and has no bandwidth
        for it."""
        for client, of_client in sizes.items():
            for direction in DIRECTIONS:
                num_bytes = getattr(of_client, direction)
                if num_bytes and self.has_none(direction, seed, client):
                    raise ValueError(f"{direction}_bits_per_second: {_needs(names[client], direction, num_bytes)}")


def _needs(name: str, direction: Direction, num_bytes: int) -> str:
    what = "is sent" if direction == "down" else "sends"
    return f"client {name} {what} {num_bytes} bytes and has a bandwidth of 0; allowed are numbers above 0"


class SteadyLinks(Links):
    """b = the bandwidth of the client in that direction, times x_t, x independent with mean 1.

    >>> from typing import Literal
    >>> from ppfl.interfaces.links import SteadyLinks
    >>> class Halved(SteadyLinks):
    ...     name: Literal["halved"]
    ...
    ...     def factor(self, direction, seed, client, job):
    ...         return 0.5 if job else 1.5
    >>> halved = Halved(name="halved", up_bits_per_second=(10.0, 30.0))
    >>> [halved.bits_per_second("up", 0, client, job) for client in (0, 1) for job in (0, 1)]
    [15.0, 5.0, 45.0, 15.0]
    """

    down_bits_per_second: Amounts | None = None
    """From the server to a client; null: what goes down takes its latency alone."""
    up_bits_per_second: Amounts | None = None
    """From a client to the server; null: what goes up takes its latency alone."""

    @abstractmethod
    def factor(self, direction: Direction, seed: int, client: int, job: int) -> float:
        """Return x_t > 0."""

    def bits_per_second(self, direction: Direction, seed: int, client: int, job: int) -> float:
        """Return the bandwidth of the client, as it is then."""
        return self._bandwidth(direction, seed, client) * self.factor(direction, seed, client, job)

    def has_none(self, direction: Direction, seed: int, client: int) -> bool:
        """Say whether it is 0."""
        return self._bandwidth(direction, seed, client) == 0.0

    def check(self, num_clients: int, num_rounds: int | None) -> None:
        """Refuse bandwidths below 0, too."""
        super().check(num_clients, num_rounds)
        for key in (f"{direction}_bits_per_second" for direction in DIRECTIONS):
            if (amounts := getattr(self, key)) is not None:
                self.check_amounts(key, amounts, num_clients)

    def _bandwidth(self, direction: Direction, seed: int, client: int) -> float:
        amounts = self.down_bits_per_second if direction == "down" else self.up_bits_per_second
        # another name than that of the factor's draws, which are of messages
        return float("inf") if amounts is None else amount(f"{direction} bandwidth", amounts, seed, client)
