"""`ppfl` in a process whose memory is full of other things than zeros: `python -m tests.mpi.dense_memory run …`.

Whatever is allocated while MPI starts lies amid them, so that what MPICH sends from behind an address has no zeros.
"""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import MutableMapping

from ppfl.cli import main
from ppfl.jobs import launcher

_SIZES = range(96, 1040, 16)
_PIECES_OF_A_SIZE = 60


def fill() -> None:
    """Leave a hole of each size between pieces that stay."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    draw = random.Random(0)
    holes = []
    for size in _SIZES:
        for piece in range(_PIECES_OF_A_SIZE):
            place = libc.malloc(size)
            ctypes.memmove(place, bytes(draw.choices(range(1, 256), k=size)), size)
            holes += [place] * (piece % 2)
    for place in holes:
        libc.free(place)


def fill_at_the_last_moment() -> None:
    """Have it done when MPI is about to be loaded: what else is loaded before would fill the holes."""
    before = launcher.keep_addresses_short

    def and_fill(environment: MutableMapping[str, str]) -> None:
        before(environment)
        fill()

    launcher.keep_addresses_short = and_fill


if __name__ == "__main__":
    fill_at_the_last_moment()
    main(sys.argv[1:])
