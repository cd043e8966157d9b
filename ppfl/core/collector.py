"""The cyclic garbage collector, where it would only look on."""

from __future__ import annotations

import atexit
import gc
import sys
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def without_collector() -> Iterator[None]:
    """Leave it out: it would walk over ever more settings, which have no cycles, again and again and in vain."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def while_torch_is_loaded() -> Iterator[None]:
    """Leave it out, and all that is there then for good: it would walk over half a million objects that stay,
    while they are loaded, every few rounds and when the process ends."""
    is_new = "torch" not in sys.modules
    with without_collector():
        yield
    if is_new and "torch" in sys.modules:
        gc.freeze()


@cache
def not_at_the_end() -> None:
    """Leave it out when the process ends, and all its memory is given back."""
    atexit.register(gc.freeze)
