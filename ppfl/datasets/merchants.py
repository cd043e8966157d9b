"""Baskets of synthetic merchants, whose products have names of a common grammar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from ppfl.core.plugins import refusal
from ppfl.core.rng import generator
from ppfl.interfaces.dataset import ClientSamples, Dataset, FederatedSamples, Parts, Samples, deal, refuse_parts

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.interfaces.placement import Placement

_WORDS_OF_A_NAME = 3
"""Category, brand, size."""
_CHOICES = 3
"""Categories that usually follow one, and brands and sizes that it comes in."""
_FOLLOWS = 0.8
"""Probability that the next category is one of those; else it is any."""
_BEGIN = 0


class Merchants(Dataset):
    """Baskets of `products` names of three words each, category, brand and size, as ids of words: x are those before
    each, beginning with 0, and y the words themselves, (S, 3 products).

    Categories follow each other as a Markov chain; brand and size are among three of the category. A merchant with a
    permuted chain has π(a) → π(b) where the common one has a → b. Own words take the place of common ones: of O_m
    categories and brands, O_m uniform on 0, …, 2 · own · (categories + brands), for each merchant new words that no
    other one has. Everything is drawn by (seed of the data, merchant), so that more merchants change none.
    Source: the experiment proposed with glocal language models of merchants; sizes and probabilities are our choice
    (docs/systems.md).
    """

    name: Literal["merchants"]
    example: ClassVar[Example] = {"clients": 3, "categories": 4, "brands": 5, "sizes": 2, "products": 2, "baskets": 10}
    clients: PositiveInt
    """M, merchants."""
    categories: PositiveInt = 30
    """Words for categories."""
    brands: PositiveInt = 40
    """Words for brands."""
    sizes: PositiveInt = 6
    """Words for sizes."""
    products: PositiveInt = 5
    """Products of a basket."""
    baskets: PositiveInt = 60
    """Baskets of a merchant, S over its three parts."""
    chain: Literal["common", "permuted"] = "common"
    """Whether all merchants have one chain, or each its own permutation of it."""
    own: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Mean part of the words for categories and brands that are a merchant's own."""
    test: float = Field(default=0.3, ge=0, lt=1)
    """Fraction of each merchant's baskets to test on, rounded down."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of them kept for choosing hyperparameters, rounded down."""

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Merchants:
        refuse_parts(self._parts)
        if self.normalize is not None:
            raise refusal("normalize", "nothing, since samples are tokens")
        return self

    def load(self, placement: Placement, clients_per_chunk: int | None) -> FederatedSamples:
        """Generate the baskets of this rank's merchants."""
        parts, seed = self._parts, placement.data_seed
        grammar, ends = self._grammar(seed), np.cumsum(self.num_own_words(seed))

        def of_client(client: int) -> ClientSamples:
            names = self._names(grammar, client, ends, seed)
            x = np.concatenate([np.full_like(names[:, :1], _BEGIN), names[:, :-1]], axis=1)
            return parts.cut(Samples(x, names), seed, client)

        length = _WORDS_OF_A_NAME * self.products
        return deal(
            placement, clients_per_chunk, [f"merchant{client}" for client in range(self.clients)],
            [parts.num_samples(self.baskets)] * self.clients, of_client, (length,), 1.0,
            vocabulary_size=1 + self._num_common + int(ends[-1]), label_shape=(length,), special_ids={"begin": _BEGIN},
        )  # fmt: skip

    def num_own_words(self, seed: int) -> np.ndarray:
        """Return O_m of all merchants, (M,) int64, for a seed of the data."""
        most = int(2 * self.own * (self.categories + self.brands))
        # one stream, whose first numbers are the same for more merchants
        return (generator(seed, "merchants own").random(self.clients) * (most + 1)).astype(np.int64)

    @property
    def _parts(self) -> Parts:
        return Parts(self.test, self.validation)

    @property
    def _num_common(self) -> int:
        return self.categories + self.brands + self.sizes

    def _grammar(self, seed: int) -> _Grammar:
        draw = generator(seed, "merchants grammar")
        shape = (self.categories, _CHOICES)
        return _Grammar(*(draw.integers(number, size=shape) for number in (self.categories, self.brands, self.sizes)))

    def _names(self, grammar: _Grammar, client: int, ends: np.ndarray, seed: int) -> np.ndarray:
        """Return the words of a merchant's baskets, (S, T) int64."""
        draw, replaceable = generator(seed, "merchants", client=client), self.categories + self.brands
        order = draw.permutation(self.categories)
        words = 1 + np.arange(self._num_common)
        start, end = (0, *ends.tolist())[client : client + 2]
        words[draw.permutation(replaceable)[: end - start]] = 1 + self._num_common + np.arange(start, end)
        if self.chain == "common":
            order = np.arange(self.categories)
        place, found = np.argsort(order), []
        category = draw.integers(self.categories, size=self.baskets)
        for _ in range(self.products):
            brand, size = (self._one_of(table, category, draw) for table in (grammar.brands, grammar.sizes))
            found += [category, self.categories + brand, replaceable + size]
            usual = order[self._one_of(grammar.following, place[category], draw)]
            follows = draw.random(self.baskets) < _FOLLOWS
            category = np.where(follows, usual, draw.integers(self.categories, size=self.baskets))
        names: np.ndarray = words[np.stack(found, axis=1)]
        return names

    def _one_of(self, table: np.ndarray, category: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        chosen: np.ndarray = table[category, draw.integers(_CHOICES, size=self.baskets)]
        return chosen


class _Grammar(NamedTuple):
    """What goes with a category, (categories, choices) each."""

    following: np.ndarray
    brands: np.ndarray
    sizes: np.ndarray
