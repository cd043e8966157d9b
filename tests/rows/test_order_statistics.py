"""Order statistics equal NumPy's, with ties and without."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppfl.rows import order_statistics
from tests.aggregators import dense_reference


def blocks(number: int) -> list[np.ndarray]:
    draw = np.random.default_rng(number)
    generic = draw.standard_normal((number, 300)).astype(np.float32)
    tied = draw.integers(-3, 4, (number, 300)).astype(np.float32)
    mirrored = generic.copy()
    mirrored[1::2] = -mirrored[: len(mirrored[1::2]) * 2 : 2]  # distances to a median of 0 are equal in pairs
    constant = np.full((number, 3), 0.1, dtype=np.float32)
    return [generic, tied, mirrored, constant]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 9, 10, 50])
def test_mean_around_median(number: int, dtype: type) -> None:
    for block in blocks(number):
        x = block.astype(dtype)
        for f in {0, 1, number // 4, (number - 1) // 2}:
            if 2 * f >= number:
                continue
            got = order_statistics.mean_around_median(torch.from_numpy(x), number - f)
            want = dense_reference.meamed(x.astype(np.float64), f)
            np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-14 * np.abs(x).max())


@pytest.mark.parametrize("number", [1, 2, 9, 10, 50])
def test_median_and_trimmed_mean(number: int) -> None:
    for x in blocks(number):
        block, wide = torch.from_numpy(x), x.astype(np.float64)
        np.testing.assert_allclose(order_statistics.median(block).numpy(), dense_reference.median(wide), rtol=1e-15)
        f = (number - 1) // 4
        got = order_statistics.trimmed_mean(block, f).numpy()
        np.testing.assert_allclose(got, dense_reference.trimmed_mean(wide, f), rtol=0, atol=1e-14 * np.abs(x).max())
