"""Deterministic kernels: what torch is told for runs that want them, and what it is told afterwards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
import torch.utils.deterministic

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.errors import UserError
from ppfl.runs import determinism
from ppfl.runs.determinism import describe_determinism, set_determinism

GPU, CPU = torch.device("cuda"), torch.device("cpu")
SET = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
IMPORTED = "import ppfl, os; print(os.environ['CUBLAS_WORKSPACE_CONFIG'])"


def flags() -> tuple[bool, ...]:
    return (
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )


@pytest.fixture(autouse=True)
def _flags() -> Iterator[None]:
    """Put back what torch has for all of the process."""
    before, of_ppfl = determinism._Flags.now(), list(determinism._before)
    yield
    before.set()
    determinism._before[:] = of_ppfl


def choose(wanted: bool, device: torch.device, environment: dict[str, str] | None = None) -> tuple[bool, ...]:
    set_determinism(wanted, device, SoloCommunicator(), SET if environment is None else environment)
    return flags()


def test_each_run_gets_what_it_wants_in_whatever_order() -> None:
    torch.backends.cudnn.benchmark = True  # what a notebook had
    before = flags()
    deterministic = (True, False, True, True, False)
    assert choose(True, GPU) == deterministic
    assert choose(True, GPU) == deterministic
    assert choose(False, GPU) == before
    assert choose(False, GPU) == before
    assert choose(True, GPU) == deterministic
    assert choose(True, CPU) == before
    torch.backends.cudnn.benchmark = False
    assert choose(False, CPU) == flags(), "what was changed in between stays"
    assert torch.backends.cudnn.benchmark is False


def test_a_cpu_is_told_nothing() -> None:
    before = flags()
    for wanted in (True, False):
        assert choose(wanted, CPU, {}) == before


@pytest.mark.parametrize("given", [":0:0", "", ":4096:2:16:8"])
def test_a_workspace_with_which_sums_change_is_refused(given: str) -> None:
    with pytest.raises(UserError, match=rf"CUBLAS_WORKSPACE_CONFIG={given} on rank 0.*:4096:8 or :16:8; unset it"):
        choose(True, GPU, {"CUBLAS_WORKSPACE_CONFIG": given})
    choose(False, GPU, {"CUBLAS_WORKSPACE_CONFIG": given})
    assert choose(True, GPU, {"CUBLAS_WORKSPACE_CONFIG": ":16:8"})[2]


def test_provenance_says_what_was_chosen() -> None:
    choose(True, GPU)
    assert describe_determinism(SET) == "deterministic kernels, CUBLAS_WORKSPACE_CONFIG=:4096:8"
    choose(False, GPU)
    assert describe_determinism({}) == "kernels as torch chooses, CUBLAS_WORKSPACE_CONFIG=unset"


@pytest.mark.parametrize(("environment", "found"), [({}, ":4096:8"), ({"CUBLAS_WORKSPACE_CONFIG": ":16:8"}, ":16:8")])
def test_cublas_is_told_before_torch_is_loaded(environment: dict[str, str], found: str) -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], env=environment, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == found
