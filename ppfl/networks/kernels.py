"""Which form of a convolution stage a run takes: by a table of measured times, never by a stopwatch of its own.

Bits depend on the form, so the choice is a part of what a run is: it is made once, by the name of a column, and kept on
any processor. A column is a file `kernel_tables/<name>.yaml`, written by `python -m benchmarks calibrate`
(docs/performance.md).
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from ppfl.core.errors import UserError
from ppfl.networks.processor import Processor, this_processor

_FOLDER = Path(__file__).parent / "kernel_tables"
_INSTRUCTION_SETS = ("AVX512", "AVX2", "DEFAULT")
"""From the widest to what torch calls processors without either."""
ANY_FORM = "channels_last"
"""Of what nobody has measured, since nobody asks for it."""


@dataclass(frozen=True)
class Shape:
    """Of a convolution stage and its input, (images, in_channels, …) -> (images, out_channels, √pixels, √pixels)."""

    images: int
    in_channels: int
    out_channels: int
    kernel_size: int
    pixels: int
    """Height times width of what comes out, before pooling."""


@dataclass(frozen=True)
class Forms:
    """The forms of one stage: names of `ppfl.networks.convolution_forms.FORMS`, or the blocked layout for all three."""

    is_blocked: bool
    forward: str
    weight_gradient: str
    input_gradient: str


@dataclass(frozen=True)
class Measured:
    """Milliseconds that each form of a stage takes for one shape."""

    shape: Shape
    blocked: float
    """Forward, pooling and both gradients."""
    pooling: float
    """In the dense layout, forward and backward."""
    forward: dict[str, float]
    weight_gradient: dict[str, float]
    input_gradient: dict[str, float]
    """Empty for images, of which no gradient is asked."""

    def forms(self, *, can_be_blocked: bool) -> Forms:
        """Return the fastest form of each, all three in one layout."""
        parts = (self.forward, self.weight_gradient, self.input_gradient)
        dense = self.pooling + sum(min(part.values()) for part in parts if part)
        return Forms(can_be_blocked and self.blocked < dense, *map(_fastest, parts))


@dataclass(frozen=True, eq=False)
class Kernels:
    """A column of the table: what was measured on one processor."""

    name: str
    processor: Processor
    rows: tuple[Measured, ...]

    @property
    def has_bfloat16(self) -> bool:
        """Say whether oneDNN computes in bfloat16 there; it does with AVX-512."""
        return self.processor.instruction_set == "AVX512"

    def forms(self, shape: Shape, *, can_be_blocked: bool) -> Forms:
        """Return the forms of the measured shape that is nearest: Σ |log₂| of the ratios of sizes."""
        return _forms(self, shape, can_be_blocked)


@lru_cache(maxsize=1024)
def _forms(kernels: Kernels, shape: Shape, can_be_blocked: bool) -> Forms:
    nearest = min(kernels.rows, key=lambda row: _distance(astuple(row.shape), astuple(shape)))
    return nearest.forms(can_be_blocked=can_be_blocked)


def _fastest(milliseconds: dict[str, float]) -> str:
    return min(milliseconds, key=lambda name: milliseconds[name]) if milliseconds else ANY_FORM


def names() -> tuple[str, ...]:
    """Return the names of all columns."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


@cache
def column(name: str) -> Kernels:
    """Return a column by its name. Raises UserError for a name that no column has."""
    if name not in names():
        raise UserError(f"engine.kernels: there are no measurements named {name!r}; there are {', '.join(names())}")
    return parse(name, yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))


def parse(name: str, document: dict[str, Any]) -> Kernels:
    """Return the column that a document describes."""

    def measured(row: dict[str, Any]) -> Measured:
        return Measured(Shape(**row["shape"]), sum(row["blocked"].values()), **row["dense"])

    rows = tuple(measured(row) for row in document["milliseconds"])
    return Kernels(name, Processor(**document["processor"]), rows)


def nearest_column(processor: Processor) -> str:
    """Return the column of the nearest processor: by its instructions, then by its caches, then by name."""

    def distance(name: str) -> tuple[float, float]:
        other = column(name).processor
        widths = [_INSTRUCTION_SETS.index(one.instruction_set) for one in (known(processor), known(other))]
        return abs(widths[0] - widths[1]), _distance(_caches(processor), _caches(other))

    def known(one: Processor) -> Processor:
        return one if one.instruction_set in _INSTRUCTION_SETS else Processor("DEFAULT", one.l2_bytes, one.l3_bytes)

    return min(names(), key=distance)


@cache
def of_this_processor() -> str:
    """Return the column of the processor that is nearest to this one."""
    return nearest_column(this_processor())


def _caches(processor: Processor) -> tuple[int, int]:
    return processor.l2_bytes, processor.l3_bytes


def _distance(some: tuple[int, ...], others: tuple[int, ...]) -> float:
    # what is not known says nothing
    return sum(abs(math.log2(one / other)) for one, other in zip(some, others, strict=True) if one and other)
