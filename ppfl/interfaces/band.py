"""A network whose clients share one band, so that how long each takes is found for all of them at once."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from ppfl.core.plugins import refusal
from ppfl.interfaces.network import Amounts, Network, Share
from ppfl.interfaces.pruning import Pruned

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ppfl.interfaces.asynchronous import Asynchronous
    from ppfl.interfaces.bandwidth import Load
    from ppfl.interfaces.compute_times import ComputeTimes
    from ppfl.interfaces.method import Algorithm


@dataclass(frozen=True)
class Shape:
    """What a run asks of its network, the same on all ranks."""

    names: tuple[str, ...]
    """Of the N clients that can take part."""
    numbers: tuple[int, ...]
    """Of the same clients among all."""
    bits: float
    """Q, of what a client sends when nothing is pruned."""
    flops: tuple[tuple[float, float], ...] | None
    """Operations of each client in a round, on the shared part and on the personal one; None where they are unknown."""


@dataclass(frozen=True)
class Timing:
    """How long a round lasts for each client."""

    ratios: NDArray[np.float64]
    """ρ, (N,): the shares of the shared part that are pruned away."""
    load: Load
    bandwidths: NDArray[np.float64]
    """b, (N,), Hz."""

    def seconds(self, kept: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return latencies, (N,), when shares κ of the shared part are kept: whole coordinates, at most 1 − ρ."""
        return self.load.latencies(self.bandwidths, kept)

    def computing(self, kept: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the part of them in which clients compute, loc + κ c, (N,)."""
        return self.load.personal + kept * self.load.computing


class SharedBand(Network):
    """Found once, before the first round, for all clients that can take part: what a round takes each of them, and
    where a method asks for it what is pruned away for that.

    A band says so of the shape of a run:

    >>> from typing import Literal
    >>> import numpy as np
    >>> from ppfl.interfaces.bandwidth import Load
    >>> from ppfl.interfaces.band import Shape, SharedBand, Timing
    >>> class Even(SharedBand):
    ...     name: Literal["even"]
    ...     bandwidth_hz: float
    ...
    ...     def timing(self, shape, seed, ratios):
    ...         number = len(shape.names)
    ...         load = Load(np.ones(number), np.zeros(number), np.ones(number), np.full(number, shape.bits))
    ...         return Timing(np.zeros(number), load, np.full(number, self.bandwidth_hz / number))
    >>> shape = Shape(names=("a", "b"), numbers=(0, 1), bits=10.0, flops=None)
    >>> Even(name="even", bandwidth_hz=10.0).timing(shape, seed=0, ratios=None).seconds(np.ones(2))
    array([3., 3.])
    """

    bandwidth: Literal["equal", "best"] = "equal"
    """b_i = B/N; or what prunes least for the target, without pruning what makes the slowest client fastest."""
    flops_per_second: Amounts | None = None
    """Speed of a client: c_i and loc_i are its operations of a round over it."""
    target_seconds: PositiveFloat | None = None
    """T, where the network chooses what is pruned; either this or `target_share`."""
    target_share: Share | None = None
    """T over what the slowest client takes without pruning and with equal bandwidth."""

    @abstractmethod
    def timing(self, shape: Shape, seed: int, ratios: Sequence[float] | None) -> Timing:
        """Return the bandwidths, and the ratios, where they are not given: None.

        Raises ValueError, beginning with the key and naming the client, for what no client can do.
        """

    def refuse_others(
        self, algorithm: Algorithm, compute_times: ComputeTimes | None, asynchronous: Asynchronous | None
    ) -> None:
        """Raise pydantic's error for asynchronous runs, compute times, and targets that nobody follows, too."""
        if asynchronous is not None:
            raise refusal("network", "null in asynchronous runs: the latency of a wireless network is that of rounds")
        super().refuse_others(algorithm, compute_times, asynchronous)
        if compute_times is not None:
            raise refusal("compute_times", "nothing beside `network`, which says how long clients compute")
        has_target = self.target_seconds is not None or self.target_share is not None
        chooses = chooses_ratios(algorithm)
        if chooses and not has_target:
            raise refusal("network.target_seconds", "seconds, or `target_share`: algorithm.ratios: network follows it")
        if has_target and not chooses:
            # the key that was written is the one to be taken out
            where = "target_seconds" if self.target_seconds is not None else "target_share"
            raise refusal(f"network.{where}", "nothing, unless a method that prunes has `ratios: network`")


def chooses_ratios(algorithm: Algorithm) -> bool:
    """Say whether a method has the network choose how much is pruned."""
    return isinstance(algorithm, Pruned) and algorithm.ratios == "network"
