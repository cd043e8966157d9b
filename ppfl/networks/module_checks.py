"""What is asked of torch modules before anything is trained: functions of their parameters and of each sample alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import nn

from ppfl.core.errors import UserError
from ppfl.networks.dropout import keyed
from ppfl.networks.gradients import pullback
from ppfl.networks.memory import shapes_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ppfl.core.types import Params
    from ppfl.networks.model import Stage, Takes
    from ppfl.networks.modules import OfModule

Buffers: TypeAlias = Literal["refused", "shared"]
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
                "shared, for what is the same for all clients and never changes, or a module without"
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

    Raises UserError where it fails, changes between two calls or while training, writes into parameters, makes of a
    sample what depends on others, or has no gradient.
    """
    module: OfModule = stage.apply  # type: ignore[assignment]
    # before the first call: what it leaves behind would stay the same from then on, and hold values of our example
    held = module.attributes()
    with torch.no_grad():
        _look_for_writing(stage, params, x)
        one, two = _call(stage, params, x), _call(stage, params, x)
        changed = "a call changes its buffers" if module.changes_buffers(params, x) else ""
    if one.shape != two.shape:
        raise UserError(
            f"problem.model: what {stage.name} returns changes its shape between two calls, from {tuple(one.shape)} to "
            f"{tuple(two.shape)}; allowed: a function of parameters and samples"
        )
    if not changed and not torch.equal(one.nan_to_num(), two.nan_to_num()):
        changed = "two calls with the same samples differ"
    if not changed and (attribute := _differs(held, module.attributes())) is not None:
        changed = f"a call changes its {attribute}"
    if changed:
        raise UserError(
            f"problem.model: {stage.name} keeps hidden state: {changed}; allowed: a function of parameters and "
            "samples, random by nn.Dropout alone"
        )
    if one.is_floating_point() and one.dtype != torch.float64:
        raise UserError(
            f"problem.model: {stage.name} makes {one.dtype} of float64; allowed: the number type of its parameters"
        )
    with torch.no_grad():
        _refuse_other_training(stage, params, x, one)
        _refuse_mixing(stage, params, x, one)
    _refuse_without_gradient(stage, params, x)
    return one


def _look_for_writing(stage: Stage, params: Params, x: torch.Tensor) -> None:
    """Have a stage given copies of samples where it writes into them, and refuse one that does into parameters."""
    given, of_params = x.clone(), {name: value.clone() for name, value in params.items()}
    _call(stage, of_params, given)
    # by torch's counts of writing: values may stay the same by chance
    stage.apply.writes = given._version > 0  # type: ignore[attr-defined]
    written = next((name for name, value in of_params.items() if value._version > 0), None)
    if written is not None:
        raise UserError(
            f"problem.model: {stage.name} writes into its parameter {written} when it is called; allowed: a function "
            "of parameters and samples"
        )


def _differs(before: Mapping[str, tuple[Any, int]], after: Mapping[str, tuple[Any, int]]) -> str | None:
    """Return what is another one, or of another size."""
    for name in {**before, **after}:
        (one, *size), (other, *other_size) = before.get(name, (None, -1)), after.get(name, (None, -1))
        is_same = one is other or (isinstance(one, str | int | float) and one == other)
        if not is_same or size != other_size:
            return name
    return None


def _refuse_other_training(stage: Stage, params: Params, x: torch.Tensor, one: torch.Tensor) -> None:
    # modules are always called in scoring mode, so that whoever asks for `training` would never be told
    found, drops = stage.apply.in_training(params, x)  # type: ignore[attr-defined]
    if drops or not isinstance(found, torch.Tensor) or found.shape != one.shape or not _close(found, one):
        what = "drops" if drops else "does something else where `training` is true"
        raise UserError(
            f"problem.model: {stage.name} {what} by itself; allowed: nn.Dropout, and the same in training as in scoring"
        )


def _refuse_mixing(stage: Stage, params: Params, x: torch.Tensor, one: torch.Tensor) -> None:
    """Raise UserError where a sample is another one in a batch of another size; nothing dropped, and dropped."""
    # two sizes, in another order: a module may be right for the one that it was tried with
    five = torch.tensor([0, 1, 1, 0, 1])
    for keys in (None, torch.arange(2)) if stage.is_random else (None,):
        with keyed(keys):
            of_two = one if keys is None else _call(stage, params, x)
        for chosen in (five[:1], five):
            with keyed(None if keys is None else keys[chosen]):
                found = _call(stage, params, x[chosen])
            if found.shape[1:] != of_two.shape[1:] or not _close(found, of_two[chosen]):
                raise UserError(
                    f"problem.model: what {stage.name} makes of a sample depends on the others of its batch; allowed: "
                    "each sample by itself"
                )


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one.double(), other.double(), 1e-8, 1e-8, equal_nan=True)


def _refuse_without_gradient(stage: Stage, params: Params, x: torch.Tensor) -> None:
    def apply(variables: Params) -> torch.Tensor:
        return stage.apply({**params, **variables}, variables.get("samples", x))

    # as one client alone is trained, on a plain graph, after the call that had the parameters in the module
    try:
        value, pull = pullback(apply, {**params, **({"samples": x} if x.is_floating_point() else {})})
        if value.is_floating_point():
            pull(torch.ones_like(value))
    except Exception as error:
        raise UserError(
            f"problem.model: {stage.name} cannot be differentiated: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _call(stage: Stage, params: Params, x: torch.Tensor) -> torch.Tensor:
    found: Any = stage.apply(params, x)
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
            "engine.clients_per_chunk: the module cannot be vectorized over clients: "
            f"{_first_line(error.__cause__ or error)}; allowed: 1"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
