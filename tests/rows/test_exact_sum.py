"""The sum over clients: exact enough, and the same bits in every order and grouping."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.communicator import Communicator
from ppfl.rows import exact_sum
from ppfl.rows.exact_sum import MAX_TERMS, NUM_BINS, ExactSum, exact_sums
from tests.ranks import on_ranks

WIDE = st.floats(min_value=-1e200, max_value=1e200, allow_nan=False, allow_subnormal=False)


def total(terms: list[torch.Tensor]) -> torch.Tensor:
    sums = ExactSum(len(terms[0]))
    for term in terms:
        sums.add(term)
    return sums.reduce(SoloCommunicator())


def as_rows(terms: list[torch.Tensor]) -> torch.Tensor:
    sums = ExactSum(len(terms[0]))
    sums.add_rows(torch.stack(terms), torch.ones(len(terms), dtype=torch.float64))
    return sums.reduce(SoloCommunicator())


def random_terms(count: int, length: int, spread: float, seed: int = 0) -> list[torch.Tensor]:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((count, length)) * 10.0 ** rng.uniform(-spread, spread, (count, length))
    return list(torch.from_numpy(values))


@given(st.lists(WIDE, min_size=1, max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_order_does_not_change_a_bit(values: list[float], random: object) -> None:
    terms = [torch.tensor([value], dtype=torch.float64) for value in values]
    shuffled = terms[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert torch.equal(total(terms), total(shuffled))


@given(st.lists(WIDE, min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_close_to_the_true_sum(values: list[float]) -> None:
    true = float(sum(Fraction(value) for value in values))
    largest = max(abs(value) for value in values)
    got = float(total([torch.tensor([value], dtype=torch.float64) for value in values]))
    tiny = 2.0**-900
    assert abs(got - true) <= 2.0**-52 * abs(true) + len(values) * 2.0**-79 * largest + tiny


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("spread", [0.0, 3.0, 30.0])
def test_any_number_of_ranks_gives_the_same_bits(num_ranks: int, spread: float) -> None:
    terms = random_terms(11, 500, spread)

    def share(communicator):  # type: ignore[no-untyped-def]
        sums = ExactSum(500)
        for index in range(communicator.rank, len(terms), communicator.size):
            sums.add(terms[index])
        return sums.reduce(communicator)

    for result in on_ranks(num_ranks, share):
        assert torch.equal(result, total(terms))


@pytest.mark.parametrize("chunk", [1, 7, 64, 499, 500, 1 << 17])
@pytest.mark.parametrize("cuts", [(500,), (1, 0, 499), (120, 250, 130)], ids=str)
@pytest.mark.parametrize("weight", [1.0, 3.0, 117.0])
def test_pieces_and_chunks_give_the_bits_of_the_whole(
    weight: float, cuts: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = [term.to(torch.float32) for term in random_terms(11, 500, 3.0)]
    wanted = total([term.to(torch.float64) * weight for term in terms])
    monkeypatch.setattr(exact_sum, "_CHUNK", chunk)
    sums = ExactSum(500)
    for term in terms:
        pieces = torch.split(term, list(cuts))
        sums.add(*(piece.reshape(10, -1) if len(piece) % 10 == 0 else piece for piece in pieces), weight=weight)
    assert torch.equal(sums.reduce(SoloCommunicator()), wanted)


def test_a_vector_of_another_length_is_refused() -> None:
    for length, number in ((500, 499), (500, 501), (0, 1)):
        with pytest.raises(AssertionError, match="another length"):
            ExactSum(length).add(torch.ones(number))


@pytest.mark.parametrize("spread", [0.0, 3.0, 12.0, 30.0])
def test_few_terms_and_many_are_rounded_alike(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 and in int64; halves of a bin's unit, of either sign, and sums that cancel among them."""
    terms = random_terms(9, 300, spread)
    half = 2.0 ** (-exact_sum.BIN_BITS - 1)
    ties = torch.tensor([half, -half, 1.0 + half, -1.0 - half, 3 * half, -3 * half, 0.0, -0.0], dtype=torch.float64)
    for row in terms:
        row[:8] = ties
    terms[3] = -terms[2]
    few = total(terms)
    monkeypatch.setattr(exact_sum, "_MAX_RECENT", 2)
    many = total(terms)
    assert few.numpy().tobytes() == many.numpy().tobytes()


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("bucket_bytes", [1, 24 * 7, 24 * 499, 24 * 500, 1 << 30])
def test_messages_of_any_size_give_the_same_bits(num_ranks: int, bucket_bytes: int) -> None:
    terms = random_terms(11, 500, 3.0)

    def share(communicator):  # type: ignore[no-untyped-def]
        sums = ExactSum(500)
        for index in range(communicator.rank, len(terms), communicator.size):
            sums.add(terms[index])
        return sums.reduce(communicator, bucket_bytes)

    for result in on_ranks(num_ranks, share):
        assert torch.equal(result, total(terms))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_coordinates_keep_the_digits_of_their_number_type(dtype: torch.dtype, sign: float) -> None:
    """Down to 2**-56 (float32) and 2**-27 (float64) of the largest coordinate nothing is lost."""
    smallest = 56 if dtype == torch.float32 else 27
    scales = 2.0 ** -torch.arange(0, smallest + 1, dtype=torch.float64)
    mantissas = 1.0 + torch.from_numpy(np.random.default_rng(0).random(len(scales)))
    term = (sign * mantissas * scales).to(dtype)
    term[0] = 1.0
    assert torch.equal(total([term]), term.to(torch.float64))


def test_a_plain_sum_would_differ() -> None:
    """The property is not vacuous: floating-point sums of these terms do depend on order."""
    terms = random_terms(50, 200, 3.0)
    forward = torch.stack(terms).cumsum(dim=0)[-1]
    backward = torch.stack(terms[::-1]).cumsum(dim=0)[-1]
    assert not torch.equal(forward, backward)
    assert torch.equal(total(terms), total(terms[::-1]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_non_finite_terms_make_the_sum_nan(bad: float, position: int) -> None:
    terms = [torch.ones(4, dtype=torch.float64) for _ in range(3)]
    terms[position][2] = bad
    assert total(terms).isnan().all()


def test_sums_of_nothing_and_of_zeros_are_zero() -> None:
    assert torch.equal(ExactSum(3).reduce(SoloCommunicator()), torch.zeros(3, dtype=torch.float64))
    assert torch.equal(total([torch.zeros(3)] * 2), torch.zeros(3, dtype=torch.float64))


def test_too_many_terms_are_refused() -> None:
    sums = ExactSum(1)
    sums._num_terms = MAX_TERMS
    sums.add(torch.ones(1))
    with pytest.raises(OverflowError, match="at most"):
        sums.reduce(SoloCommunicator())


@given(
    st.lists(st.integers(-(2**53), 2**53), min_size=1, max_size=8),
    st.lists(st.integers(-90, 60), min_size=8, max_size=8),
)
@settings(max_examples=300, deadline=None)
def test_halves_of_a_unit_are_rounded_alike_whatever_came_before(integers: list[int], exponents: list[int]) -> None:
    """Entries that end in exact halves of the lowest unit, before and after one that raises the highest bin."""
    terms = [torch.tensor([math.ldexp(k, e)], dtype=torch.float64) for k, e in zip(integers, exponents, strict=False)]
    terms.append(torch.tensor([2.0**41], dtype=torch.float64))
    terms.append(torch.tensor([-(2.0**-41) * 3], dtype=torch.float64))
    assert torch.equal(total(terms), total(terms[::-1]))


def test_many_terms_do_not_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recent terms are moved to int64 in time, also when the highest bin is raised afterwards."""
    value = math.ldexp(1.0, 39) + 0.75
    few, many = ExactSum(1), ExactSum(1)
    monkeypatch.setattr("ppfl.rows.exact_sum._MAX_RECENT", 3)
    for sums, late in ((few, False), (many, True)):
        if not late:
            sums.add(torch.tensor([2.0**81], dtype=torch.float64))
        for _ in range(10):
            sums.add(torch.tensor([value], dtype=torch.float64))
        if late:
            sums.add(torch.tensor([2.0**81], dtype=torch.float64))
    exact = float(Fraction(2) ** 81 + 10 * Fraction(value))
    assert few.reduce(SoloCommunicator()).tolist() == many.reduce(SoloCommunicator()).tolist() == [exact]


@given(st.lists(WIDE, min_size=1, max_size=6), st.integers(-130, 10))
@settings(max_examples=300, deadline=None)
def test_all_at_once_gives_the_bits_of_one_by_one(values: list[float], power: int) -> None:
    """Also with terms whose largest entry lies just below a bin that is no longer kept."""
    values = [*values, 1.0, math.ldexp(1.0, power), math.ldexp(0.75, power)]
    terms = [torch.tensor([value], dtype=torch.float64) for value in values]
    assert torch.equal(exact_sums(torch.stack(terms)[None])[0], total(terms))
    assert torch.equal(total(terms), total(terms[::-1]))


@given(st.lists(WIDE, min_size=1, max_size=6), st.integers(-130, 10), st.lists(st.integers(0, 5), max_size=3))
@settings(max_examples=300, deadline=None)
def test_rows_give_the_bits_of_one_by_one(values: list[float], power: int, cuts: list[int]) -> None:
    """Whatever is added as rows and whatever by itself, and whatever was there before."""
    values = [*values, 1.0, 0.0, math.ldexp(1.0, power), math.ldexp(0.75, power)]
    terms = torch.tensor([[value, -value / 3, 1e-7 * value] for value in values], dtype=torch.float64)
    weights = torch.arange(1, len(values) + 1, dtype=torch.float64)
    wanted, found = ExactSum(3), ExactSum(3)
    for term, weight in zip(terms, weights.tolist(), strict=True):
        wanted.add(term, weight=weight)
    edges = sorted({0, len(values), *(min(cut, len(values)) for cut in cuts)})
    for number, (start, stop) in enumerate(pairwise(edges)):
        if number % 2:
            for row in range(start, stop):
                found.add(terms[row], weight=float(weights[row]))
        else:
            found.add_rows(terms[start:stop], weights[start:stop])
    assert torch.equal(found.reduce(SoloCommunicator()), wanted.reduce(SoloCommunicator()))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_makes_the_sum_nan(value: float) -> None:
    sums = ExactSum(2)
    sums.add_rows(torch.tensor([[1.0, 2.0], [value, 0.0]], dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    assert sums.reduce(SoloCommunicator()).isnan().all()


def test_more_rows_than_a_float64_counts_exactly() -> None:
    value, count = math.ldexp(1.0, 39) - 1, 5000
    sums = ExactSum(1)
    sums.add_rows(torch.full((count, 1), value, dtype=torch.float64), torch.ones(count, dtype=torch.float64))
    assert sums.reduce(SoloCommunicator()).tolist() == [float(Fraction(count) * Fraction(value))]


@pytest.mark.parametrize("tiny_rank", [None, 0, 2])
def test_bins_that_are_empty_everywhere_do_not_travel(tiny_rank: int | None) -> None:
    terms = [term.float() for term in random_terms(9, 300, 1.0)]
    if tiny_rank is not None:
        terms[3 * tiny_rank][::7] = 2.0**-60 / 3

    def share(communicator: Communicator) -> tuple[torch.Tensor, set[int]]:
        sums = ExactSum(300)
        for index in range(communicator.rank * 3, communicator.rank * 3 + 3):
            sums.add(terms[index])
        sent = set()
        start_sum = communicator.start_sum

        def counted(slices: torch.Tensor) -> Callable[[], torch.Tensor]:
            sent.add(len(slices))
            return start_sum(slices)

        communicator.start_sum = counted  # type: ignore[method-assign]
        return sums.reduce(communicator), sent

    wanted = exact_sums(torch.stack(terms)[None])[0]
    for found, sent in on_ranks(3, share):
        assert torch.equal(found, wanted)
        assert sent == {NUM_BINS if tiny_rank is not None else NUM_BINS - 1}


def test_a_term_below_all_kept_bins_is_left_out_at_once_as_one_by_one() -> None:
    """Its own highest bin is the fourth one, though rounded to the third it would be 1 there."""
    terms = [torch.tensor([value], dtype=torch.float64) for value in (2.0**120, 0.75 * 2.0**40, -(2.0**120))]
    assert total(terms) == exact_sums(torch.stack(terms)[None])[0] == as_rows(terms) == 0.0
    terms[1] *= 4.0
    assert total(terms) == exact_sums(torch.stack(terms)[None])[0] == as_rows(terms) == 3.0 * 2.0**40


def test_more_terms_than_a_float64_counts_exactly() -> None:
    sums = ExactSum(1)
    for value in (2.0**40 - 1, -(2.0**40)):
        for _ in range(10_000):  # 2**53 are passed after 8,192
            sums.add(torch.tensor([value], dtype=torch.float64))
    assert sums.reduce(SoloCommunicator()) == -10_000.0


def drawn_terms(seed: int) -> torch.Tensor:
    """Return (R, T, D) of any magnitudes, ties of the bins' units, single numbers that are not finite, any bits."""
    draw = np.random.default_rng(seed)
    shape = tuple(draw.integers((1, 0, 0), (4, 9, 12)))
    normal = draw.standard_normal(shape)
    powers = draw.choice([-121, -81, -80, -41, -40, -1, 0, 39, 40, 80, 120], size=shape)
    kinds = [
        normal,
        normal * 10.0 ** draw.uniform(-40, 40, shape),
        normal * 2.0 ** draw.integers(-1080, 1000, (*shape[:2], 1)),
        normal.astype(np.float32).astype(np.float64),
        np.ldexp(draw.choice([1.0, -1.0, 0.5, -0.5, 1.5, 0.0, -0.0, 3.0], size=shape), powers),
        draw.integers(0, 2**64, shape, dtype=np.uint64).view(np.float64),
    ]
    terms = kinds[seed % len(kinds)]
    if terms.size and seed % 5 == 0:
        terms.reshape(-1)[0] = draw.choice([math.nan, math.inf, -math.inf, 1.7e308])
    return torch.from_numpy(terms)


def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exact_sum._compiled() is not None
    monkeypatch.setattr(exact_sum, "_compiled", lambda: None)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_compiled_sums_have_the_bits_of_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [drawn_terms(seed) for seed in range(300)]
    weights = [torch.from_numpy(np.random.default_rng(0).choice([1.0, 3.0, 0.0, 0.3], x.shape[:2])) for x in cases]
    sums = [exact_sums(x, v) for x, v in zip(cases, weights, strict=True)]
    without_numba(monkeypatch)
    for x, v, found in zip(cases, weights, sums, strict=True):
        assert found.shape == (len(x), x.shape[2])
        assert found.numpy().tobytes() == exact_sums(x, v).numpy().tobytes(), (x, v)
        assert found.numpy().tobytes() == exact_sums(x * v.unsqueeze(-1)).numpy().tobytes(), (x, v)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_compiled_rows_have_the_bits_of_adding_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latter is what is done without Numba."""

    def sums_of(x: torch.Tensor, first: torch.Tensor) -> bytes:
        sums = ExactSum(x.shape[1])
        sums.add(first)
        sums.add_rows(x, torch.arange(len(x), dtype=torch.float64))
        return sums.reduce(SoloCommunicator()).numpy().tobytes()

    cases = [rows for seed in range(200) for rows in drawn_terms(seed)]
    firsts = [torch.full((rows.shape[1],), 2.0 ** (number % 200 - 100)) for number, rows in enumerate(cases)]
    found = list(map(sums_of, cases, firsts))
    without_numba(monkeypatch)
    assert found == list(map(sums_of, cases, firsts))


def test_compiled_sums_carry_halves_of_a_unit_upwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """To even would leave the same sum in other bins, whose last bits are rounded in another way."""
    draw = np.random.default_rng(0)
    scales = np.array([2.0**80, 2.0**79, 2.0**25])
    terms = torch.from_numpy(draw.integers((1, 1, -8000), (9, 2, 8000), size=(5000, 3)) * scales).unsqueeze(-1)
    terms[::2, 1] *= -1.0
    found = exact_sums(terms)
    without_numba(monkeypatch)
    assert torch.equal(found, exact_sums(terms))


def test_rows_in_any_layout_are_added() -> None:
    terms = torch.stack(random_terms(6, 10, 3.0)).reshape(2, 3, 10)
    wanted, weights = exact_sums(terms), torch.ones(3, dtype=torch.float64)
    scattered = terms.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert torch.equal(exact_sums(scattered), wanted)
    assert torch.equal(exact_sums(scattered.clone().requires_grad_()), wanted)
    sums = ExactSum(10)
    sums.add_rows(scattered[1], weights)
    assert torch.equal(sums.reduce(SoloCommunicator()), wanted[1])


def test_weights_and_rows_that_do_not_fit_are_refused_and_not_read_beyond_their_end() -> None:
    terms, four = torch.ones(2, 3, 10, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    with pytest.raises(AssertionError, match="a weight for every term"):
        exact_sums(terms, four.expand(2, 4))
    for rows, weights in ((terms[0], four), (terms[0, :, :9], four[:3])):
        with pytest.raises(AssertionError, match="another length"):
            ExactSum(10).add_rows(rows, weights)
