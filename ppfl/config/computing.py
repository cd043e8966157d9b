"""The sections `save`, `checkpoint` and `engine`: how a run is computed and what is kept, which changes no result."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from ppfl.core.plugins import Settings


class Save(Settings):
    """What to keep beside the result."""

    local: bool = False
    """Whether to save the local parameters w of every client."""


class Engine(Settings):
    """How to compute; changes neither the meaning of a run nor its digest."""

    clients_per_chunk: Annotated[int, Field(ge=1)] | None = None
    """Clients computed on together, K; null chooses: 1 on a CPU, on a GPU what an eighth of its memory holds."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU where there is one, but the CPU for problems of statistics (quadratics)."""
    deterministic: bool = True
    """Whether a GPU takes kernels that give the same bits every time; a CPU always does."""
    client_state: Literal["auto", "device", "host", "file"] = "auto"
    """Where what clients keep is between two uses; auto: the nearest where all of it takes half of the free memory."""
    bucket_bytes: Annotated[int, Field(ge=1024)] = 8 << 20
    """Size of one message when vectors of all ranks are added up; one is rounded while the next is on its way."""
    kernels: Literal["avx2", "avx512"] | None = None
    """Whose measurements choose among equal forms of a network's stages; null: those of the processor of rank 0, or of
    the one most like it. A run that goes on keeps what it began with."""


class Checkpoint(Settings):
    """When the state of a run is saved, so that it can go on after it was killed; changes no result."""

    every_seconds: PositiveFloat | None = 300.0
    """Seconds from one checkpoint to the next, to the end of a round; null: none by time."""
    every_rounds: Annotated[int, Field(ge=1)] | None = None
    """Rounds, or arrivals, from one checkpoint to the next; null: none by rounds."""
