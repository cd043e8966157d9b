"""How long clients take on the virtual clock, who of them is heard, and how long a round lasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ppfl.core.agree import SharedUserError
from ppfl.interfaces.links import Links, Sizes
from ppfl.interfaces.network import Fate, Trip

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ppfl.interfaces.compute_times import ComputeTimes
    from ppfl.interfaces.network import Network


_MOST_LOST = 1000
"""Jobs in a row that may be lost, for each client at work, until it is taken for certain that nothing will arrive."""


def refuse_endless(num_lost: int, num_in_flight: int) -> None:
    """Raise SharedUserError where so many asynchronous jobs in a row were lost that none will arrive."""
    if num_lost >= _MOST_LOST * num_in_flight:
        raise SharedUserError(
            f"network.timeout_seconds: {num_lost} jobs in a row were away, dropped out or took longer than that; "
            f"allowed are times in which uplinks can arrive"
        )


class BandSeconds(NamedTuple):
    """Of a round of every client of all ranks, where clients share one band."""

    whole: tuple[float, ...]
    computing: tuple[float, ...]
    """The part of it in which the client computes."""


@dataclass(frozen=True)
class Clock:
    """Seconds of one job of one client: a function of its number and of the sizes of its messages."""

    seed: int
    compute_times: ComputeTimes | None
    network: Network | None
    band: BandSeconds | None = None

    def trip(self, client: int, job: int, sizes: Sizes | None) -> Trip:
        """Return how long a client takes that is there, and what becomes of it; sizes: None where none are needed."""
        if self.band is not None:
            whole, compute = self.band.whole[client], self.band.computing[client]
            # the whole is not put together from its parts, whose sum would round otherwise
            return self._ended(client, job, Trip(0.0, compute, whole - compute, whole))
        compute = 0.0 if self.compute_times is None else self.compute_times.seconds(self.seed, client, job)
        if not isinstance(self.network, Links):
            return self._ended(client, job, Trip(0.0, compute, 0.0, compute))
        assert sizes is not None
        down, up = self.network.seconds(self.seed, client, job, sizes)
        return self._ended(client, job, Trip(down, compute, up, down + compute + up))

    def job(self, client: int, number: int, sizes: Sizes | None) -> tuple[Trip | None, float, Fate]:
        """Return the trip of an asynchronous job, after how long the server knows what became of it, and what did.

        Of a client that is away, to which nothing is sent, it is the timeout, as of one whose uplink does not come.
        """
        if self.network is None or self.network.is_there(self.seed, client, number):
            trip = self.trip(client, number, sizes)
            if trip.fate == Fate.ARRIVED:
                return trip, trip.seconds, Fate.ARRIVED
        else:
            trip = None
        assert self.network is not None
        assert self.network.timeout_seconds is not None
        return trip, self.network.timeout_seconds, Fate.AWAY if trip is None else trip.fate

    def answer(self, client: int, round: int, num_bytes: int) -> float:
        """Return how long it takes to send something to a client that has been heard."""
        if not isinstance(self.network, Links):
            return 0.0
        return self.network.message(self.seed, "down", client, round, num_bytes)

    def _ended(self, client: int, job: int, trip: Trip) -> Trip:
        if self.network is None or not self.network.loses:
            return trip
        return trip._replace(fate=self.network.fate(self.seed, client, job, trip.seconds))


class Answer(NamedTuple):
    """What a client is sent in the end, or a node hears of its neighbours, on the clock of a round."""

    began: float
    seconds: float


@dataclass(frozen=True)
class RoundOnClock:
    """One round before it is played: known to all ranks."""

    trips: Mapping[int, Trip]
    """Of the clients that are asked."""
    arrived: frozenset[int]
    """Those whose uplinks come in time."""
    is_heard: bool
    """False where too few do, so that θ stays as it is."""
    waited: float
    """Seconds until the server waits for nobody any more."""
    answers: Mapping[int, Answer]
    """What clients are sent after others have been heard, where each gets an aggregate of its own."""

    @property
    def seconds(self) -> float:
        """How long the round lasts."""
        return max([self.waited, *(answer.began + answer.seconds for answer in self.answers.values())])

    @property
    def num_lost(self) -> int:
        """Clients that were asked, and whose uplink the server did not get."""
        return len(self.trips.keys() - self.arrived)


def gossip_round_of(clock: Clock, neighbours: Sequence[Sequence[int]], message_bytes: int, round: int) -> RoundOnClock:
    """Return how long a round lasts in which every node of a graph computes, sends to all neighbours and hears of all.

    A node sends one after another on its link up, and receives on its link down from when the last of its neighbours
    has sent; the round lasts until the slowest node has heard of all its neighbours.
    """
    sizes = [len(others) * message_bytes for others in neighbours]
    trips = {node: clock.trip(node, round, Sizes(0, num_bytes)) for node, num_bytes in enumerate(sizes)}
    heard = {
        node: Answer(max(trips[other].seconds for other in others), clock.answer(node, round, sizes[node]))
        for node, others in enumerate(neighbours)
        if others
    }
    waited = max(trip.seconds for trip in trips.values())
    return RoundOnClock(trips, frozenset(trips), is_heard=True, waited=waited, answers=heard)


def round_of(
    clock: Clock, sizes: Mapping[int, Sizes | None], round: int, least: int, answers: Mapping[int, int] | None = None
) -> RoundOnClock:
    """Return what becomes of the clients that are asked in a round, `sizes` their messages; least: uplinks that the
    server needs; answers: bytes that each client is sent in the end, if it was heard.

    The server waits until the last uplink of those that have not dropped out is there, or until the timeout; until the
    timeout, too, where fewer than `least` come.
    """
    trips = {client: clock.trip(client, round, of_client) for client, of_client in sizes.items()}
    arrived = frozenset(client for client, trip in trips.items() if trip.fate == Fate.ARRIVED)
    waited_for = [trip.seconds for trip in trips.values() if trip.fate != Fate.DROPPED]
    timeout = None if clock.network is None else clock.network.timeout_seconds
    is_heard = len(arrived) >= least
    seconds = max(waited_for, default=0.0)
    if timeout is not None:
        # a server that has not heard enough goes on hoping, as it does not know who has dropped out for good
        seconds = min(seconds, timeout) if is_heard else timeout
    sent = {} if answers is None or not is_heard else {client: answers[client] for client in sorted(arrived)}
    back = {client: Answer(seconds, clock.answer(client, round, num_bytes)) for client, num_bytes in sent.items()}
    return RoundOnClock(trips, arrived, is_heard, seconds, back)
