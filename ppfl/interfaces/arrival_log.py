"""Reads the arrivals of an asynchronous run from its result, for those who repeat their times or their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppfl.core.errors import UserError
from ppfl.interfaces.network import Fate

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_KINDS = {
    "client": "iu", "version": "iu", "delay": "iu", "arrivals": "iu", "fate": "iu", "seconds": "f",
    "turnaround_seconds": "f",
}  # fmt: skip
NAMES = ("client", "version", "delay", "seconds", "turnaround_seconds")
"""What is known of an arrival, see `ppfl.engine.arrivals.Arrival`."""
NAMES_OF_LOSSES = ("client", "version", "arrivals", "fate", "seconds")
"""What is known of a job that was lost, see `ppfl.engine.arrivals.Loss`."""


def read_losses(path: Path, where: str) -> dict[str, np.ndarray]:
    """Return the same of jobs that were lost, {name: (losses,)}; nothing where none could be.

    Raises UserError, too, where there is no such fate, and where losses are not in the order of arrivals.
    """
    log = read_arrivals(path, where, NAMES_OF_LOSSES, "losses")
    if log and not (np.isin(log["fate"], [fate for fate in Fate if fate != Fate.ARRIVED]).all()):
        raise UserError(f"{where}: losses/fate has numbers that are none of a loss")
    if log and (np.diff(log["arrivals"]) < 0).any():
        raise UserError(f"{where}: losses/arrivals has numbers that fall")
    return log


def read_arrivals(
    path: Path, where: str, names: Collection[str] = NAMES, of: str = "arrivals"
) -> dict[str, np.ndarray]:
    """Return {name: (arrivals,)}, int64 or float64; nothing for a result without a log.

    Raises UserError, which begins with `where`, for anything but finite numbers ≥ 0, one of each an arrival.
    """
    from ppfl.interfaces.data_hdf5 import open_data

    with open_data(path, where) as root:
        group = root.group(of, f"{where}, {of}")
        if group is None:
            return {}
        log = {}
        for name in names:
            array = group.array(name, f"{where}, {of}/{name}")
            if array is None or len(array.shape) != 1 or array.dtype.kind not in _KINDS[name]:
                wanted = "whole numbers" if _KINDS[name] == "iu" else "floating-point numbers"
                raise UserError(f"{where}: {of}/{name} is no list of {wanted}; give the result of a run")
            values = array.read()
            if not (np.isfinite(values).all() and (values >= 0).all()):
                raise UserError(f"{where}: {of}/{name} has numbers that are negative or not finite")
            log[name] = values.astype(np.int64 if _KINDS[name] == "iu" else np.float64, copy=False)
        if len({len(values) for values in log.values()}) > 1:
            raise UserError(f"{where}: {', '.join(f'{of}/{name}' for name in log)} differ in length")
        return log
