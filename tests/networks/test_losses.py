"""Losses of weighted samples."""

from __future__ import annotations

import pytest
import torch

from ppfl.networks.losses import CrossEntropy, Loss, SquaredError

torch.set_num_threads(1)


@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError()], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("weight", [[1.0, 1.0, 0.0], [0.5, 0.0, 3.0], [0.0, 0.0, 0.0]], ids=str)
def test_weighted_samples_are_their_mean_and_nothing_where_all_weights_are_0(loss: Loss, weight: list[float]) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    data = {"y": torch.tensor([2, 0, 3]), "weight": torch.tensor(weight, dtype=torch.float64)}
    total = sum(weight)
    shares = torch.tensor([one / total if total else 0.0 for one in weight], dtype=torch.float64)
    wanted = (shares * loss.of_samples(logits, data["y"])).sum()
    gradient = torch.func.grad(lambda z: (shares * loss.of_samples(z, data["y"])).sum())(logits)
    torch.testing.assert_close(loss.mean(logits, data), wanted, rtol=1e-14, atol=0)
    torch.testing.assert_close(loss.shares(data, logits), shares, rtol=1e-14, atol=0)
    torch.testing.assert_close(loss.gradient(logits, data), gradient, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(torch.func.grad(lambda z: loss.mean(z, data))(logits), gradient, rtol=1e-12, atol=1e-15)
