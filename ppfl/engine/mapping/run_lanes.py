"""Clients of several runs side by side: what each of them is given, as tensors (L, …), and what it gives back."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ppfl.core import devices
from ppfl.core.params import map_params
from ppfl.core.transforms import for_all
from ppfl.engine.mapping.chunks import reports_of
from ppfl.engine.mapping.mapping import UplinkRows
from ppfl.engine.mapping.numbers import numbers_of, with_numbers
from ppfl.engine.mapping.padding import stack_draws
from ppfl.interfaces.client_data import Joined

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.engine.group import Part
    from ppfl.engine.mapping.mapping import ClientInputs
    from ppfl.engine.mapping.numbers import Path
    from ppfl.engine.participants import Downlink
    from ppfl.engine.run import Run
    from ppfl.interfaces.method import Algorithm, Report
    from ppfl.interfaces.objective import Objective


class OfRun(NamedTuple):
    """The clients of one run that take part, of one chunk."""

    run: Run
    part: Part
    downlink: Downlink
    inputs: ClientInputs

    @property
    def source(self) -> Hashable:
        """Return the same for clients that have the same data and draw the same."""
        problem = self.run.setup.problem
        return id(problem.objective), id(problem.client_data), tuple(self.part.members)


class Lanes(NamedTuple):
    """What L clients are given."""

    messages: Params
    states: State
    data: Data
    draws: Draws
    numbers: dict[Path, torch.Tensor]
    """Settings that differ between them, float64: as precise as those that are the same for all."""

    def apply(self, algorithm: Algorithm, objective: Objective) -> tuple[tuple[Params, State], Report]:
        """Return what they send and their next states, and what they report, by one vectorized call."""

        def one(
            message: Params, state: State, data: Data, draw: Draws, numbers: dict[Path, torch.Tensor]
        ) -> tuple[tuple[Params, State], Report]:
            step = with_numbers(algorithm, numbers).client(objective, message, state, data, draw)
            return (step.uplink, step.state), step.report

        return for_all(one, *self)


class RunLanes:
    """The chunks of several runs, round by round; data that never change are kept side by side."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[list[Hashable], Data, list[int]]] = {}
        """Of each chunk whose they are, the data, and S of every client."""

    def compute(self, round: int, parts: Sequence[OfRun]) -> list[tuple[list[UplinkRows], State]]:
        """Return for each run what its clients of a chunk send, and the states of the whole chunk."""
        counts = [len(of_run.part.members) for of_run in parts]
        device = parts[0].run.setup.device
        owners = np.repeat(np.arange(len(parts)), counts)
        chunks = _joined_states([of_run.run.group.store.get(of_run.part.number) for of_run in parts])
        rows = None if all(len(of.part.members) == len(of.part.chunk) for of in parts) else _rows(parts).to(device)
        lanes = Lanes(
            _messages(parts, owners),
            chunks if rows is None else _taken(chunks, rows),
            *self._inputs(round, parts),
            differing_numbers([of_run.run.setup.algorithm_at(round) for of_run in parts], owners, device),
        )
        setup = parts[0].run.setup
        (uplinks, new), report = lanes.apply(setup.algorithm_at(round), setup.problem.objective)
        chunks = new if rows is None else _put(chunks, rows, new)
        of_uplinks, of_chunks = _cut(uplinks, counts), _cut_states(chunks, [len(of.part.chunk) for of in parts])
        reports, starts = reports_of(report, len(owners)), accumulate(counts, initial=0)
        return [
            ([UplinkRows(of_run.part.members, params, reports[start : start + count])], states)
            for of_run, params, states, start, count in zip(parts, of_uplinks, of_chunks, starts, counts, strict=False)
        ]

    def _inputs(self, round: int, parts: Sequence[OfRun]) -> tuple[Data, Draws]:
        """Return data and draws; runs of one problem share what is looked up and drawn."""
        first_of: dict[Hashable, OfRun] = {}
        for of_run in parts:
            first_of.setdefault(of_run.source, of_run)
        sources = list(first_of.values())
        data, sizes = self._data(round, parts, sources)
        draws: list[Draws] = []
        for of_run in sources:
            members = of_run.part.members
            draws += of_run.inputs.draws_of(members, sizes[len(draws) : len(draws) + len(members)], round)
        drawn, places = stack_draws(draws), _places(parts, sources)
        return data, drawn if places is None else {name: _take(value, places) for name, value in drawn.items()}

    def _data(self, round: int, parts: Sequence[OfRun], sources: Sequence[OfRun]) -> tuple[Data, list[int]]:
        """Return the data of all clients, (L, …), and S of each client of the sources."""
        number, whose = parts[0].part.number, [of_run.source for of_run in parts]
        if number in self._kept and self._kept[number][0] == whose:
            return self._kept[number][1:]
        joined = [of_run.inputs.joined(of_run.part.members, round) for of_run in sources]
        together = Joined(
            {name: torch.cat([one.data[name] for one in joined]) for name in joined[0].data},
            [size for one in joined for size in one.sizes],
        )
        data, places = together.stacked()[0], _places(parts, sources)
        if places is not None:
            data = {name: _take(value, places) for name, value in data.items()}
        setups = [of_run.run.setup for of_run in parts]
        if all(setup.problem.client_data.fixed_data and setup.cohort.is_full for setup in setups):
            self._kept[number] = (whose, data, together.sizes)
        return data, together.sizes


def differing_numbers(
    methods: Sequence[Algorithm], owners: np.ndarray, device: torch.device
) -> dict[Path, torch.Tensor]:
    """Return the numbers that are not the same in all runs, (L,) each; owners: which run a client is of, (L,)."""
    numbers = [numbers_of(method, leave_out=method.server_settings) for method in methods]
    paths = [path for path, number in numbers[0].items() if any(of_run[path] != number for of_run in numbers)]
    if not paths:
        return {}
    table = np.array([[of_run[path] for of_run in numbers] for path in paths])[:, owners]
    values = devices.to_device(torch.from_numpy(table), device)
    return dict(zip(paths, values.unbind(0), strict=True))


def _messages(parts: Sequence[OfRun], owners: np.ndarray) -> Params:
    to_all = [of_run.downlink.to_all for of_run in parts]
    first = to_all[0]
    if first is None:
        own = [of_run.downlink.to(client) for of_run in parts for client in of_run.part.members]
        return {name: torch.stack([message[name] for message in own]) for name in own[0]}
    places = devices.to_device(torch.from_numpy(owners), parts[0].run.setup.device)
    return {
        name: _take(torch.stack([message[name] for message in to_all if message is not None]), places) for name in first
    }


def _rows(parts: Sequence[OfRun]) -> torch.Tensor:
    """Return where the states of those that take part are among those of all chunks, (L,)."""
    starts = accumulate((len(of_run.part.chunk) for of_run in parts), initial=0)
    rows = [
        start + np.array(of_run.part.members) - of_run.part.chunk.start
        for start, of_run in zip(starts, parts, strict=False)
    ]
    return torch.from_numpy(np.concatenate(rows))


def _places(parts: Sequence[OfRun], sources: Sequence[OfRun]) -> torch.Tensor | None:
    """Return for every client its place among those of the sources, (L,); None where each run is one."""
    if len(sources) == len(parts):
        return None
    starts = accumulate((len(of_run.part.members) for of_run in sources), initial=0)
    first_of = dict(zip((of_run.source for of_run in sources), starts, strict=False))
    places = [first_of[of_run.source] + np.arange(len(of_run.part.members)) for of_run in parts]
    return torch.from_numpy(np.concatenate(places))


def _take(value: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return value.index_select(0, devices.to_device(places, value.device))


def _joined_states(states: Sequence[State]) -> State:
    return {
        group: {name: torch.cat([state[group][name] for state in states]) for name in params}
        for group, params in states[0].items()
    }


def _taken(states: State, rows: torch.Tensor) -> State:
    return {group: map_params(lambda x: x.index_select(0, rows), params) for group, params in states.items()}


def _put(states: State, rows: torch.Tensor, new: State) -> State:
    return {
        group: map_params(lambda old, values: old.index_copy(0, rows, values), params, new[group])
        for group, params in states.items()
    }


def _cut(values: Params, counts: Sequence[int]) -> list[Params]:
    cut: dict[str, Any] = {name: torch.split(value, list(counts)) for name, value in values.items()}
    return [{name: pieces[number] for name, pieces in cut.items()} for number in range(len(counts))]


def _cut_states(states: State, counts: Sequence[int]) -> list[State]:
    cut = {group: _cut(params, counts) for group, params in states.items()}
    return [{group: pieces[number] for group, pieces in cut.items()} for number in range(len(counts))]
