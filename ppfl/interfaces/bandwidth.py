"""Bandwidth and pruning under a latency target: who of several clients on one band gets which part of it.

Client i computes c_i seconds on the shared part and sends it, Q_i bits, at b_i r_i bits a second; its personal part
takes loc_i seconds, whatever is pruned. With the share ρ_i of the shared part pruned away,

    latency_i = loc_i + (1 − ρ_i)(c_i + Q_i/(b_i r_i)),

and S_i = T − loc_i is what a target T leaves for it. The model is a reconstruction: papers on pruning and
personalization over wireless networks (Liu, Ratnarajah, Sellathurai, Eldar) describe its parts in words, and their
formulas were not at hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_TOO_MUCH = 2.0
"""Bands; sums of shares that are cut off here stay finite and are as much above 1."""


@dataclass(frozen=True)
class Load:
    """What N clients have to do in a round, (N,) each, in float64."""

    rates: NDArray[np.float64]
    """r, bits/s/Hz, above 0."""
    computing: NDArray[np.float64]
    """c, seconds on the shared part, above 0."""
    personal: NDArray[np.float64]
    """loc, seconds on the personal part."""
    bits: NDArray[np.float64]
    """Q, of the shared part when all of it is sent."""

    def shared_seconds(self, bandwidths: NDArray[np.float64]) -> NDArray[np.float64]:
        """c + Q/(b r), inf without bandwidth, where there is something to send."""
        with np.errstate(divide="ignore", over="ignore"):
            at_one = np.divide(self.bits, bandwidths, out=np.zeros_like(self.bits), where=self.bits > 0)
            return self.computing + at_one / self.rates

    def latencies(self, bandwidths: NDArray[np.float64], kept: NDArray[np.float64]) -> NDArray[np.float64]:
        """loc + κ(c + Q/(b r)), κ = 1 − ρ; loc where nothing is kept."""
        shared = self.shared_seconds(bandwidths)
        return self.personal + np.where(kept > 0, kept * np.where(kept > 0, shared, 0.0), 0.0)

    def ratios(self, bandwidths: NDArray[np.float64], target: float) -> NDArray[np.float64]:
        """ρ = max(0, 1 − S/(c + Q/(b r))): the least that makes everybody meet the target.

        >>> import numpy as np
        >>> from ppfl.interfaces.bandwidth import Load
        >>> load = Load(*(np.array([value, value]) for value in (2.0, 0.5, 0.1, 1e6)))
        >>> load.ratios(np.array([1e6, 2e6]), target=0.5)
        array([0.6       , 0.46666667])
        """
        return np.maximum(0.0, 1.0 - (target - self.personal) / self.shared_seconds(bandwidths))

    def seconds_alone(self, total: float) -> NDArray[np.float64]:
        """Q/(B r), what sending takes with the whole band: bandwidths are found as shares of it, whatever the units."""
        return self.bits / total / self.rates

    def kept(self, share: NDArray[np.float64]) -> Load:
        """Return what is left to do when shares κ of the shared part are kept."""
        return Load(self.rates, share * self.computing, self.personal, share * self.bits)


def equal_bandwidths(load: Load, total: float) -> NDArray[np.float64]:
    """b_i = B/N."""
    return np.full(len(load.rates), total / len(load.rates))


def best_bandwidths(load: Load, total: float, target: float) -> NDArray[np.float64]:
    """argmin Σρ_i over b with Σ b_i ≤ B:  b_i = clip((√(S_i r_i Q/ν) − Q)/(c_i r_i), 0, u_i), ν by bisection.

    u_i = Q/(r_i(S_i − c_i)), above which nothing has to be pruned, ∞ where S_i ≤ c_i. The kept share grows with b_i as
    S_i r_i Q/(c_i r_i b_i + Q)², which falls, so that one ν for all is the optimum. When all u_i fit into B, nobody
    prunes, and the rest makes the slowest client as fast as can be. A client may get 0: its ρ_i is 1.

    >>> import numpy as np
    >>> from ppfl.interfaces.bandwidth import Load, best_bandwidths
    >>> load = Load(*(np.array(values) for values in ([4.0, 2.0], [0.5, 0.5], [0.1, 0.1], [1e6, 1e6])))
    >>> [float(round(b)) for b in best_bandwidths(load, 1e6, target=0.8)]
    [535534.0, 464466.0]
    """
    left, alone = target - load.personal, load.seconds_alone(total)
    with np.errstate(divide="ignore", over="ignore"):
        enough = np.where(left > load.computing, alone / (left - load.computing), np.inf).clip(max=_TOO_MUCH)
    if math.fsum(enough) <= 1.0:
        return fastest_bandwidths(load, total)
    slope = np.sqrt(left) * np.sqrt(alone)

    def at(scale: float) -> NDArray[np.float64]:  # scale: 1/√ν
        with np.errstate(over="ignore"):
            return np.clip((scale * slope - alone) / load.computing, 0.0, enough)

    # with half of it some client alone would have the whole band, but for rounding
    most = 2.0 * float(((load.computing + alone) / np.where(slope > 0, slope, np.inf)).max())
    scale = _largest(lambda scale: math.fsum(at(scale)) <= 1.0, 0.0, most)
    # where computing takes next to nothing one step of the scale decides on large parts of the band: clients that both
    # neighbours part on gain the same a Hz, so that anything between the two is as good, and uses up B
    fits, beyond = at(scale), at(math.nextafter(scale, math.inf))
    more = math.fsum(beyond) - math.fsum(fits)
    return total * (fits + (beyond - fits) * (min(1.0, (1.0 - math.fsum(fits)) / more) if more > 0 else 0.0))


def fastest_bandwidths(load: Load, total: float) -> NDArray[np.float64]:
    """argmin max_i latency_i over b with Σ b_i ≤ B, without pruning:  b_i = Q_i/(r_i(t − loc_i − c_i)), t by bisection.

    >>> import numpy as np
    >>> from ppfl.interfaces.bandwidth import Load, fastest_bandwidths
    >>> load = Load(*(np.array(values) for values in ([4.0, 1.0], [0.5, 0.5], [0.1, 0.1], [1e6, 1e6])))
    >>> bandwidths = fastest_bandwidths(load, 1e6)
    >>> [float(round(seconds, 6)) for seconds in load.latencies(bandwidths, np.ones(2))]
    [1.85, 1.85]
    """
    alone, own = load.seconds_alone(total), load.personal + load.computing
    sends = alone > 0
    slowest = float(own[sends].max(initial=0.0))
    too_long = float((own + len(own) * alone)[sends].max(initial=0.0))
    if too_long <= slowest:  # nobody sends, or so wide a band that sending is lost in the rounding of seconds
        return equal_bandwidths(load, total)

    def within(seconds: float) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):
            return np.divide(alone, seconds - own, out=np.zeros_like(alone), where=sends).clip(max=_TOO_MUCH)

    # from the other side: the shortest time that fits is the negative of the largest that does
    found = within(-_largest(lambda negative: math.fsum(within(-negative)) <= 1.0, -too_long, -slowest))
    return total * found / math.fsum(found)  # seconds are less exact than shares of the band where sending is short


def _largest(fits: Callable[[float], bool], low: float, high: float) -> float:
    """Return the largest x in [low, high) that fits, by bisection; `low` does."""
    while low < (middle := low + (high - low) / 2) < high:  # there are numbers of float64 between them
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
