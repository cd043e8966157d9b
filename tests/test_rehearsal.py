"""Normal laws of classes: their moments, what they are fitted to, and what is drawn from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppfl.core.rng import generator
from ppfl.problems._rehearsal import Laws

NUM_FEATURES = 6


def samples(size: int, seed: int = 0) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.normal(size=(size, NUM_FEATURES)) @ draw.normal(size=(NUM_FEATURES, NUM_FEATURES)) + 3)


def covariance(laws: Laws, kept: dict[str, torch.Tensor], label: int) -> torch.Tensor:
    factor, rest = kept["factor"][label], kept["rest"][label]
    return factor.T @ factor + rest**2 * torch.eye(NUM_FEATURES, dtype=factor.dtype)


def fitted(laws: Laws, x: torch.Tensor, y: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    nothing = laws.nothing(3, NUM_FEATURES, torch.float64)
    return laws.fitted(nothing, x, torch.ones(len(x), dtype=torch.int64) if y is None else y, generator(0, "fit"))


@pytest.mark.parametrize("components", [1, 2, 6, 9])
@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_mean_trace_and_leading_directions_are_those_of_the_samples(components: int, shrinkage: float) -> None:
    x, laws = samples(40), Laws(components, shrinkage)
    kept = fitted(laws, x)
    sample = (x - x.mean(0)).T @ (x - x.mean(0)) / len(x)
    found = covariance(laws, kept, 1)
    torch.testing.assert_close(kept["mean"][1], x.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.trace(), sample.trace(), rtol=1e-12, atol=0)
    variances, directions = torch.linalg.eigh(sample)
    leading = directions[:, -components:] * variances[-components:] @ directions[:, -components:].T
    rest = (sample.trace() - (1 - shrinkage) * leading.trace()) / NUM_FEATURES
    wanted = (1 - shrinkage) * leading + rest * torch.eye(NUM_FEATURES, dtype=rest.dtype)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    if components >= NUM_FEATURES and shrinkage == 0:
        torch.testing.assert_close(found, sample, rtol=1e-10, atol=1e-10)
    assert kept["count"].tolist() == [0, 40, 0]
    assert laws.seen(kept) == [1]


def test_draws_have_the_moments_of_the_law() -> None:
    laws = Laws(2, 0.2)
    kept = fitted(laws, samples(30))
    drawn = laws.draw(kept, 1, 200_000, generator(1, "draw"))
    found = (drawn - drawn.mean(0)).T @ (drawn - drawn.mean(0)) / len(drawn)
    wanted = covariance(laws, kept, 1)
    scale = float(wanted.diagonal().max())
    torch.testing.assert_close(drawn.mean(0), kept["mean"][1], rtol=0, atol=0.02 * scale**0.5)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02 * scale)


def test_one_sample_is_its_own_law() -> None:
    laws, x = Laws(4, 0.1), samples(1)
    kept = fitted(laws, x)
    torch.testing.assert_close(laws.draw(kept, 1, 3, generator(1, "draw")), x.expand(3, -1), rtol=1e-12, atol=0)


def test_a_class_that_comes_again_is_fitted_to_both() -> None:
    laws = Laws(6, 0.0)
    before = fitted(laws, samples(5_000))
    moved = samples(5_000) + 10
    after = laws.fitted(before, moved, torch.ones(len(moved), dtype=torch.int64), generator(2, "fit"))
    assert after["count"].tolist() == [0, 10_000, 0]
    scale = float(covariance(laws, before, 1).diagonal().max())
    middle = before["mean"][1] + 5
    torch.testing.assert_close(after["mean"][1], middle, rtol=0, atol=0.05 * scale**0.5)
    # the classes that did not come are as they were, and so is what was given
    assert not before["mean"][0].any()
    assert not after["mean"][0].any()
    assert before["count"].tolist() == [0, 5_000, 0]
