"""LoRA as a transformation of stages: their weights W become W + (α/r) B A, A and B parameters like others.

A library such as `peft` wraps the modules of a network in place and keeps adapters as state of those modules, whereas
here parameters are arguments of pure functions, stacked over clients.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch

from ppfl.core.errors import UserError
from ppfl.interfaces.split import lora_names
from ppfl.networks.merged import merged_stage
from ppfl.networks.model import HiddenStage, LinearStage, Parameter, Stage
from ppfl.networks.products import linear, matmul

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.core.types import Params
    from ppfl.interfaces.split import LoRA


def adapted(stages: tuple[Stage, ...], lora: LoRA | None) -> tuple[Stage, ...]:
    """Return the stages with A and B beside the weights that `lora` names; they begin as the same functions, B being 0.

    A begins uniform on ±1/√in, as in the code that the paper was published with. Raises UserError for globs that match
    no layer, for a weight that is no matrix, and where the model has a parameter that is called as A or B would be.
    """
    if lora is None:
        return stages
    shapes = {name: parameter.shape for stage in stages for name, parameter in stage.parameters.items()}
    try:
        chosen = lora.weights(tuple(shapes))
    except ValueError as error:  # of a model whose names nobody knew before
        raise UserError(f"problem.split.lora.layers: {error}; allowed: globs over layers") from error
    for name in chosen:
        taken = next((factor for factor in lora_names(name) if factor in shapes), None)
        if taken is not None:
            raise UserError(
                f"problem.split.lora.layers: {name} would have a factor {taken}, which the model has itself; allowed: "
                "other layers, or another name there"
            )
        if len(shapes[name]) < 2:
            matrices = ", ".join(name for name, shape in shapes.items() if len(shape) > 1)
            raise UserError(
                f"problem.split.lora.layers: {name} has shape {shapes[name]}, and no factors; allowed: {matrices}"
            )
    return tuple(_adapted(stage, frozenset(chosen), lora) for stage in stages)


def _adapted(stage: Stage, chosen: frozenset[str], lora: LoRA) -> Stage:
    weights = tuple(name for name in stage.reads if name in chosen)
    if not weights:
        return stage
    parameters: dict[str, Parameter] = {}
    for name, parameter in stage.parameters.items():
        parameters[name] = parameter
        if name in weights:
            (out, *rest), of_a, of_b = parameter.shape, *lora_names(name)
            width = math.prod(rest)
            parameters[of_a] = Parameter((lora.rank, width), 1.0 / math.sqrt(width))
            # 0, but not both: the gradient of each has the other one as a factor
            parameters[of_b] = Parameter((out, lora.rank))
    scale = lora.alpha / lora.rank
    if isinstance(stage, LinearStage | HiddenStage):
        # no LinearStage any more: closed form and dual form would leave the factors out
        return Stage(stage.name, parameters, _of_products(stage, scale))
    of_others = tuple(factor for name in stage.shares if name in chosen for factor in lora_names(name))
    return merged_stage(stage, parameters, of_others, partial(merged, weights=weights, scale=scale))


def merged(params: Params, weights: tuple[str, ...], scale: float) -> Params:
    """Return W + scale · B A under the names of W, beside all others."""
    added: Params = {}
    for name in weights:
        a, b = (params[factor] for factor in lora_names(name))
        added[name] = params[name] + scale * matmul(b, a).reshape(params[name].shape)
    return {**params, **added}


def _of_products(stage: Stage, scale: float) -> Callable[[Params, torch.Tensor], torch.Tensor]:
    """x -> W x + scale · B (A x) + b: where W is not trained, no gradient as large as W is made."""
    weight, bias = stage.parameters
    of_a, of_b = lora_names(weight)
    relu = isinstance(stage, HiddenStage)

    def apply(params: Params, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1).contiguous()
        y = linear(x, params[weight].contiguous(), params[bias])
        y = y + scale * matmul(matmul(x, params[of_a].mT), params[of_b].mT)
        return torch.nn.functional.relu(y) if relu else y

    return apply
