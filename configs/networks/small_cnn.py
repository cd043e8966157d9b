"""A small CNN of three blocks, with adapters where they are wanted: the model of mnist20.yaml."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import nn


class Block(nn.Module):
    """relu(norm(y + adapter(y))) with y = conv3×3(x), stride 2; the adapter, a 1×1 convolution, begins as 0."""

    def __init__(self, in_channels: int, channels: int, has_adapter: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.adapter = nn.Conv2d(channels, channels, 1, bias=False) if has_adapter else None
        if self.adapter is not None:
            nn.init.zeros_(self.adapter.weight)
        self.norm = nn.GroupNorm(4, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, height, width) → (B, channels, ⌈height/2⌉, ⌈width/2⌉)."""
        y = self.conv(x)
        if self.adapter is not None:
            y = y + self.adapter(y)
        return torch.relu(self.norm(y))


def build(
    channels: list[int], input_shape: tuple[int, int, int], num_classes: int, adapters: bool = False
) -> nn.Sequential:
    """Return block1, block2, … with these channels, and the output layer `head` behind them."""
    depth, *sides = input_shape
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (before, after) in enumerate(zip([depth, *channels], channels, strict=False), 1):
        stages[f"block{number}"] = Block(before, after, adapters)
    stages["flatten"] = nn.Flatten()
    num_features = channels[-1] * math.prod(math.ceil(side / 2 ** len(channels)) for side in sides)
    stages["head"] = nn.Linear(num_features, num_classes)
    return nn.Sequential(stages)
