"""Stages with drawn parameters, one after another, as tests run them."""

from __future__ import annotations

import torch

from ppfl.core.rng import generator
from ppfl.core.types import Params
from ppfl.networks.model import Stage


def draw(stages: tuple[Stage, ...], seed: int = 0) -> Params:
    """Return the initial values of all stages."""
    params: Params = {}
    for stage in stages:
        params |= stage.init(lambda name: generator(seed, f"init {name}"))
    return params


def forward(stages: tuple[Stage, ...], params: Params, x: torch.Tensor) -> torch.Tensor:
    """Return what all stages make of samples."""
    for stage in stages:
        x = stage.apply(params, x)
    return x
