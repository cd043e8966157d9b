"""Weights of coordinates."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch

from ppfl.core.params import ratio, weigh
from ppfl.rows.exact_sum import ExactSum
from tests.ranks import on_ranks


def test_a_weight_of_nothing_hides_what_is_there() -> None:
    x = {"a": torch.tensor([math.nan, math.inf, 2.0, -3.0], dtype=torch.float32), "b": torch.tensor([[math.nan]])}
    weights = {"a": torch.tensor([0.0, 0.0, 1.0, 0.5], dtype=torch.float32), "b": torch.ones(1, 1)}
    found = weigh(x, weights)
    assert found["a"].dtype == torch.float64
    assert found["a"].tolist() == [0.0, 0.0, 2.0, -1.5]
    assert math.isnan(float(found["b"]))


def test_weighted_means_are_exact_in_any_order_on_any_ranks() -> None:
    """Masks are counted, mixtures added up without a loss, (M, D) spread over ranks."""
    draw = np.random.default_rng(0)
    x = torch.from_numpy(draw.standard_normal((12, 40)).astype(np.float32) * 10.0 ** draw.integers(-3, 4, (12, 40)))
    x = x.to(torch.float32)
    for weights in (draw.integers(0, 2, (12, 40)), draw.random((12, 40))):
        v = torch.from_numpy(weights.astype(np.float32))
        v[:, 0] = 0.0

        def mean(communicator, order=range(12), v=v):  # type: ignore[no-untyped-def]
            total, count = ExactSum(40), ExactSum(40)
            for m in order:
                if m % communicator.size == communicator.rank:
                    total.add(*weigh({"x": x[m]}, {"x": v[m]}).values(), weight=3.0)
                    count.add(v[m], weight=3.0)
            counts = count.reduce(communicator)
            return counts, ratio(total.reduce(communicator), counts)

        counts, wanted = on_ranks(1, mean)[0]
        exact = [sum(Fraction(float(w)) for w in v[:, j]) for j in range(40)]
        assert counts.tolist() == [float(3 * one) for one in exact]
        for j, value in enumerate(wanted.tolist()):
            top = sum(Fraction(float(w)) * Fraction(float(z)) for w, z in zip(v[:, j], x[:, j], strict=True))
            assert math.isclose(value, float(top / exact[j]) if exact[j] else 0.0, rel_tol=2**-51)
        backwards = on_ranks(1, lambda communicator, mean=mean: mean(communicator, reversed(range(12))))[0]
        for found in (backwards, *on_ranks(2, mean), *on_ranks(3, mean)):
            assert torch.equal(found[0], counts)
            assert torch.equal(found[1], wanted)
