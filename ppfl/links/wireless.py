"""Clients on one band of a wireless network, and how long a round lasts for them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import PositiveFloat, model_validator

from ppfl.core.plugins import refusal
from ppfl.interfaces.band import Shape, SharedBand, Timing
from ppfl.interfaces.bandwidth import Load, best_bandwidths, equal_bandwidths, fastest_bandwidths
from ppfl.interfaces.network import Amounts, amount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ppfl.core.plugins import Example


class Wireless(SharedBand):
    """latency_i = loc_i + (1 − ρ_i)(c_i + Q/(b_i r_i)),  r_i = log2(1 + SNR_i),  Σ b_i = B: a round lasts as long as
    its slowest client.

    Reconstructed after the words of Liu, Ratnarajah, Sellathurai, Eldar (IEEE TSP 2024), whose formulas were not at
    hand. The server's broadcast takes no time. Found once, before the first round, for all clients that can take part.
    """

    name: Literal["wireless"]
    example: ClassVar[Example] = {
        "bandwidth_hz": 1e5, "rates": 4.0, "computing_seconds": 0.5, "personal_seconds": 0.1,
    }  # fmt: skip
    bandwidth_hz: PositiveFloat
    """B, of all clients together."""
    rates: Amounts | None = None
    """r_i, bits/s/Hz; either this or `snr_db`."""
    snr_db: Amounts | None = None
    """10·log10 of SNR_i."""
    computing_seconds: Amounts | None = None
    """c_i, of a round on the whole shared part; either this or `flops_per_second`."""
    personal_seconds: Amounts | None = None
    """loc_i, of a round on the personal part; beside `computing_seconds`."""

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


def _given(amounts: Amounts | None) -> Amounts:
    assert amounts is not None
    return amounts


def _amounts(key: str, amounts: Amounts, shape: Shape, seed: int) -> NDArray[np.float64]:
    """Return one number a client, (N,)."""
    if isinstance(amounts, tuple):
        if len(amounts) != len(shape.names):
            many = f"{len(amounts)} numbers for {len(shape.names)} clients"
            raise ValueError(f"{key}: {many}; one for each, or one for all")
        return np.array(amounts, dtype=np.float64)
    return np.array([amount(key, amounts, seed, client) for client in shape.numbers], dtype=np.float64)


def _above_zero(key: str, what: str, values: NDArray[np.float64], shape: Shape) -> None:
    for name, value in zip(shape.names, values, strict=True):
        if not value > 0:
            raise ValueError(f"{key}: client {name} has {what} of {value:g}; allowed are numbers above 0")
