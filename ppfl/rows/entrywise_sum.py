"""Exact sums of numbers that have nothing to do with each other: every entry keeps bits below its own largest term.

`ExactSum` counts the bits that it keeps from the largest entry of a whole vector, which suits coordinates of one
gradient. Inner products of N vectors differ more: those of an attacker's vector may be 1e120 times those of the others,
which would then be lost. Here each entry has cuts of its own, at the same fixed binary positions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ppfl.core import devices
from ppfl.rows.bins import BIN_BITS, LOWEST_BIN, LOWEST_TOP, MAX_TERMS, NUM_BINS, powers_of_two, rounded

if TYPE_CHECKING:
    from ppfl.core.communicator import Communicator

_HIGHEST_BIN = 1023 // BIN_BITS


class EntrywiseSum:
    """Σ_k x_k of vectors of length L, order-free, every entry by itself; kept on one device, 32·L bytes.

    An entry keeps at least 80 bits below its largest term. It is NaN when one of its terms is NaN or inf. At most
    2**22 terms.
    """

    def __init__(self, length: int, device: torch.device | str = "cpu") -> None:
        self._bins = torch.zeros(NUM_BINS, length, dtype=torch.int64, device=device)
        self._top = torch.full((length,), LOWEST_TOP, dtype=torch.int64, device=device)
        self._spoiled = torch.zeros(length, dtype=torch.bool, device=device)
        self._num_terms = 0
        # looked up, since no function that computes powers promises to be exact
        bins = range(LOWEST_BIN, _HIGHEST_BIN + 1)
        units = torch.tensor([math.ldexp(1.0, k * BIN_BITS) for k in bins], dtype=torch.float64)
        self._units = devices.to_device(units, self._bins.device)

    def add(self, terms: torch.Tensor) -> None:
        """Add the rows of (T, L), float64."""
        self._num_terms += len(terms)
        spoiled = ~terms.isfinite().all(dim=0)
        self._spoiled |= spoiled
        # NaN and inf have no integer: what a conversion makes of them depends on the machine
        rest = torch.where(spoiled, 0.0, terms)
        largest = rest.abs().amax(dim=0)
        exponent = torch.frexp(largest).exponent.to(torch.int64) - 1
        # frexp(0) has the exponent 0, as if it were about 1: bins would be raised for nothing, and small terms
        # forgotten
        needed = torch.div(exponent, BIN_BITS, rounding_mode="floor").masked_fill_(largest == 0.0, LOWEST_TOP)
        self._raise_top(torch.maximum(needed, self._top))
        for row in range(NUM_BINS):
            unit = self._unit(row)
            # by a power of two, hence exact; truncated in the lowest bin too, or bits would depend on which one it is
            integers = (rest / unit).trunc_()
            self._bins[row] += integers.to(torch.int64).sum(dim=0)
            rest = rest - integers.mul_(unit)

    def reduce(self, communicator: Communicator) -> torch.Tensor:
        """Return the sum over all terms of all ranks, (L,) float64 on the CPU; the same bits on every rank.

        Raises OverflowError beyond 2**22 terms in all.
        """
        alone = communicator.size == 1
        num_terms = self._num_terms
        if not alone:
            num_terms = int(communicator.allreduce(torch.tensor([num_terms]), "sum"))
        if num_terms > MAX_TERMS:
            raise OverflowError(f"an exact sum holds at most {MAX_TERMS} terms, got {num_terms}")
        if alone:
            units = [self._unit(row) for row in range(NUM_BINS)]
            return devices.to_host(torch.where(self._spoiled, math.nan, rounded(self._bins.clone(), units)))
        # one message for both: a reduction of so few numbers costs its latency
        facts = devices.to_host(torch.stack([self._top, self._spoiled.to(torch.int64)]))
        top, spoiled = communicator.allreduce(facts, "max")
        self._raise_top(devices.to_device(top, self._top.device))
        bins = communicator.allreduce(devices.to_host(self._bins).contiguous(), "sum")
        units = [powers_of_two((top - row) * BIN_BITS) for row in range(NUM_BINS)]
        return torch.where(spoiled > 0, math.nan, rounded(bins, units))

    def _unit(self, row: int) -> torch.Tensor:
        return self._units[self._top - row - LOWEST_BIN]

    def _raise_top(self, top: torch.Tensor) -> None:
        """Move bins down, where the top is higher than before; those that fall out at the bottom are forgotten."""
        rows = torch.arange(NUM_BINS, device=top.device)[:, None] - (top - self._top)
        self._bins = torch.where(rows >= 0, self._bins.gather(0, rows.clamp_min(0)), 0)
        self._top = top
