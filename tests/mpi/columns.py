"""Rows to columns and back, on the ranks of one start of MPI: `python -m mpi4py -m tests.mpi.columns`."""

from __future__ import annotations

import torch

from ppfl.core.communicator import Communicator

BOUNDS = {1: [0, 7], 2: [0, 0, 7], 3: [0, 3, 3, 7], 4: [0, 1, 5, 6, 7]}
"""Columns of each rank, none of some."""
NUM_ROWS = {1: [4], 2: [3, 1], 3: [2, 0, 3], 4: [0, 2, 0, 1]}
"""And rows."""


def there_and_back(communicator: Communicator, dtype: torch.dtype) -> None:
    """Send this rank's rows to the ranks of their columns, and have them back."""
    bounds, of_ranks = BOUNDS[communicator.size], NUM_ROWS[communicator.size]
    rank, num_rows = communicator.rank, of_ranks[communicator.rank]
    everything = (torch.arange(sum(of_ranks) * 7).reshape(-1, 7) * 0.1).to(dtype)
    first = sum(of_ranks[:rank])
    rows = everything[first : first + num_rows].contiguous()
    columns = communicator.rows_to_columns(rows, bounds)
    assert torch.equal(columns, everything[:, bounds[rank] : bounds[rank + 1]])
    back = communicator.columns_to_rows(columns, bounds, num_rows)
    assert back.dtype == dtype
    assert back.is_contiguous()
    assert torch.equal(back, rows)
    assert back.data_ptr() != columns.data_ptr() or not columns.numel()


if __name__ == "__main__":
    from ppfl.comm.mpi import MpiCommunicator  # starts MPI, which a process of tests must not

    for number_type in (torch.float32, torch.float64, torch.int64):
        there_and_back(MpiCommunicator(), number_type)
