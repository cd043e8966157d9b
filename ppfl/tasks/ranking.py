"""Ranking: which of all items comes next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from ppfl.interfaces.task import Labels, Task, ratio
from ppfl.networks.losses import MaskedCrossEntropy

if TYPE_CHECKING:
    from collections.abc import Sequence


class Ranking(Task):
    """Cross-entropy over all items, a mean over positions; logits (S, items) with labels (S,), or (S, T, items) with
    labels (S, T), int64.

    The rank of the right item is 1 + the number of items with a larger logit, and of those with the same logit and a
    smaller id: ties are resolved by id, the same everywhere. Scores: the loss, and for each K of `at` the hit rate, the
    share of positions with rank ≤ K, and NDCG, the mean of 1/log2(1 + rank) where rank ≤ K and 0 elsewhere: the right
    item is one, so that the best order has a gain of 1.
    Source of NDCG: Järvelin & Kekäläinen, ACM TOIS 2002.
    """

    name: Literal["ranking"]
    predicts_tokens: ClassVar[bool] = True
    at: Annotated[tuple[PositiveInt, ...], Field(min_length=1, strict=False)] = (1, 5, 20)
    """K of the scores: how many items are shown."""
    padding: NonNegativeInt | None = None
    """Id that fills up samples: masked in loss and scores; null: none."""

    def loss(self) -> MaskedCrossEntropy:
        """Cross-entropy without padding."""
        return MaskedCrossEntropy(self.padding)

    def num_outputs(self, labels: Labels) -> int:
        """The number of items."""
        if labels.is_floating or len(labels.shape) > 1:
            return self.refuse(labels, "the id of an item a sample, or one a position")
        self.refuse_ids(labels, ("padding",))
        return labels.num_values

    def output_shape(self, labels: Labels) -> tuple[int, ...]:
        """(items,) or (T, items)."""
        return (*labels.shape, self.num_outputs(labels))

    def totals(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss and positions, then hits and gains at every K."""
        is_there, rank = self.loss().is_there(labels), ranks(logits, labels)
        gain = 1.0 / torch.log2(1.0 + rank.double())
        found = [self.loss().total(logits, labels).double(), is_there.sum().double()]
        for k in self.at:
            is_hit = is_there & (rank <= k)
            found += [is_hit.sum().double(), torch.where(is_hit, gain, 0.0).sum()]
        # a diverged model has no order
        whole = torch.where(logits.isfinite().all(), 0.0, math.nan)
        return torch.cat([torch.stack(found[:2]), torch.stack(found[2:]) + whole])

    def scores(self, totals: Sequence[float]) -> dict[str, float]:
        """Return loss, hit rates and NDCGs."""
        loss, number, *of_each = totals
        scores = {"loss": ratio(loss, number)}
        for k, hits, gains in zip(self.at, of_each[::2], of_each[1::2], strict=True):
            scores[f"hit_rate_at_{k}"] = ratio(hits, number)
            scores[f"ndcg_at_{k}"] = ratio(gains, number)
        return scores

    def counts(self, labels: np.ndarray) -> np.ndarray:
        """Positions that are no padding."""
        return np.array([labels.size if self.padding is None else (labels != self.padding).sum()], dtype=np.int64)


def ranks(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the rank of every label among the items, from 1, of the shape of the labels."""
    # counted, not sorted: a sort would order equal logits as it likes, another way on each device
    right = logits.gather(-1, labels[..., None])
    is_smaller = torch.arange(logits.shape[-1], device=labels.device) < labels[..., None]
    return 1 + ((logits > right) | ((logits == right) & is_smaller)).sum(dim=-1)
