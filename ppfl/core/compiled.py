"""How loops are compiled: by Numba at first use, and kept on the disk for later processes.

Only files that are loaded where Numba is needed import this one. No flag of fast mathematics is set, so that no
compiler may add in another order or round a product and a sum at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable

    Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function of numbers and arrays for every combination of types that it is called with."""
    try:
        fast: Any = njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # neither the folder of its file nor one of the user can be written to
        fast = njit(nogil=True, error_model="numpy")(function)
    return cast("Function", fast)
