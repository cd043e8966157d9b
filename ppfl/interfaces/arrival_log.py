"""Reads the arrivals of an asynchronous run from its result, for those who repeat their times or their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_KINDS = {"client": "iu", "version": "iu", "delay": "iu", "seconds": "f", "turnaround_seconds": "f"}
NAMES = tuple(_KINDS)
"""What is known of an arrival, see `ppfl.engine.arrivals.Arrival`."""


def read_arrivals(path: Path, where: str, names: Collection[str] = NAMES) -> dict[str, np.ndarray]:
    """Return {name: (arrivals,)}, int64 or float64; nothing for a result without a log.

    Raises UserError, which begins with `where`, for anything but finite numbers ≥ 0, one of each an arrival.
    """
    from ppfl.interfaces.data_hdf5 import open_data

    with open_data(path, where) as root:
        group = root.group("arrivals", f"{where}, arrivals")
        if group is None:
            return {}
        log = {}
        for name in names:
            array = group.array(name, f"{where}, arrivals/{name}")
            if array is None or len(array.shape) != 1 or array.dtype.kind not in _KINDS[name]:
                wanted = "whole numbers" if _KINDS[name] == "iu" else "floating-point numbers"
                raise UserError(f"{where}: arrivals/{name} is no list of {wanted}; give the result of a run")
            values = array.read()
            if not (np.isfinite(values).all() and (values >= 0).all()):
                raise UserError(f"{where}: arrivals/{name} has numbers that are negative or not finite")
            log[name] = values.astype(np.int64 if _KINDS[name] == "iu" else np.float64, copy=False)
        if len({len(values) for values in log.values()}) > 1:
            raise UserError(f"{where}: {', '.join(f'arrivals/{name}' for name in log)} differ in length")
        return log
