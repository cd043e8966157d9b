"""Mixtures of adaptors as a transformation of stages: their weights W become W + Σ_c π_c U_c V_c, biases likewise.

Adaptors are linear, so that B(x) + Σ_c π_c A_c(x) is the layer with merged weights: one product with samples instead of
1 + 2C, and every form that convolutions have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ppfl.core.errors import UserError
from ppfl.interfaces.mixture import ROUTER, Mixture
from ppfl.networks.merged import merged_stage
from ppfl.networks.model import Parameter
from ppfl.networks.products import matmul

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ppfl.core.types import Params
    from ppfl.interfaces.mixture import Adaptor, MixtureOfAdaptors
    from ppfl.networks.model import Stage

_FLOOR = 0.01
"""Least weight of an adaptor in a layer, so that one that is hardly chosen goes on learning; as in the paper's code."""
_WHERE = "problem.split.floral"


def mixture_of(stages: Iterable[Stage], floral: MixtureOfAdaptors | None) -> Mixture | None:
    """Return the adaptors of stages that `mixed` has made; None where there are none."""
    if floral is None or not floral.adaptors:
        return None
    names = tuple(name for stage in stages for name in stage.parameters)
    return Mixture(floral.adaptors, floral.temperature, floral.chosen(names))


def mixed(stages: tuple[Stage, ...], floral: MixtureOfAdaptors | None) -> tuple[Stage, ...]:
    """Return the stages with adaptors beside the weights that `floral` names; they begin as the same functions, U being
    0, and r = 0 weighs all adaptors alike.

    V begins uniform on ±√(6/fan_in). Raises UserError for globs that match no layer, for a weight that is neither a
    matrix nor a kernel, for a rank beyond it, and where the model has a parameter that is called as ours are.
    """
    if floral is None:
        return stages
    shapes = {name: parameter.shape for stage in stages for name, parameter in stage.parameters.items()}
    try:
        adaptors = {adaptor.weight: adaptor for adaptor in floral.chosen(tuple(shapes))}
    except ValueError as error:  # of a model whose names nobody knew before
        raise UserError(f"{_WHERE}.layers: {error}; allowed: globs over layers") from error
    laws: dict[str, Parameter] = {}
    for adaptor in adaptors.values():
        laws |= _laws(adaptor, shapes, floral)
        # a router for all of them, kept by the stage of the first
        laws.setdefault(ROUTER, Parameter((floral.adaptors,)))
    if taken := [name for name in laws if name in shapes]:
        raise UserError(f"{_WHERE}.layers: the model has a {taken[0]} itself; allowed: other layers, or another name")
    return tuple(_mixed(stage, adaptors, laws, floral.temperature) for stage in stages)


def _laws(adaptor: Adaptor, shapes: dict[str, tuple[int, ...]], floral: MixtureOfAdaptors) -> dict[str, Parameter]:
    shape, number = shapes[adaptor.weight], floral.adaptors
    if len(shape) not in {2, 4} or shape[2:3] != shape[3:4]:
        raise UserError(
            f"{_WHERE}.layers: {adaptor.weight} has shape {shape}, and no adaptor; allowed: layers with matrices "
            "(out, in) or kernels (out, in, k, k)"
        )
    out, width, side = shape[0], shape[1], shape[2:3]
    rank = floral.rank_of(out, width)
    most = min(out, width) * math.prod(side)
    if rank > most:
        raise UserError(
            f"{_WHERE}.rank: is {rank}, and {adaptor.weight} of shape {shape} has no more than {most}; allowed: at "
            f"most {most}"
        )
    laws = {
        adaptor.output_factor: Parameter((number, out, rank, *side)),
        adaptor.input_factor: Parameter(
            (number, rank, width, *side), half_width=math.sqrt(6.0 / (width * math.prod(side)))
        ),
    }
    return laws if adaptor.bias is None else laws | {adaptor.added_bias: Parameter((number, out))}


def _mixed(stage: Stage, adaptors: dict[str, Adaptor], laws: dict[str, Parameter], temperature: float) -> Stage:
    own = tuple(adaptors[name] for name in stage.reads if name in adaptors)
    if not own:
        return stage
    first = next(iter(adaptors))
    parameters: dict[str, Parameter] = {}
    for name, parameter in stage.parameters.items():
        parameters[name] = parameter
        if name in adaptors:
            parameters |= {added: laws[added] for added in adaptors[name].names}
            parameters |= {ROUTER: laws[ROUTER]} if name == first else {}
    read = (*(name for adaptor in own for name in adaptor.names), ROUTER)
    shares = tuple(name for name in read if name not in parameters)
    return merged_stage(stage, parameters, shares, Merge(own, temperature))


@dataclass(frozen=True)
class Merge:
    """(params) -> params with W + Σ_c π_c U_c V_c under the names of W, and biases likewise."""

    adaptors: tuple[Adaptor, ...]
    temperature: float

    def __call__(self, params: Params) -> Params:
        """Return them beside all others."""
        # not normalized again, as in the paper's code; below the floor a weight has no gradient
        mixture = torch.clamp(torch.softmax(params[ROUTER] / self.temperature, dim=0), min=_FLOOR)
        added: Params = {}
        for adaptor in self.adaptors:
            u, v = params[adaptor.output_factor], params[adaptor.input_factor]
            weight = params[adaptor.weight]
            added[adaptor.weight] = weight + _product(u, v, mixture)
            if adaptor.bias is not None:
                bias = matmul(mixture[None], params[adaptor.added_bias])[0]
                added[adaptor.bias] = params[adaptor.bias] + bias
        return {**params, **added}


def _product(u: torch.Tensor, v: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
    """Return Σ_c π_c U_c V_c, (out, in); of kernels the one (out, in, k, k) of both convolutions one after another."""
    # Σ_c π_c U_c V_c is one product, of the π_c U_c side by side with the V_c one below the other
    scaled = u * mixture.reshape(-1, *[1] * (u.ndim - 1))
    if u.ndim == 3:
        of_output = scaled.permute(1, 0, 2).reshape(u.shape[1], -1)
        return matmul(of_output, v.reshape(-1, v.shape[2]))
    (_, out, _, size), width = u.shape, v.shape[2]
    of_output = scaled.permute(1, 3, 0, 2).reshape(out * size, -1)
    kernel = matmul(of_output, v.reshape(-1, width * size))
    return kernel.reshape(out, size, width, size).permute(0, 2, 3, 1).contiguous()
