"""What mappings share that compute on several clients of a chunk at once: who goes together, and states by rows."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch

from ppfl.core.params import map_params
from ppfl.engine.mapping.mapping import Mapping, UplinkRows
from ppfl.engine.mapping.padding import shapes
from ppfl.interfaces.client_data import num_samples
from ppfl.interfaces.mini_batches import UnequalClientsError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from ppfl.core.types import State
    from ppfl.engine.mapping.mapping import AnyUplink, UplinkSum
    from ppfl.engine.participants import Downlink
    from ppfl.interfaces.method import Report


class Chunks(Mapping):
    """The members of a chunk at once, whatever their numbers of samples; where that cannot be, those that are alike."""

    def __call__(
        self, downlink: Downlink, chunk: range, members: Sequence[int], states: State, round: int
    ) -> tuple[Sequence[AnyUplink], State]:
        """See Mapping."""
        groups = [list(members)]
        try:
            found = [self.together(downlink, groups[0], self._of(states, chunk, groups[0]), round)]
        except UnequalClientsError:
            groups = self._alike(downlink, members, round)
            found = [self.together(downlink, group, self._of(states, chunk, group), round) for group in groups]
        for group, (_, new_states) in zip(groups, found, strict=True):
            states = self._with(states, chunk, group, new_states)
        return _in_order([uplink for uplink, _ in found]), states

    @abstractmethod
    def together(
        self, downlink: Downlink, members: list[int], states: State, round: int
    ) -> tuple[UplinkSum | UplinkRows, State]:
        """Return what some clients send and their new states, (K, …); states are theirs.

        Raises UnequalClientsError where clients of unlike shapes cannot be computed together.
        """

    def _alike(self, downlink: Downlink, members: Sequence[int], round: int) -> list[list[int]]:
        """Return the members in groups of those whose data, draws and messages have the same shapes."""
        groups: dict[Hashable, list[int]] = {}
        for client in members:
            data = self.inputs.data(client, round)
            draws = self.inputs.draws(client, round, num_samples(data))
            seen = (data, draws) if downlink.to_all is not None else (data, draws, downlink.to(client))
            kind = tuple(shapes(tensors) for tensors in seen)
            groups.setdefault(kind, []).append(client)
        return list(groups.values())

    def _of(self, states: State, chunk: range, members: list[int]) -> State:
        if len(members) == len(chunk):
            return states
        rows = self._rows(chunk, members)
        return {group: map_params(lambda x: x.index_select(0, rows), params) for group, params in states.items()}

    def _with(self, states: State, chunk: range, members: list[int], new: State) -> State:
        if len(members) == len(chunk):
            return new
        rows = self._rows(chunk, members)
        return {
            group: map_params(lambda old, values: old.index_copy(0, rows, values), params, new[group])
            for group, params in states.items()
        }

    def _rows(self, chunk: range, members: list[int]) -> torch.Tensor:
        return torch.tensor([client - chunk.start for client in members]).to(self.setup.device)


def _in_order(uplinks: Sequence[UplinkSum | UplinkRows]) -> Sequence[AnyUplink]:
    """Return what groups of clients sent in the order of clients, in which rules have their rows."""
    rows = [uplink for uplink in uplinks if isinstance(uplink, UplinkRows)]
    if len(rows) < 2:
        return uplinks
    return sorted((one for group in rows for one in group.one_by_one()), key=lambda one: one.client)


def reports_of(report: Report, num_clients: int) -> list[Report]:
    """Return a report for each of K clients, of Python's numbers; one for all where it has no tensors."""
    told = {name: value.tolist() for name, value in report.items() if isinstance(value, torch.Tensor)}
    numbers = {name: value for name, value in report.items() if name not in told}
    if not told:
        return [numbers] * num_clients
    return [{**numbers, **{name: values[row] for name, values in told.items()}} for row in range(num_clients)]
