"""The section `network:`: clients on one band of a wireless network, and how long a round lasts for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Field, PositiveFloat, model_validator

from ppfl.core.plugins import Settings, refusal
from ppfl.core.rng import generator
from ppfl.interfaces.bandwidth import Load, best_bandwidths, equal_bandwidths, fastest_bandwidths
from ppfl.interfaces.pruning import Pruned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

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


class Wireless(Settings):
    """latency_i = loc_i + (1 − ρ_i)(c_i + Q/(b_i r_i)),  r_i = log2(1 + SNR_i),  Σ b_i = B: a round lasts as long as
    its slowest client.

    Reconstructed after the words of Liu, Ratnarajah, Sellathurai, Eldar (IEEE TSP 2024), whose formulas were not at
    hand. The server's broadcast takes no time. Found once, before the first round, for all clients that can take part.
    """

    name: Literal["wireless"]
    bandwidth_hz: PositiveFloat
    """B, of all clients together."""
    bandwidth: Literal["equal", "best"] = "equal"
    """b_i = B/N; or what prunes least for the target, without pruning what makes the slowest client fastest."""
    rates: Amounts | None = None
    """r_i, bits/s/Hz; either this or `snr_db`."""
    snr_db: Amounts | None = None
    """10·log10 of SNR_i."""
    computing_seconds: Amounts | None = None
    """c_i, of a round on the whole shared part; either this or `flops_per_second`."""
    personal_seconds: Amounts | None = None
    """loc_i, of a round on the personal part; beside `computing_seconds`."""
    flops_per_second: Amounts | None = None
    """Speed of a client: c_i and loc_i are its operations of a round over it."""
    target_seconds: PositiveFloat | None = None
    """T, where the network chooses what is pruned; either this or `target_share`."""
    target_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """T over what the slowest client takes without pruning and with equal bandwidth."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Wireless:
        if (self.rates is None) == (self.snr_db is None):
            raise refusal("rates", "rates in bits/s/Hz, or `snr_db` in its place: give exactly one of the two")
        if (self.computing_seconds is None) == (self.flops_per_second is None):
            what = "seconds, or `flops_per_second` in its place: give exactly one of the two"
            raise refusal("computing_seconds", what)
        if (self.computing_seconds is None) != (self.personal_seconds is None):
            what = "seconds beside `computing_seconds`, nothing beside `flops_per_second`, which says them"
            raise refusal("personal_seconds", what)
        if self.target_seconds is not None and self.target_share is not None:
            raise refusal("target_share", "nothing beside `target_seconds`")
        return self

    def timing(self, shape: Shape, seed: int, ratios: Sequence[float] | None) -> Timing:
        """Return the bandwidths, and the ratios, where they are not given: None.

        Raises ValueError, beginning with the key and naming the client, for rates and computing seconds that are not
        above 0, for other than N numbers, and for a target within a client's personal seconds.
        """
        load = self._load(shape, seed)
        if ratios is not None:
            given = np.array(ratios, dtype=np.float64)
            left, find = load.kept(1.0 - given), equal_bandwidths if self.bandwidth == "equal" else fastest_bandwidths
            return Timing(given, load, find(left, self.bandwidth_hz))
        target = self._target(load, shape)
        equal = self.bandwidth == "equal"
        bandwidths = equal_bandwidths(load, self.bandwidth_hz) if equal else best_bandwidths(
            load, self.bandwidth_hz, target
        )  # fmt: skip
        return Timing(load.ratios(bandwidths, target), load, bandwidths)

    def _target(self, load: Load, shape: Shape) -> float:
        """Return T. Raises ValueError where it leaves a client no time for anything of the shared part."""
        where, target = "target_seconds", self.target_seconds
        if target is None:
            assert self.target_share is not None
            whole = load.latencies(equal_bandwidths(load, self.bandwidth_hz), np.ones(len(load.rates)))
            where, target = "target_share", self.target_share * float(whole.max())
        for name, personal in zip(shape.names, load.personal, strict=True):
            if target <= personal:
                raise ValueError(
                    f"{where}: the target of {target:g} s leaves client {name} nothing, whose personal part alone "
                    f"takes {personal:g} s, whatever is pruned; it has to be above that of every client"
                )
        return target

    def _load(self, shape: Shape, seed: int) -> Load:
        if self.rates is not None:
            rates = _amounts("rates", self.rates, shape, seed)
        else:
            decibels = _amounts("snr_db", _given(self.snr_db), shape, seed)
            rates = np.logaddexp2(0.0, decibels * (math.log2(10.0) / 10.0))  # no overflow, and no 0 at -200 dB
        _above_zero("rates" if self.rates is not None else "snr_db", "a rate", rates, shape)
        if self.flops_per_second is None:
            computing = _amounts("computing_seconds", _given(self.computing_seconds), shape, seed)
            personal = _amounts("personal_seconds", _given(self.personal_seconds), shape, seed)
        else:
            if shape.flops is None:
                raise ValueError(
                    "flops_per_second: this problem does not tell its operations; give `computing_seconds` and "
                    "`personal_seconds`"
                )
            speeds = _amounts("flops_per_second", self.flops_per_second, shape, seed)
            _above_zero("flops_per_second", "a speed", speeds, shape)
            computing, personal = np.array(shape.flops, dtype=np.float64).T / speeds
        where = "computing_seconds" if self.flops_per_second is None else "flops_per_second"
        _above_zero(where, "computing time on the shared part", computing, shape)
        for name, value in zip(shape.names, personal, strict=True):
            if value < 0:
                raise ValueError(f"personal_seconds: client {name} has {value:g}; allowed are numbers of at least 0")
        return Load(rates, computing, personal, np.full(len(shape.names), shape.bits))


def refuse_network(
    network: Wireless | None,
    algorithm: Algorithm,
    compute_times: ComputeTimes | None,
    asynchronous: Asynchronous | None,
) -> None:
    """Raise pydantic's error for what does not go with a network, or without one."""
    chooses = isinstance(algorithm, Pruned) and algorithm.ratios == "network"
    if network is None:
        if chooses:
            raise refusal("algorithm.ratios", "a number or a list of them, or 'network' beside a section `network`")
        return
    if asynchronous is not None:
        raise refusal("network", "null in asynchronous runs: the latency of a wireless network is that of rounds")
    if compute_times is not None:
        raise refusal("compute_times", "nothing beside `network`, which says how long clients compute")
    has_target = network.target_seconds is not None or network.target_share is not None
    if chooses and not has_target:
        raise refusal("network.target_seconds", "seconds, or `target_share`: algorithm.ratios: network follows it")
    if has_target and not chooses:
        where = "target_seconds" if network.target_seconds is not None else "target_share"
        raise refusal(f"network.{where}", "nothing, unless a method that prunes has `ratios: network`")


def _given(amounts: Amounts | None) -> Amounts:
    assert amounts is not None
    return amounts


def _amounts(key: str, amounts: Amounts, shape: Shape, seed: int) -> NDArray[np.float64]:
    """Return one number a client, (N,)."""
    if isinstance(amounts, Uniform):
        low, high = amounts.low, amounts.high
        drawn: Mapping[int, float] = {
            client: generator(seed, f"network {key}", client=client).uniform(low, high) for client in shape.numbers
        }
        return np.array([drawn[client] for client in shape.numbers])
    values = (amounts,) * len(shape.names) if isinstance(amounts, float) else amounts
    if len(values) != len(shape.names):
        raise ValueError(f"{key}: {len(values)} numbers for {len(shape.names)} clients; one for each, or one for all")
    return np.array(values, dtype=np.float64)


def _above_zero(key: str, what: str, values: NDArray[np.float64], shape: Shape) -> None:
    for name, value in zip(shape.names, values, strict=True):
        if not value > 0:
            raise ValueError(f"{key}: client {name} has {what} of {value:g}; allowed are numbers above 0")
