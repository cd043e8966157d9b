"""Spans of rows of a file, one a client, which are read in blocks and packed in the order of the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


class RowSpans:
    """Disjoint spans: client c has rows starts[c] to starts[c] + sizes[c] − 1 of the file; (C,) int64 each."""

    def __init__(self, starts: np.ndarray, sizes: np.ndarray) -> None:
        self.num_rows = int(sizes.sum())
        with_rows = np.flatnonzero(sizes)
        self._clients = with_rows[np.argsort(starts[with_rows], kind="stable")]
        """Those with rows, in the order of the file."""
        self._in_file, sizes_there = starts[self._clients], sizes[self._clients]
        self._in_pack = np.cumsum(sizes_there) - sizes_there
        self.starts_in_pack = np.zeros(len(starts), np.int64)
        """(C,), first row of each in the pack."""
        self.starts_in_pack[self._clients] = self._in_pack
        ends = self._in_file + sizes_there
        # spans that touch are one run of rows
        begins = np.ones(len(ends), bool)
        begins[1:] = self._in_file[1:] != ends[:-1]
        self._run_starts = self._in_file[begins]
        self._run_ends = ends[np.append(begins[1:], True)] if len(ends) else ends

    def blocks(self, num_rows: int) -> Iterator[tuple[int, int, np.ndarray | None]]:
        """Yield (first, last + 1, which of these rows; None: all) of blocks in the order of the file."""
        for first in range(int(self._run_starts[0]), int(self._run_ends[-1]), num_rows) if self.num_rows else ():
            here = slice(
                int(np.searchsorted(self._run_ends, first, side="right")),
                int(np.searchsorted(self._run_starts, first + num_rows, side="left")),
            )
            if here.start == here.stop:
                continue
            starts = np.maximum(self._run_starts[here], first)
            ends = np.minimum(self._run_ends[here], first + num_rows)
            chosen = None
            if len(starts) > 1:
                sizes = ends - starts
                skipped = starts - starts[0] - (np.cumsum(sizes) - sizes)
                chosen = np.repeat(skipped, sizes) + np.arange(int(sizes.sum()))
            yield int(starts[0]), int(ends[-1]), chosen

    def client_at(self, row: int) -> int:
        """Return whose row of the pack that is."""
        return int(self._clients[self._at(row)])

    def row_in_file(self, row: int) -> int:
        """Return where a row of the pack is in the file."""
        at = self._at(row)
        return int(self._in_file[at] + row - self._in_pack[at])

    def _at(self, row: int) -> int:
        return int(np.searchsorted(self._in_pack, row, side="right")) - 1
