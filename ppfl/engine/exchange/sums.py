"""The weighted mean of a cohort, by exact sums: the same bits in whatever order and on whatever ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.core.params import ratio, weigh
from ppfl.engine.mapping.mapping import Uplink, UplinkRows
from ppfl.rows.exact_sum import ExactSum, exact_sums

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ppfl.core.types import Params
    from ppfl.engine.exchange.sent import Sent
    from ppfl.engine.mapping.mapping import UplinkSum
    from ppfl.engine.setup import Setup


def weighted_mean(setup: Setup, uplinks: Sent, cohort: frozenset[int], like: Params) -> torch.Tensor:
    """Return Σ_m n_m x_m / Σ_m n_m, (D,) float64, accumulated as uplinks are produced. Collective.

    Where coordinates have weights v_m of their own it is Σ_m n_m v_m x_m / Σ_m n_m v_m, and 0 where that divides by 0.
    Products with whole numbers lose nothing, and neither does the sum of masks, which is a count. The same where the
    v_m came along (`Algorithm.sent_weights`): Σ_m n_m v_m is then a part of the sum, and nothing else is exchanged.
    What comes as the sum over a chunk of clients was added up by their method, in the precision of the run.
    """
    first = next(iter(like.values()))
    length = sum(value.numel() for value in like.values())
    total = ExactSum(length, first.device)
    counts = ExactSum(length, first.device) if uplinks.is_weighed else None
    for uplink in uplinks:
        if isinstance(uplink, UplinkRows):
            weights = [setup.client_weights[client] for client in uplink.clients]
            total.add_rows(list(uplink.params.values()), torch.tensor(weights, dtype=torch.float64))
        else:
            weight = setup.client_weights[uplink.client] if isinstance(uplink, Uplink) else 1.0
            total.add(*_terms(uplink), weight=weight)
            if counts is not None and isinstance(uplink, Uplink) and uplink.weights is not None:
                counts.add(*uplink.weights.values(), weight=weight)
    if counts is not None:
        of_all = total.reduce(setup.communicator, setup.bucket_bytes)
        return ratio(of_all, counts.reduce(setup.communicator, setup.bucket_bytes))
    of_all = total.reduce(setup.communicator, setup.bucket_bytes)
    means = of_all / _total_weight(setup, cohort)
    return _over_sent_weights(of_all, means, uplinks.weights_of, like) if uplinks.weights_of else means


def _over_sent_weights(
    of_all: torch.Tensor, means: torch.Tensor, weights_of: Mapping[str, str], like: Params
) -> torch.Tensor:
    """Return Σ_m n_m v_m x_m / Σ_m n_m v_m in the place of the means of what clients weighed, both (D,) float64."""
    lengths = [value.numel() for value in like.values()]
    sums = dict(zip(like, torch.split(of_all, lengths), strict=True))
    found = dict(zip(like, torch.split(means, lengths), strict=True))
    for name, of_weights in weights_of.items():
        # Σ n_m v_m was added up exactly with all the rest, and n_m > 0: 0 means that no client had a weight
        weights = sums[of_weights][:, None]
        found[name] = ratio(sums[name].reshape(len(weights), -1), weights).reshape(-1)
    return torch.cat(list(found.values()))


def weighted_means(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the same for R runs whose clients are all in this process and take part, (R, C, D) and (R, C), both in
    float64, to (R, D)."""
    return exact_sums(rows, weights) / weights.sum(dim=1, keepdim=True)


def _terms(uplink: Uplink | UplinkSum) -> Iterable[torch.Tensor]:
    if isinstance(uplink, Uplink) and uplink.weights is not None:
        return weigh(uplink.params, uplink.weights).values()
    return uplink.params.values()


def _total_weight(setup: Setup, cohort: frozenset[int]) -> float:
    return sum(setup.client_weights[client] for client in sorted(cohort))
