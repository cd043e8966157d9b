"""Exact sums on a device that is not waited for: the bits of adding one after another, by few operations."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.communicator import Communicator
from ppfl.rows import device_slices, exact_sum
from ppfl.rows.exact_sum import MAX_TERMS, ExactSum, exact_sums
from tests.operations import Counts, counted, on_a_device
from tests.ranks import on_ranks

SHAPES = [(8, 1, 5, 5), (8,), (16, 8, 3, 3), (16,), (12, 16), (12,), (3, 12), (3,)]
LENGTH = sum(math.prod(shape) for shape in SHAPES)
WIDTHS = [2, 0, 3, 1]
TYPES = [torch.float32, torch.float64, torch.bfloat16]
SPECIAL = [0.0, -0.0, math.ldexp(1.0, -1074), -math.ldexp(1.0, -1030), 1e-45, 0.5, -(2.0**40), 2.0**-40 * 1.5, 1e300]


def of_device() -> ExactSum:
    with on_a_device():
        return ExactSum(sum(WIDTHS))


def bits(sums: ExactSum, communicator: Communicator | None = None) -> bytes:
    return sums.reduce(communicator or SoloCommunicator()).numpy().tobytes()


@st.composite
def _batches(draw: st.DrawFn, finite: bool = True) -> list[tuple[list[torch.Tensor], torch.Tensor]]:
    """Return some times rows in pieces (K, …), and their weights; K may be 0."""
    anything = st.floats(allow_nan=not finite, allow_infinity=not finite, width=64)
    scaled = st.builds(math.ldexp, st.integers(-(2**53), 2**53), st.integers(-1100, 900))
    numbers = st.one_of(st.sampled_from(SPECIAL), scaled, st.floats(-10, 10), anything)
    scale = math.ldexp(1.0, draw(st.sampled_from([0, 0, -40, 100, -960, -1000])))
    batches = []
    for _ in range(draw(st.integers(0, 3))):
        count = draw(st.integers(0, 4))
        pieces = []
        for width in WIDTHS:
            values = draw(st.lists(numbers, min_size=count * width, max_size=count * width))
            wide = torch.tensor(values, dtype=torch.float64).reshape(count, width) * scale
            piece = wide.to(draw(st.sampled_from(TYPES)))
            pieces.append(piece.nan_to_num() if finite else piece)
        weights = draw(st.lists(st.sampled_from([1.0, 3.0, 117.0, 0.3, 0.0, 2.0**-40]), min_size=count, max_size=count))
        batches.append((pieces, torch.tensor(weights, dtype=torch.float64)))
    return batches


def _one_by_one(batches: list[tuple[list[torch.Tensor], torch.Tensor]]) -> ExactSum:
    sums = ExactSum(sum(WIDTHS))
    for pieces, weights in batches:
        for row, weight in enumerate(weights.tolist()):
            sums.add(*(piece[row] for piece in pieces), weight=weight)
    return sums


@given(st.one_of(_batches(), _batches(finite=False)), st.sampled_from([1, 2, 1 << 28]))
@settings(max_examples=400, deadline=None)
def test_rows_on_a_device_have_the_bits_of_one_by_one(
    batches: list[tuple[list[torch.Tensor], torch.Tensor]], block_bytes: int
) -> None:
    """Of any number types and magnitudes, also where columns come in several blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_slices, "BLOCK_BYTES", block_bytes * 16 * 2)
        rows, single = of_device(), of_device()
        for pieces, weights in batches:
            rows.add_rows(pieces, weights)
            for row, weight in enumerate(weights.tolist()):
                single.add(*(piece[row] for piece in pieces), weight=weight)
        wanted = bits(_one_by_one(batches))
        assert bits(rows) == wanted
        assert bits(single) == wanted


def test_a_term_below_all_kept_bins_is_left_out() -> None:
    """Its own highest bin is the fourth one, though rounded to the third it would be 1 there."""
    for value, wanted in ((0.75 * 2.0**40, 0.0), (3.0 * 2.0**40, 3.0 * 2.0**40)):
        sums = of_device()
        for term in (2.0**120, value, -(2.0**120)):
            sums.add_rows(torch.full((1, 6), term), torch.ones(1, dtype=torch.float64))
        assert sums.reduce(SoloCommunicator()).tolist() == [wanted] * 6


@given(_batches(), _batches(finite=False))
@settings(max_examples=100, deadline=None)
def test_ranks_with_and_without_a_device_agree(
    mine: list[tuple[list[torch.Tensor], torch.Tensor]], other: list[tuple[list[torch.Tensor], torch.Tensor]]
) -> None:
    wanted = bits(_one_by_one([*mine, *other]))

    def share(communicator: Communicator) -> bytes:
        sums = ExactSum(sum(WIDTHS))
        if communicator.rank != 1:
            sums._heights = device_slices.Heights(sums._top, True, torch.device("cpu"))
        for pieces, weights in (mine, other, [])[communicator.rank]:
            sums.add_rows(pieces, weights)
        return bits(sums, communicator)

    assert on_ranks(3, share) == [wanted] * 3


@pytest.mark.parametrize("late", [False, True])
def test_more_terms_than_a_float64_counts_exactly(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recent terms are moved to int64 in time, also when the highest bin is raised afterwards."""
    value, count = math.ldexp(1.0, 39) + 0.75, 9000
    with on_a_device():
        sums = ExactSum(1)
    if not late:
        sums.add(torch.tensor([2.0**81], dtype=torch.float64))
    for _ in range(2):
        sums.add_rows(torch.full((count, 1), value, dtype=torch.float64), torch.ones(count, dtype=torch.float64))
    if late:
        sums.add(torch.tensor([2.0**81], dtype=torch.float64))
    assert sums.reduce(SoloCommunicator()).tolist() == [float(Fraction(2) ** 81 + 2 * count * Fraction(value))]
    assert sums._earlier is not None


def test_nothing_and_too_much() -> None:
    assert of_device().reduce(SoloCommunicator()).tolist() == [0.0] * sum(WIDTHS)
    with on_a_device():
        assert ExactSum(0).reduce(SoloCommunicator()).shape == (0,)
    sums = of_device()
    sums._num_terms = MAX_TERMS
    sums.add(torch.ones(sum(WIDTHS)))
    with pytest.raises(OverflowError, match="at most"):
        sums.reduce(SoloCommunicator())
    for rows, number in ((torch.ones(2, 5), 2), (torch.ones(2, 6), 3)):
        with pytest.raises(AssertionError, match="another length or number"):
            of_device().add_rows(rows, torch.ones(number, dtype=torch.float64))


def test_a_sum_on_a_device_is_read_as_often_as_asked_for() -> None:
    sums = of_device()
    sums.add(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), weight=3.0)
    assert sums.reduce(SoloCommunicator()).tolist() == [3.0, 6.0, 9.0, 12.0, 15.0, 18.0]
    sums.add(torch.ones(6))
    assert sums.reduce(SoloCommunicator()).tolist() == [4.0, 7.0, 10.0, 13.0, 16.0, 19.0]


def test_the_third_bin_travels_where_it_is_used() -> None:
    values = torch.tensor([[2.0**80, 1.0]], dtype=torch.float64)

    def share(communicator: Communicator) -> list[float]:
        sums = ExactSum(2)
        sums.add_rows(values, torch.ones(1, dtype=torch.float64))
        found: list[float] = sums.reduce(communicator).tolist()
        return found

    with on_a_device():
        assert on_ranks(2, share) == [[2.0**81, 2.0]] * 2


def test_what_was_not_finite_stays_so_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_sum, "_compiled", lambda: None)
    sums = ExactSum(1)
    sums.add(torch.tensor([math.inf]))
    sums.add_rows(torch.ones(2, 1), torch.ones(2, dtype=torch.float64))
    assert math.isnan(float(sums.reduce(SoloCommunicator())))


def _mean(number: int, one_by_one: bool = False) -> Counts:
    """Return what it takes to add up rows and to read their sum."""
    generator = torch.Generator().manual_seed(number)
    pieces = [torch.randn(number, *shape, generator=generator) for shape in SHAPES]
    weights = torch.arange(1, number + 1, dtype=torch.float64)
    with on_a_device(), counted() as counts:
        sums = ExactSum(LENGTH)
        if one_by_one:
            for row in range(number):
                sums.add(*(piece[row] for piece in pieces), weight=float(weights[row]))
        else:
            sums.add_rows(pieces, weights)
        sums.reduce(SoloCommunicator())
    return counts


def test_operations_do_not_depend_on_the_number_of_rows_and_nothing_is_waited_for() -> None:
    _mean(1)
    few, many = _mean(20), _mean(200)
    assert few.by_name == many.by_name
    # 8 parameters are 8 views; of these 4 biases are rows as they are
    assert few.operations <= 90
    assert few.waits == many.waits == 0


def test_each_further_block_costs_a_bounded_number_of_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    _mean(1)
    one = _mean(20).operations
    for num_blocks in (2, 5, 11):
        columns = -(-LENGTH // num_blocks)
        monkeypatch.setattr(device_slices, "BLOCK_BYTES", 16 * 20 * columns)
        assert _mean(20).operations <= one + 40 * num_blocks


def test_single_vectors_wait_for_nothing() -> None:
    assert _mean(3, one_by_one=True).waits == len("abc")  # the test's own looks at the weights


def test_several_ranks_read_once_and_then_fetch_each_message() -> None:
    pieces = [torch.randn(4, *shape) for shape in SHAPES]

    def share(communicator: Communicator) -> int:
        sums = ExactSum(LENGTH)
        sums.add_rows(pieces, torch.ones(4, dtype=torch.float64))
        if communicator.rank:
            sums.reduce(communicator, 8 * LENGTH + 8)
            return 0
        with counted() as counts:
            sums.reduce(communicator, 8 * LENGTH + 8)
        return counts.waits_by_name["to_host"]

    with on_a_device():
        # all terms are float32 of about one size, so that two bins travel, in two messages
        assert on_ranks(2, share) == [1 + 2, 0]


@pytest.mark.parametrize("num_terms", [3, 5000])
def test_many_sums_at_once_wait_for_nothing_and_have_the_same_bits(num_terms: int) -> None:
    generator = torch.Generator().manual_seed(0)
    terms = torch.randn(2, num_terms, 3, dtype=torch.float64, generator=generator).exp_()
    weights = torch.rand(2, num_terms, dtype=torch.float64, generator=generator)
    wanted = []
    for rows, of_rows in zip(terms, weights, strict=True):
        sums = ExactSum(3)
        sums.add_rows(rows, of_rows)
        wanted.append(sums.reduce(SoloCommunicator()))
    with on_a_device(), counted() as counts:
        found = exact_sums(terms, weights)
    assert counts.waits == 0
    assert torch.equal(found, torch.stack(wanted))


def test_without_numba_rows_go_the_way_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_sum, "_compiled", lambda: None)
    sums, wanted = ExactSum(2), ExactSum(2)
    terms = torch.tensor([[1.0, 2.0**-70], [3.0, 2.0**30], [1e200, 1.0]], dtype=torch.float64)
    sums.add(terms[0])
    with counted() as counts:
        sums.add_rows(terms[1:], torch.ones(2, dtype=torch.float64))
    sums.add(terms[0])
    for term in (*terms, terms[0]):
        wanted.add(term)
    assert counts.waits == 0
    assert bits(sums) == bits(wanted)
