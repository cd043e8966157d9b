"""Own tokens as a transformation of stages: parameters with a row for each token go on with a client's own rows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from ppfl.interfaces.own_tokens import own_name
from ppfl.networks.merged import merged_stage

if TYPE_CHECKING:
    from ppfl.core.types import Params
    from ppfl.networks.model import Parameter, Stage


def with_own_rows(stages: tuple[Stage, ...], token_rows: tuple[str, ...], num_own: int) -> tuple[Stage, ...]:
    """Return the stages with rows of own tokens behind those of common ones, of the same laws.

    stages: for the common tokens alone. num_own: of the client with most own tokens. What clients have may have fewer
    rows, and logits as many columns fewer.
    """
    return tuple(_with_rows(stage, token_rows, num_own) for stage in stages)


def _with_rows(stage: Stage, token_rows: tuple[str, ...], num_own: int) -> Stage:
    names = tuple(name for name in stage.reads if name in token_rows)
    if not names:
        return stage
    parameters: dict[str, Parameter] = {}
    for name, parameter in stage.parameters.items():
        parameters[name] = parameter
        if name in names:
            # an output layer that begins as the embedding does so with these rows, too
            drawn_as = own_name(parameter.drawn_as) if parameter.drawn_as in token_rows else None
            shape = (num_own, *parameter.shape[1:])
            parameters[own_name(name)] = replace(parameter, shape=shape, drawn_as=drawn_as, is_of_own_tokens=True)
    of_others = tuple(own_name(name) for name in stage.shares if name in names)
    return merged_stage(stage, parameters, of_others, partial(_joined, names=names))


def _joined(params: Params, names: tuple[str, ...]) -> Params:
    """Return common rows and own ones as one, under the names of the common ones, beside all others."""
    return {**params, **{name: torch.cat([params[name], params[own_name(name)]]) for name in names}}
