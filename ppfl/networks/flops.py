"""Floating-point operations of a network, counted by torch on tensors without values."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

from ppfl.interfaces.counting import SampleFlops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ppfl.core.types import Params
    from ppfl.networks.model import Stage
    from ppfl.networks.network import Network

Result = TypeVar("Result")

_NUM_SAMPLES = 2
"""One might be treated as no batch."""


def flops_of_sample(network: Network, local_names: Iterable[str], x: torch.Tensor) -> SampleFlops | None:
    """Count the products and convolutions of each part of a network, for samples like x (S, …); None where a stage
    cannot do without values.

    What is counted is each stage's plain form; bias, pooling, ReLU and the loss are not.
    """
    params = {
        name: torch.empty(parameter.shape, device="meta", requires_grad=True)
        for stage in network.stages
        for name, parameter in stage.parameters.items()
    }
    local, cut = frozenset(local_names), network.num_shared
    like = torch.empty((_NUM_SAMPLES, *x.shape[1:]), device="meta", dtype=None if x.is_floating_point() else x.dtype)
    prefix = [params[name] for name in network.prefix_names]
    try:
        forth, features = _count(lambda: _run(network.stages[:cut], params, like))
        leaf = features.detach().requires_grad_(bool(prefix))
        on, logits = _count(lambda: _run(network.stages[cut:], params, leaf))
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None  # a module of somebody's that looks at values; it is only an estimate that is missing
    # tied weights are read on both sides, and take a product on each; nobody asks for the gradient of frozen ones
    of_w = [params[name] for name in network.suffix_names if name in local]
    of_theta = [params[name] for name in network.suffix_names if name not in local] + ([leaf] if prefix else [])
    ends = (of_w, of_theta, of_w + of_theta) if cut < len(network.stages) else ([], [], [])
    return SampleFlops(forth, _back(features, prefix), on, *(_back(logits, end) for end in ends))


def _run(stages: Iterable[Stage], params: Params, x: torch.Tensor) -> torch.Tensor:
    for stage in stages:
        x = stage.apply(params, x)
    return x


def _back(y: torch.Tensor, wanted: list[torch.Tensor]) -> int:
    if not wanted or not y.requires_grad:
        return 0
    # the graph is kept, as three ways lead back through it
    of_y = torch.empty_like(y)
    return _count(lambda: torch.autograd.grad(y, wanted, of_y, retain_graph=True, allow_unused=True))[0]


def _count(action: Callable[[], Result]) -> tuple[int, Result]:
    # imported here: it takes as long as a small run
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        result = action()
    return counter.get_total_flops() // _NUM_SAMPLES, result
