"""Layers of torch as stages use them."""

from __future__ import annotations

import pytest
import torch

from ppfl.networks.layers import group_norm


@pytest.mark.parametrize("wanted", [("weight",), ("bias",), ("weight", "bias"), ("x", "weight", "bias")])
@pytest.mark.parametrize("is_functional", [False, True])
def test_group_norm_of_images_whose_gradient_nobody_wants(wanted: tuple[str, ...], is_functional: bool) -> None:
    """torch's own kernel ends the process for channels last, when weight or bias alone are differentiated in."""
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "x": torch.randn(3, 8, 6, 6, generator=draw, dtype=torch.float64).contiguous(memory_format=torch.channels_last),
        "weight": torch.randn(8, generator=draw, dtype=torch.float64),
        "bias": torch.randn(8, generator=draw, dtype=torch.float64),
    }

    def loss(chosen: dict[str, torch.Tensor]) -> torch.Tensor:
        given = {**inputs, **chosen}
        return group_norm(given["x"], 2, given["weight"], given["bias"]).pow(3).sum()

    chosen = {name: inputs[name] for name in wanted}
    if is_functional:
        found = torch.func.grad(loss)(chosen)
    else:
        leaves = {name: value.clone().requires_grad_() for name, value in chosen.items()}
        found = dict(zip(wanted, torch.autograd.grad(loss(leaves), list(leaves.values())), strict=True))
    step = 1e-6
    for name, value in chosen.items():
        direction = torch.randn(value.shape, generator=draw, dtype=torch.float64)
        up, down = (loss({**chosen, name: value + sign * step * direction}) for sign in (1, -1))
        slope = float((up - down) / (2 * step))
        assert float((found[name] * direction).sum()) == pytest.approx(slope, rel=1e-6)
