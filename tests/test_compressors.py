"""Every compressor: what it owes by its contraction, that nobody hides what diverges, and bytes as they are sent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ppfl.compressors.quantizer import Quantizer
from ppfl.compressors.rand_k import RandK
from ppfl.compressors.top_k import TopK
from ppfl.core.bit_packing import pack, packed_bytes, unpack
from ppfl.core.params import num_bytes
from ppfl.interfaces.compressor import Compressor
from tests import examples

if TYPE_CHECKING:
    from ppfl.core.types import Draws

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in examples.names("compressors")},
    "top_1": ("top_k", {"share": None, "k": 1}),
    "all of top_k": ("top_k", {"share": 1.0}),
    "rand_1": ("rand_k", {"share": None, "k": 1}),
    "all of rand_k": ("rand_k", {"share": 1.0}),
    "two bits": ("quantizer", {"bits": 2}),
    "sixteen bits": ("quantizer", {"bits": 16}),
}
SIZES = (1, 2, 3, 9, 64, 257)
DTYPES = (torch.float32, torch.float64)
NUM_DRAWS = 1500
LARGEST_LOSS = 2.0
"""Of a single draw: no contraction alone, which is one on average."""


def of(case: str) -> Compressor:
    name, settings = SETTINGS[case]
    made: Compressor = examples.make("compressors", name, **settings)
    return made


def compress(compressor: Compressor, x: torch.Tensor, round: int = 0) -> torch.Tensor:
    draws = compressor.draws(seed=3, client=1, round=round, what="uplink", size=len(x))
    return compressor.decode(compressor.encode(x, draws), len(x), x.dtype)


def hard(size: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Vectors on which a compressor may be at its worst."""
    generator = torch.Generator().manual_seed(size)
    flat = torch.ones(size, dtype=dtype)
    spike = torch.full((size,), 1e-3, dtype=dtype)
    spike[-1] = -1.0
    halves = torch.full((size,), 0.5, dtype=dtype)
    halves[0] = 1.0
    return {
        "equal entries": flat,
        "signs": flat * torch.where(torch.arange(size) % 2 == 0, 1.0, -1.0).to(dtype),
        "one large": spike,
        "between levels": halves,
        "normal": torch.randn(size, generator=generator, dtype=dtype),
        "heavy tails": torch.randn(size, generator=generator, dtype=dtype) ** 5,
        "huge": flat * 1e18,
        "tiny": flat * 1e-18,
    }


def losses(compressor: Compressor, x: torch.Tensor, drawn: Draws) -> torch.Tensor:
    """Return ‖C(x) − x‖²/‖x‖² for stacked draws, (NUM_DRAWS,); for one where nothing is drawn."""
    exact = x.to(torch.float64)

    def lost(draws: Draws) -> torch.Tensor:
        decoded = compressor.decode(compressor.encode(x, draws), len(x), x.dtype).to(torch.float64)
        return ((decoded - exact) ** 2).sum() / (exact**2).sum()

    return torch.func.vmap(lost)(drawn) if drawn else lost({}).reshape(1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", SETTINGS)
def test_contracts_as_it_says(case: str, dtype: torch.dtype) -> None:
    compressor = of(case)
    for size in (1, 2, 9, 257):
        alpha = compressor.contraction(size)
        assert 0.0 < alpha <= 1.0
        drawn = [compressor.draws(3, 1, round, "uplink", size) for round in range(NUM_DRAWS)]
        stacked = {name: torch.stack([draws[name] for draws in drawn]) for name in drawn[0]}
        for name, x in hard(size, dtype).items():
            lost = losses(compressor, x, stacked)
            assert float(lost.max()) <= LARGEST_LOSS
            # empirical Bernstein bound (Maurer, Pontil, 2009): the mean of so many is farther from what is expected
            # once in 10⁶; draws are those of one seed, the same always
            level = math.log(2e6)
            error = float(lost.std(correction=1)) * math.sqrt(2 * level / len(lost)) if len(lost) > 1 else 0.0
            error += 7 * LARGEST_LOSS * level / (3 * (len(lost) - 1)) if len(lost) > 1 else 0.0
            assert float(lost.mean()) <= 1.0 - alpha + error + torch.finfo(dtype).eps, (size, name)


def test_top_k_loses_most_where_all_are_equal() -> None:
    x = torch.ones(20, dtype=torch.float64)
    top = TopK(name="top_k", k=5)
    assert float(((compress(top, x) - x) ** 2).sum() / 20) == 1.0 - top.contraction(20) == 0.75


def test_top_k_sends_positions_in_increasing_order() -> None:
    """Whatever the order of magnitudes: a message is one of its values and nothing else."""
    x = torch.tensor([3.0, 0.0, -9.0, 5.0, 7.0])
    message = TopK(name="top_k", k=4).encode(x, {})
    assert message["values"].tolist() == [3.0, -9.0, 5.0, 7.0]
    assert unpack(message["positions"], 4, 3).tolist() == [0, 2, 3, 4]


def test_a_share_is_rounded_to_the_nearest_k() -> None:
    for share, size, k in ((0.3, 9, 3), (0.3, 8, 2), (0.01, 20, 1), (1.0, 7, 7)):
        assert TopK(name="top_k", share=share).kept(size) == k


def test_rand_k_loses_on_average_what_it_says_and_takes_every_entry_as_often() -> None:
    x, rand = torch.arange(1.0, 9.0), RandK(name="rand_k", k=2)
    counts = sum((compress(rand, x, round) != 0).to(torch.float64) for round in range(4000))
    assert isinstance(counts, torch.Tensor)
    # 4000 draws of probability 1/4: standard deviation 27.4
    assert ((counts - 1000).abs() < 5 * 27.4).all()
    assert all(int((compress(rand, x, round) != 0).sum()) == 2 for round in range(50))


def test_quantizer_is_unbiased_but_for_its_factor() -> None:
    x = torch.tensor([1.0, 0.3, -0.7, 0.0], dtype=torch.float64)
    quantizer = Quantizer(name="quantizer", bits=3)
    mean = torch.stack([compress(quantizer, x, round) for round in range(4000)]).mean(0)
    # each entry within a third of a level, so that the mean has a standard deviation below 1/(6·√4000)
    assert (mean / quantizer.contraction(4) - x).abs().max() < 5 / (6 * math.sqrt(4000))
    assert compress(quantizer, x)[3] == 0.0


def test_quantizer_is_worth_more_bits() -> None:
    contractions = [Quantizer(name="quantizer", bits=bits).contraction(1000) for bits in range(2, 25)]
    assert contractions == sorted(contractions)
    assert contractions[-1] > 1 - 1e-10


@pytest.mark.parametrize("dtype", DTYPES)
def test_top_k_keeps_largest_magnitudes_and_of_equal_ones_the_lowest_index(dtype: torch.dtype) -> None:
    x = torch.tensor([1.0, -5.0, 2.0, 5.0, -2.0, 2.0], dtype=dtype)
    assert compress(TopK(name="top_k", k=1), x).tolist() == [0, -5, 0, 0, 0, 0]
    assert compress(TopK(name="top_k", k=3), x).tolist() == [0, -5, 2, 5, 0, 0]
    assert compress(TopK(name="top_k", k=4), x).tolist() == [0, -5, 2, 5, -2, 0]
    assert torch.equal(compress(TopK(name="top_k", k=6), x), x)


@pytest.mark.parametrize("case", ["none", "all of top_k", "all of rand_k"])
def test_nothing_is_lost_where_all_is_sent(case: str) -> None:
    for size in SIZES:
        for x in hard(size, torch.float32).values():
            assert torch.equal(compress(of(case), x), x)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("case", SETTINGS)
def test_nobody_hides_what_is_not_finite(case: str, value: float) -> None:
    for size in (1, 9, 257):
        for place in {0, size // 2, size - 1}:
            x = torch.ones(size)
            x[place] = value
            for round in range(5):
                assert not torch.isfinite(compress(of(case), x, round)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", SETTINGS)
def test_of_nothing_comes_nothing(case: str, dtype: torch.dtype) -> None:
    for size in SIZES:
        decoded = compress(of(case), torch.zeros(size, dtype=dtype))
        assert decoded.dtype == dtype
        assert decoded.shape == (size,)
        assert (decoded == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", SETTINGS)
def test_bits_are_the_same_one_by_one_and_vectorized(case: str, dtype: torch.dtype) -> None:
    compressor = of(case)
    for size in (1, 9, 257):
        rows = torch.stack([*hard(size, dtype).values(), torch.full((size,), math.nan, dtype=dtype)])
        drawn = [compressor.draws(3, client, 0, "uplink", size) for client in range(len(rows))]
        alone = [compressor.encode(x, draws) for x, draws in zip(rows, drawn, strict=True)]
        stacked = {name: torch.stack([draws[name] for draws in drawn]) for name in drawn[0]}
        together = torch.func.vmap(compressor.encode)(rows, stacked)
        decoded = torch.func.vmap(lambda message: compressor.decode(message, size, dtype))(together)  # noqa: B023
        for row, message in enumerate(alone):
            assert message.keys() == together.keys()
            for name, value in message.items():
                assert value.numpy().tobytes() == together[name][row].contiguous().numpy().tobytes()
            one = compressor.decode(message, size, dtype)
            assert one.numpy().tobytes() == decoded[row].contiguous().numpy().tobytes()


@pytest.mark.parametrize("case", SETTINGS)
def test_names_and_shapes_of_a_message_follow_from_the_size(case: str) -> None:
    compressor = of(case)
    for size in SIZES:
        like = compressor.message_like(size, torch.float32)
        for x in (*hard(size, torch.float32).values(), torch.full((size,), math.nan)):
            message = compressor.encode(x, compressor.draws(1, 2, 3, "uplink", size))
            assert {name: (value.shape, value.dtype) for name, value in message.items()} == {
                name: (value.shape, value.dtype) for name, value in like.items()
            }
            assert num_bytes(message) == compressor.message_bytes(size, torch.float32)
    assert compressor.message_bytes(0, torch.float32) == 0


@pytest.mark.parametrize(
    ("compressor", "size", "bytes_"),
    [
        (TopK(name="top_k", k=10), 1000, 10 * 4 + math.ceil(10 * 10 / 8)),
        (TopK(name="top_k", k=10), 1024, 10 * 4 + math.ceil(10 * 10 / 8)),
        (TopK(name="top_k", k=10), 1025, 10 * 4 + math.ceil(10 * 11 / 8)),
        (TopK(name="top_k", k=1), 1, 4),
        (RandK(name="rand_k", k=10), 1000, 10 * 4 + 8),
        (Quantizer(name="quantizer", bits=5), 1000, math.ceil(1000 * 5 / 8) + 4),
        (Quantizer(name="quantizer", bits=2), 1, 1 + 4),
    ],
)
def test_messages_have_the_bytes_that_they_need(compressor: Compressor, size: int, bytes_: int) -> None:
    assert compressor.message_bytes(size, torch.float32) == bytes_


@pytest.mark.parametrize("case", SETTINGS)
def test_draws_are_of_their_arguments_alone(case: str) -> None:
    compressor = of(case)
    drawn = compressor.draws(1, 2, 3, "uplink", 9)
    assert all(torch.equal(value, drawn[name]) for name, value in compressor.draws(1, 2, 3, "uplink", 9).items())
    for other in [(2, 2, 3, "uplink"), (1, 3, 3, "uplink"), (1, 2, 4, "uplink"), (1, 2, 3, "change")]:
        for name, value in compressor.draws(*other, 9).items():
            assert not torch.equal(value, drawn[name])


@pytest.mark.parametrize("width", [0, 1, 3, 8, 11, 24])
def test_packed_numbers_come_back(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    for number in (1, 7, 8, 9, 100):
        numbers = torch.randint(0, 1 << width, (number,), generator=generator)
        numbers[-1] = (1 << width) - 1
        packed = pack(numbers, width)
        assert len(packed) == packed_bytes(number, width)
        assert torch.equal(unpack(packed, number, width), numbers)


def test_k_is_at_most_the_size() -> None:
    TopK(name="top_k", k=20).check(20)
    TopK(name="top_k", share=1.0).check(20)
    with pytest.raises(ValueError, match=r"^k: 21 entries of vectors that have 20; at most 20$"):
        RandK(name="rand_k", k=21).check(20)
