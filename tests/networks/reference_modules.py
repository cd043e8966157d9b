"""The networks of `ppfl.models` once more, as torch modules whose parameters have the same names."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, fan_in: int, width: int, stride: int, groups: int, adapters: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.GroupNorm(groups, width)
        for number in (1, 2) if adapters else ():
            parts = {"norm": nn.GroupNorm(groups, width), "conv": nn.Conv2d(width, width, 1, bias=False)}
            self.add_module(f"adapter{number}", nn.Sequential(OrderedDict(parts)))
        if fan_in != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(fan_in, width, 1, stride, bias=False), nn.GroupNorm(groups, width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(x)
        if hasattr(self, "adapter1"):
            y = y + self.adapter1(y)
        y = self.conv2(self.bn1(y).relu())
        if hasattr(self, "adapter2"):
            y = y + self.adapter2(y)
        return (self.bn2(y) + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


def resnet18(channels: int, classes: int, *, stem: str = "3x3", adapters: bool = False, width: int = 64) -> nn.Module:
    is_large = stem == "7x7"
    first = (
        nn.Conv2d(channels, width, 7, 2, 3, bias=False) if is_large else nn.Conv2d(channels, width, 3, 1, 1, bias=False)
    )
    modules: dict[str, nn.Module] = {"conv1": first, "bn1": nn.GroupNorm(width // 8, width), "relu": nn.ReLU()}
    if is_large:
        modules["maxpool"] = nn.MaxPool2d(3, 2, 1)
    fan_in = width
    for layer, groups in enumerate((width // 8, width // 8, width // 4, width // 2)):
        out = width * 2**layer
        blocks = Block(fan_in, out, 2 if layer else 1, groups, adapters), Block(out, out, 1, groups, adapters)
        modules[f"layer{layer + 1}"] = nn.Sequential(*blocks)
        fan_in = out
    return nn.Sequential(
        OrderedDict(
            {**modules, "avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(fan_in, classes)}
        )
    )


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.add_module(name, nn.Linear(width, width, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        ]
        seen = nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class Bottleneck(nn.Module):
    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.up(self.down(x).relu())


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, adapters: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.adapter1 = Bottleneck(width, adapters) if adapters else nn.Identity()
        self.norm1 = nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.adapter2 = Bottleneck(width, adapters) if adapters else nn.Identity()
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x + self.adapter1(self.self_attn(x)))
        return self.norm2(x + self.adapter2(self.linear2(self.linear1(x).relu())))


class Transformer(nn.Module):
    def __init__(
        self,
        words: int,
        *,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        positions: int,
        adapters: int,
        tied: bool,
    ) -> None:
        super().__init__()
        self.word_embedding = nn.Embedding(words, width)
        self.positional_embedding = nn.Embedding(positions, width)
        self.layers = nn.ModuleList([Layer(width, heads, feed_forward, adapters) for _ in range(layers)])
        if not tied:
            self.decoder = nn.Linear(width, words, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = self.positional_embedding(torch.arange(x.shape[1]))
        y = (math.sqrt(places.shape[1]) * self.word_embedding(x) + places).relu()
        for layer in self.layers:
            y = layer(y)
        return self.decoder(y) if hasattr(self, "decoder") else y @ self.word_embedding.weight.T


class Recurrent(nn.Module):
    def __init__(self, words: int, *, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, embedding)
        self.lstm1 = nn.LSTM(embedding, hidden, batch_first=True)
        self.lstm2 = nn.LSTM(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, words)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm2(self.lstm1(self.embedding(x))[0])[0])


def emnist_cnn(channels: tuple[int, int], hidden: int, size: int, classes: int) -> nn.Module:
    first, second = channels
    flat = second * ((size - 4) // 2) ** 2
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, first, 3), relu1=nn.ReLU(), conv2=nn.Conv2d(first, second, 3), relu2=nn.ReLU(),
            pool=nn.MaxPool2d(2), flatten=nn.Flatten(), fc1=nn.Linear(flat, hidden), relu3=nn.ReLU(),
            fc2=nn.Linear(hidden, classes),
        )
    )  # fmt: skip


def cnn32(channels: tuple[int, int], hidden: tuple[int, int], size: int, classes: int) -> nn.Module:
    first, second = channels
    flat = second * (((size - 4) // 2 - 4) // 2) ** 2
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, first, 5), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2), conv2=nn.Conv2d(first, second, 5),
            relu2=nn.ReLU(), pool2=nn.MaxPool2d(2), flatten=nn.Flatten(), fc1=nn.Linear(flat, hidden[0]),
            relu3=nn.ReLU(), fc2=nn.Linear(*hidden), relu4=nn.ReLU(), fc3=nn.Linear(hidden[1], classes),
        )
    )  # fmt: skip
