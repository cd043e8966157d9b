"""Sums of entries that differ by hundreds of orders of magnitude: exact enough each, the same bits in every order."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppfl.comm.solo import SoloCommunicator
from ppfl.rows.entrywise_sum import EntrywiseSum
from ppfl.rows.exact_sum import MAX_TERMS
from tests.ranks import on_ranks

WIDE = st.floats(min_value=-1e290, max_value=1e290, allow_nan=False, allow_subnormal=False)


def total(batches: list[torch.Tensor]) -> torch.Tensor:
    sums = EntrywiseSum(batches[0].shape[1])
    for batch in batches:
        sums.add(batch)
    return sums.reduce(SoloCommunicator())


def terms_of(count: int, length: int) -> torch.Tensor:
    draw = np.random.default_rng(count)
    powers = draw.uniform(-120, 120, length) + draw.uniform(-8, 8, (count, length))
    return torch.from_numpy(draw.standard_normal((count, length)) * 10.0**powers)


@given(st.lists(WIDE, min_size=1, max_size=12), st.integers(1, 12), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_close_to_the_true_sum_in_every_order(values: list[float], size: int, random: object) -> None:
    terms = torch.tensor(values, dtype=torch.float64)[:, None]
    got = total([terms])
    true = float(sum(Fraction(value) for value in values))
    largest = max(abs(value) for value in values)
    assert abs(float(got) - true) <= 2.0**-52 * abs(true) + len(values) * 2.0**-79 * largest + 2.0**-900
    order = list(range(len(values)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert torch.equal(total(list(torch.split(terms[order], size))), got)


@pytest.mark.parametrize("value", [1.0, 3e-12, 2.8495046447925256e-29, 1e-40, -1e-200])
def test_a_zero_leaves_all_digits_of_the_others(value: float) -> None:
    """It has no exponent of its own, and is not to be taken for a number between 1/2 and 1."""
    terms = torch.tensor([[0.0], [value], [0.0]], dtype=torch.float64)
    assert float(total([terms])) == value
    assert float(total(list(torch.split(terms, 1)))) == value


def test_entries_do_not_disturb_each_other() -> None:
    terms = terms_of(9, 200)
    alone = torch.cat([total([terms[:, k : k + 1]]) for k in range(200)])
    assert torch.equal(total([terms]), alone)
    exact = torch.tensor([float(sum(map(Fraction, column))) for column in terms.T.tolist()], dtype=torch.float64)
    torch.testing.assert_close(alone, exact, rtol=1e-15, atol=0)


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_any_number_of_ranks_gives_the_same_bits(num_ranks: int) -> None:
    terms = terms_of(11, 300)

    def share(communicator):  # type: ignore[no-untyped-def]
        sums = EntrywiseSum(300)
        mine = terms[communicator.rank :: communicator.size]
        for batch in torch.split(mine, 2):
            sums.add(batch)
        return sums.reduce(communicator)

    for result in on_ranks(num_ranks, share):
        assert torch.equal(result, total([terms]))


def test_nan_and_inf_spoil_their_entry_alone() -> None:
    terms = torch.ones(3, 5, dtype=torch.float64)
    terms[0, 1], terms[1, 2], terms[2, 3] = math.nan, math.inf, -math.inf
    assert total(list(terms[:, None])).tolist()[::4] == [3.0, 3.0]
    assert total([terms])[1:4].isnan().all()
    assert total([terms])[[0, 4]].tolist() == [3.0, 3.0]


def test_sums_of_nothing_and_of_zeros_are_zero() -> None:
    zeros = torch.zeros(3, dtype=torch.float64)
    assert torch.equal(EntrywiseSum(3).reduce(SoloCommunicator()), zeros)
    assert torch.equal(total([zeros[None, :]] * 2), zeros)


def test_too_many_terms_are_refused() -> None:
    sums = EntrywiseSum(1)
    sums._num_terms = MAX_TERMS
    sums.add(torch.ones(1, 1, dtype=torch.float64))
    with pytest.raises(OverflowError, match="at most"):
        sums.reduce(SoloCommunicator())
