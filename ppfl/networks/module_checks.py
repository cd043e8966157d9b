"""What is asked of torch modules before anything is trained: functions of their parameters and of each sample alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import nn

from ppfl.core.errors import UserError
from ppfl.networks.memory import shapes_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ppfl.core.types import Params
    from ppfl.networks.model import Stage, Takes

Buffers: TypeAlias = Literal["refused", "constant"]
"""What becomes of tensors that are no parameters: whether a module may have any, the same for all clients for ever."""


def refuse_modules(parts: Mapping[str, nn.Module], buffers: Buffers) -> None:
    """Raise UserError for modules that are known to be no such functions, and for buffers where they are refused."""
    for name, part in parts.items():
        for local, module in part.named_modules(prefix=name):
            _refuse_module(local or type(module).__name__, module)
        for local, value in part.named_parameters(prefix=name):
            if isinstance(value, nn.UninitializedParameter) or not value.is_floating_point():
                raise UserError(
                    f"problem.model: {local} has no shape yet or is not floating; allowed: parameters that are known "
                    "when the module is built"
                )
            if not value.requires_grad:
                raise UserError(
                    f"problem.model: {local} has requires_grad=False; allowed: True, and the split says who trains it"
                )
        found = [local for local, _ in part.named_buffers(prefix=name)]
        if found and buffers == "refused":
            raise UserError(
                f"problem.model.buffers: {found[0]} is one, which would neither be trained nor averaged; allowed: "
                "constant, for what never changes, or a module without"
            )


def _refuse_module(name: str, module: nn.Module) -> None:
    if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
        raise UserError(
            f"problem.model: {name} is a {type(module).__name__}, whose statistics mix the samples of a batch and "
            "cannot be averaged with θ; allowed: nn.GroupNorm or nn.LayerNorm"
        )
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        raise UserError(
            f"problem.model: {name} is a {type(module).__name__}, which mixes the samples of a batch; allowed: "
            "nn.GroupNorm or nn.LayerNorm"
        )
    own = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", 0.0)
    if isinstance(own, float) and own > 0 and type(module) is not nn.Dropout:
        raise UserError(
            f"problem.model: {name} is a {type(module).__name__} that drops {own:g} by itself; allowed: nn.Dropout, "
            "and a rate of 0 elsewhere"
        )


def example_of(input_shape: tuple[int, ...], takes: Takes, num_samples: int = 2) -> torch.Tensor:
    """Return samples (S, …) that differ, numbers in [0, 1] float64, or the tokens 0 and 1."""
    places = torch.arange(num_samples * math.prod(input_shape)).reshape(num_samples, *input_shape)
    return places % 2 if takes == "tokens" else (1.0 + torch.sin(places.double() + 1.0)) / 2.0


def checked(stage: Stage, params: Params, x: torch.Tensor) -> torch.Tensor:
    """Return what a stage makes of two samples.

    Raises UserError where it fails, changes between two calls, or makes of a sample what depends on the other.
    """
    with torch.no_grad():
        one, two = _call(stage, params, x), _call(stage, params, x)
        # both: a sum along the batch tells it of the second one alone, one from its end of the first
        alone = [_call(stage, params, sample) for sample in (x[:1], x[1:])]
        changed = stage.apply.changes_buffers(params, x)  # type: ignore[attr-defined]
    if one.shape != two.shape:
        raise UserError(
            f"problem.model: what {stage.name} returns changes its shape between two calls, from {tuple(one.shape)} to "
            f"{tuple(two.shape)}; allowed: a function of parameters and samples"
        )
    if changed or not torch.equal(one.nan_to_num(), two.nan_to_num()):
        raise UserError(
            f"problem.model: {stage.name} keeps hidden state: {'a call changes its buffers' if changed else ''}"
            f"{'' if changed else 'two calls with the same samples differ'}; allowed: a function of parameters and "
            "samples, random by nn.Dropout alone"
        )
    if not all(_is_near(found, by_itself) for found, by_itself in zip((one[:1], one[1:]), alone, strict=True)):
        raise UserError(
            f"problem.model: what {stage.name} makes of a sample depends on the others of its batch; allowed: each "
            "sample by itself"
        )
    return one


def _is_near(one: torch.Tensor, other: torch.Tensor) -> bool:
    # kernels round otherwise for batches of another size
    return one.shape == other.shape and torch.allclose(one.double(), other.double(), 1e-8, 1e-8, equal_nan=True)


def _call(stage: Stage, params: Params, x: torch.Tensor) -> torch.Tensor:
    try:
        found: Any = stage.apply(params, x)
    except Exception as error:
        raise UserError(
            f"problem.model: {stage.name} cannot be called with {tuple(x.shape)}: {type(error).__name__}: "
            f"{_first_line(error)}"
        ) from error
    if not isinstance(found, torch.Tensor) or found.ndim == 0 or len(found) != len(x):
        said = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
        raise UserError(
            f"problem.model: {stage.name} makes {said} of {len(x)} samples; allowed: a tensor with a row for each"
        )
    return found


def refuse_unvectorized(stages: Sequence[Stage], input_shape: tuple[int, ...], takes: Takes) -> None:
    """Raise UserError for stages of modules that cannot be vectorized over clients; other stages are known to be."""
    if not any(hasattr(stage.apply, "module") for stage in stages):
        return
    shapes = shapes_of(stages)
    params = {name: torch.full(shape, 0.1, dtype=torch.float64) for name, shape in shapes.items()}
    x = example_of(input_shape, takes)

    def forward(params: Params, x: torch.Tensor) -> torch.Tensor:
        for stage in stages:
            x = stage.apply(params, x)
        return x

    try:
        of_two = {name: torch.stack([value, value]) for name, value in params.items()}
        torch.func.vmap(forward)(of_two, torch.stack([x, x]))
        torch.func.vmap(torch.func.grad(lambda params, x: forward(params, x).sum()))(of_two, torch.stack([x, x]))
    except Exception as error:
        raise UserError(
            f"engine.clients_per_chunk: the module cannot be vectorized over clients: {_first_line(error)}; allowed: 1"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
