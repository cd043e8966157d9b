"""Rules, what comes before them, and attacks on a device: the values of a CPU, on any number of ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.interfaces.attack import Knowledge
from ppfl.interfaces.pre_aggregator import RandomKey
from ppfl.rows import client_rows
from tests.aggregators.tables import BEFORE, ON_VECTORS, RULES, attack, matrix_of, rule, vectors
from tests.operations import counted, on_a_device
from tests.ranks import on_ranks

N, DIMENSION = 11, 1200
SHAPES = [(8, 1, 5, 5), (8,), (16, 8, 3, 3), (16,), (12, 16), (12,), (3, 12), (3,)]


@pytest.fixture(autouse=True)
def _narrow_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_rows, "BLOCK_COLUMNS", 64)


def _result(name: str, before: str | None, attack_name: str | None, communicator: Any) -> torch.Tensor:
    x = vectors(N, DIMENSION, "generic").astype(np.float64)
    matrix, key, chosen = matrix_of(communicator, x), RandomKey(3, 5), rule(name, N, before)
    if attack_name is not None:
        marked = torch.arange(N) < 2
        matrix = attack(attack_name)(matrix, marked, Knowledge(key, lambda changed: chosen(changed, key)))
    return chosen(matrix, key)


def _check(name: str, before: str | None, attack_name: str | None) -> None:
    wanted = _result(name, before, attack_name, SoloCommunicator())
    with on_a_device():
        alone = _result(name, before, attack_name, SoloCommunicator())
        for found in on_ranks(3, lambda communicator: _result(name, before, attack_name, communicator)):
            assert torch.equal(found, alone)
    torch.testing.assert_close(alone, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("before", [None, *BEFORE])
@pytest.mark.parametrize("name", RULES)
def test_rules_find_what_they_find_on_a_cpu_on_any_number_of_ranks(name: str, before: str | None) -> None:
    _check(name, before, None)


@pytest.mark.parametrize("attack_name", ON_VECTORS)
def test_attacks_do_what_they_do_on_a_cpu(attack_name: str) -> None:
    _check("trimmed_mean", None, attack_name)


@pytest.mark.parametrize("number", [2, 5, 8])
def test_ties_around_the_median_go_to_the_lowest_row(number: int) -> None:
    x = torch.randint(-2, 3, (number, 300), dtype=torch.float64, generator=torch.Generator().manual_seed(number))
    wanted = rule("meamed", number)(matrix_of(SoloCommunicator(), x.numpy()), RandomKey())
    with on_a_device(), counted() as counts:
        found = rule("meamed", number)(matrix_of(SoloCommunicator(), x.numpy()), RandomKey())
    assert torch.equal(found, wanted)
    assert counts.waits == 1
