"""Rows of a pack of samples as tensors: held on the device, or read when they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch

from ppfl.interfaces.packed_samples import read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.interfaces.packed_samples import Pack, RowsOfFile


class SampleRows(ABC):
    """The samples of a pack, x as compact as they came (uint8 stays uint8), y int64 in memory of its own."""

    @abstractmethod
    def take(self, rows: slice | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x and y of some rows of one client."""

    @abstractmethod
    def take_all(self, rows: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x and y of some rows of each of several clients, one client after another."""


class HeldRows(SampleRows):
    """All of them on the device."""

    def __init__(self, x: np.ndarray, y: np.ndarray, device: torch.device) -> None:
        self._x = torch.from_numpy(x).to(device)
        self._y = torch.from_numpy(y).to(device)

    def take(self, rows: slice | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x, which may be a view, and y."""
        if isinstance(rows, slice):
            return self._x[rows], self._y[rows].clone()
        chosen = torch.from_numpy(rows).to(self._x.device)
        return self._x.index_select(0, chosen), self._y.index_select(0, chosen)

    def take_all(self, rows: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x and y with one gather each."""
        return self.take(np.concatenate(rows))


class ReadRows(SampleRows):
    """Labels on the host, x in their file: for data that memory does not hold."""

    def __init__(self, x: RowsOfFile, y: np.ndarray, device: torch.device) -> None:
        self._x = x
        self._y = y
        self._device = device

    def take(self, rows: slice | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Read what lies between the first and the last of them."""
        return self._on_device(read_rows(self._x, rows), self._y[rows])

    def take_all(self, rows: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Read client by client."""
        x = np.concatenate([read_rows(self._x, of_client) for of_client in rows])
        return self._on_device(x, self._y[np.concatenate(rows)])

    def _on_device(self, x: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        # a copy of y, which may be a view of what is kept
        return torch.from_numpy(x).to(self._device), torch.tensor(y, device=self._device)


def open_rows(pack: Pack, device: torch.device) -> SampleRows:
    """Return the samples of a pack where they are: those in memory come to the device."""
    if isinstance(pack.x, np.ndarray):
        return HeldRows(pack.x, pack.y, device)
    return ReadRows(pack.x, pack.y, device)


def as_numbers(rows: slice | np.ndarray) -> np.ndarray:
    """Return the same rows as numbers, (S,) int64."""
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
