"""`columns_to_rows` is the inverse of `rows_to_columns`, for every kind of communicator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from tests.mpi.columns import BOUNDS, there_and_back
from tests.mpi.jobs import MPIEXEC
from tests.ranks import on_ranks

ROOT = Path(__file__).parents[2]


@pytest.mark.mpi
@pytest.mark.parametrize("count", BOUNDS)
def test_on_ranks_of_mpi(count: int) -> None:
    command = [MPIEXEC, "-n", str(count), sys.executable, "-m", "mpi4py", "-m", "tests.mpi.columns"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=180)


@pytest.mark.parametrize("count", BOUNDS)
def test_on_threads(count: int) -> None:
    on_ranks(count, lambda communicator: there_and_back(communicator, torch.float64))


def test_in_one_process() -> None:
    there_and_back(SoloCommunicator(), torch.float64)
