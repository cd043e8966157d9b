"""Whether clients of several runs can be computed side by side: the first round of one client of each, tried both ways.

Not every method can be vectorized, and not every number that a setting holds may become a tensor.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ppfl.core.params import all_finite, kinds, largest_entry, map_params, number_type
from ppfl.engine.mapping.mapping import member, stack_states
from ppfl.engine.mapping.padding import stack_draws
from ppfl.engine.mapping.run_lanes import Lanes, differing_numbers
from ppfl.engine.participants import Downlink
from ppfl.interfaces.client_data import Joined, join, num_samples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.engine.run import Run
    from ppfl.interfaces.method import ClientStep, Report

_TOLERANCE = 1e-10
"""In float64, of the largest entry: more than sums in another order make, less than any other formula."""


def why_apart(runs: Sequence[Run]) -> str:
    """Return why runs that have not begun are not to be computed side by side; "" where they can be.

    Tried in float64, where rounding is no excuse, and in the precision of the runs, in which names, shapes and number
    types have to be right and values close.
    """
    firsts = [_First(run) for run in runs]
    try:
        if not all(_is_same(first, other) for first in firsts for other in firsts if first.shares_draws(other)):
            return "what clients draw depends on a number that differs"
        for dtype in dict.fromkeys((firsts[0].dtype, torch.float64)):
            alone = [first.alone(dtype) for first in firsts]
            if not _agree(alone, firsts, _together(firsts, dtype), dtype):
                return f"in {dtype} they find something else side by side"
    except Exception as error:  # noqa: BLE001, whatever a method of its own raises: alone it shows whether it is a mistake
        return str(error).partition("\n")[0] or type(error).__name__
    return ""


class _First:
    """One client of a run in the first round."""

    def __init__(self, run: Run) -> None:
        setup = run.setup
        self.objective, self.method, self.setup = setup.problem.objective, setup.algorithm_at(0), setup
        client, inputs = min(setup.cohort(0)), run.group.mapping.inputs
        self.client = client
        self.message = Downlink(setup.algorithm, run.server, 0).to(client)
        self.state = run.group.state(client)
        self.data = inputs.data(client, 0)
        self.draws = inputs.draws(client, 0, num_samples(self.data))
        self.dtype = number_type(self.data, self.message, *self.state.values())

    def shares_draws(self, other: _First) -> bool:
        return self.client == other.client and self.objective is other.objective

    def cast(self, dtype: torch.dtype) -> tuple[Params, State, Data, Draws]:
        state = {group: _cast(params, dtype) for group, params in self.state.items()}
        return _cast(self.message, dtype), state, _cast(self.data, dtype), _cast(self.draws, dtype)

    def alone(self, dtype: torch.dtype) -> ClientStep:
        return self.method.client(self.objective, *self.cast(dtype))


def _is_same(one: _First, other: _First) -> bool:
    return one.draws.keys() == other.draws.keys() and all(
        torch.equal(value, other.draws[name]) for name, value in one.draws.items()
    )


def _together(firsts: Sequence[_First], dtype: torch.dtype) -> tuple[tuple[Params, State], Report]:
    messages, states, datas, draws = zip(*(first.cast(dtype) for first in firsts), strict=True)
    methods = [first.method for first in firsts]
    lanes = Lanes(
        stack_states([{"": message} for message in messages])[""],
        stack_states(states),
        Joined(join(datas), [num_samples(data) for data in datas]).stacked()[0],
        stack_draws(draws),
        differing_numbers(methods, np.arange(len(methods)), firsts[0].setup.device),
    )
    return lanes.apply(methods[0], firsts[0].objective)


def _agree(
    alone: Sequence[ClientStep],
    firsts: Sequence[_First],
    together: tuple[tuple[Params, State], Report],
    dtype: torch.dtype,
) -> bool:
    (uplinks, states), report = together
    tolerance = _TOLERANCE if dtype == torch.float64 else math.sqrt(torch.finfo(dtype).eps)
    for row, (step, first) in enumerate(zip(alone, firsts, strict=True)):
        if not all(map(all_finite, (step.uplink, *step.state.values()))):
            continue  # a run that diverges at once shows nothing
        found = {"uplink": {name: value[row] for name, value in uplinks.items()}, **member(states, row)}
        if not _are_close(found, {"uplink": step.uplink, **step.state}, first.message, tolerance):
            return False
        told = {name: value[row] if isinstance(value, torch.Tensor) else value for name, value in report.items()}
        if told.keys() != step.report.keys() or not all(
            math.isclose(float(told[name]), float(value), rel_tol=tolerance) for name, value in step.report.items()
        ):
            return False
    return True


def _are_close(found: State, wanted: State, message: Params, tolerance: float) -> bool:
    if kinds(found) != kinds(wanted):
        return False
    # measured by the largest of all: what is sent may be the difference of what was sent and what came of it, and a
    # gradient that is 0 but for rounding has no scale of its own
    tensors = [*message.values(), *(value for params in wanted.values() for value in params.values())]
    scale = max((largest_entry(value) for value in tensors), default=0.0)
    return all(
        largest_entry(found[group][name] - value) <= tolerance * scale
        for group, params in wanted.items()
        for name, value in params.items()
    )


def _cast(values: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, Any]:
    return map_params(lambda value: value.to(dtype) if value.is_floating_point() else value, dict(values))
