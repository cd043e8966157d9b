"""The data set `merchants`: what its baskets are, and that nothing of one merchant depends on others or on ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.rng import generator
from ppfl.datasets.merchants import Merchants
from ppfl.interfaces.dataset import FederatedSamples
from ppfl.interfaces.placement import Placement
from tests.ranks import on_ranks

SIZES = {"categories": 7, "brands": 9, "sizes": 4}


def load(communicator: Any = None, seed: int = 1, **settings: Any) -> FederatedSamples:
    section = {"name": "merchants", "clients": 4, "products": 3, "baskets": 20, **SIZES, **settings}
    here = Placement(communicator or SoloCommunicator(), seed, 0, torch.float32, torch.device("cpu"))
    return Merchants.model_validate(section).load(here, 1)


def words(samples: FederatedSamples, client: int) -> np.ndarray:
    return np.concatenate([part.y for part in samples.samples[client]])


def test_names_are_of_the_grammar() -> None:
    """Category, brand, size, in turn; what is seen are the words before."""
    samples = load(test=0.25, validation=0.25)
    for client in range(4):
        train, validation, test = samples.samples[client]
        assert [len(part) for part in (train, validation, test)] == [10, 5, 5]
        for part in (train, validation, test):
            np.testing.assert_array_equal(part.x[:, 1:], part.y[:, :-1])
            assert (part.x[:, 0] == 0).all()
            categories, brands, sizes = (part.y[:, word::3] for word in range(3))
            assert ((categories >= 1) & (categories <= 7)).all()
            assert ((brands >= 8) & (brands <= 16)).all()
            assert ((sizes >= 17) & (sizes <= 20)).all()
    assert samples.vocabulary_size == 21


@pytest.mark.parametrize("chain", ["common", "permuted"])
def test_categories_follow_a_chain(chain: str) -> None:
    """Three successors of a category have 0.8 beside what they share with all; common, or of each merchant."""
    samples = load(clients=2, baskets=4000, chain=chain)
    matrices = []
    for client in range(2):
        matrices.append(_chain(words(samples, client)[:, ::3] - 1))
        usual = np.sort(matrices[-1], axis=1)[:, -3:].sum(axis=1)
        np.testing.assert_allclose(usual, 0.8 + 0.2 * 3 / 7, atol=0.2 * 3 / 7)
    gap = np.abs(matrices[0] - matrices[1]).max()
    assert (gap < 0.1) == (chain == "common")


def test_a_permuted_chain_is_the_common_one_under_other_names() -> None:
    """π(a) → π(b) where the common chain has a → b."""
    common, permuted = (load(clients=2, baskets=4000, chain=chain) for chain in ("common", "permuted"))
    for client in range(2):
        order = generator(1, "merchants", client=client).permutation(7)
        first, other = (words(samples, client)[:, ::3] - 1 for samples in (common, permuted))
        one, same = _chain(first), _chain(np.argsort(order)[other])
        np.testing.assert_allclose(same, one, atol=0.1)


def _chain(categories: np.ndarray) -> np.ndarray:
    counts = np.zeros((7, 7))
    np.add.at(counts, (categories[:, :-1].ravel(), categories[:, 1:].ravel()), 1)
    found: np.ndarray = counts / counts.sum(axis=1, keepdims=True)
    return found


def test_own_words_are_of_one_merchant() -> None:
    samples = load(clients=6, own=0.4, baskets=200)
    own = [{word for word in words(samples, client).ravel() if word > 20} for client in range(6)]
    assert len({len(of) for of in own}) > 2
    assert sum(map(len, own)) == len(set().union(*own))
    assert max(map(len, own)) <= 0.8 * (7 + 9)
    assert samples.vocabulary_size is not None
    assert max(set().union(*own)) < samples.vocabulary_size


@pytest.mark.parametrize("own", [0.0, 0.3])
def test_more_merchants_change_none(own: float) -> None:
    few, many = load(own=own), load(own=own, clients=50)
    for client in range(4):
        np.testing.assert_array_equal(words(few, client), words(many, client))
    assert not np.array_equal(words(few, 0), words(load(own=own, seed=2), 0))


def test_any_rank_has_the_same() -> None:
    whole = load(own=0.3)
    for part in on_ranks(3, lambda c: load(c, own=0.3)):
        assert part.vocabulary_size == whole.vocabulary_size
        for client in part.clients:
            np.testing.assert_array_equal(words(part, client), words(whole, client))
