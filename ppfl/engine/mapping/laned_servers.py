"""Servers of several runs as lanes of one computation, each with the bits that it has alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ppfl.core.params import num_bytes
from ppfl.engine.mapping.lanes import as_lanes, state_lanes, state_values, values_of
from ppfl.interfaces.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.types import Params, State
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.method import Algorithm

_COMPARED_ROUNDS = 3
"""Before which every server function is also tried on one run by itself: momentum has begun to count by then."""


class UnlikeRunsError(Exception):
    """Servers of runs that were taken together send different names: their method branches and does not say so."""


class LanedServers:
    """States of R servers whose methods differ in nothing but numbers that the server alone looks at."""

    def __init__(self, setups: Sequence[Setup], servers: Sequence[State]) -> None:
        self._setups = setups
        self.values = stacked(servers)
        """Groups of (R, …)."""
        # asked once: without schedules a method is the same in all rounds
        self._follow_schedules = any(setup.algorithm.schedules() for setup in setups)
        self._merged = merged([setup.algorithm for setup in setups])

    def of_run(self, run: int) -> State:
        """Return the state of one server, in memory of its own."""
        return {
            group: {name: value[run].clone() for name, value in of.items()} for group, of in self.values.items()
        }  # fmt: skip

    @property
    def uplink_like(self) -> Params:
        """Return names, shapes and number types of an uplink, on the device "meta"."""
        like = self._setups[0].algorithm.uplink_like(self._lanes)
        return {name: torch.empty(lanes.shape, dtype=lanes.dtype, device="meta") for name, lanes in like.items()}

    def are_weighed(self, round: int) -> bool:
        """Say whether coordinates of uplinks have weights of their own."""
        algorithm = self._setups[0].algorithm
        return bool(algorithm.sent_weights()) or algorithm.coordinate_weights(self._lanes, round, 0) is not None

    def messages(self, round: int, clients: range) -> tuple[Params, int]:
        """Return what every client of every run is sent, as lanes (R · C, …), and its size for one run, in bytes.

        Raises what torch raises for what has no lanes.
        """
        algorithm, lanes = self._setups[0].algorithm, self._lanes
        to_all = algorithm.downlink(lanes, round)
        if to_all is not None:
            values = {name: values_of(value).repeat_interleave(len(clients), dim=0) for name, value in to_all.items()}
        else:
            own = [algorithm.downlink(lanes, round, client) for client in clients]
            if any(one is None or one.keys() != own[0].keys() for one in own):  # type: ignore[union-attr]
                raise ValueError("messages of different names are no lanes")
            values = {
                name: torch.stack([values_of(one[name]) for one in own], dim=1).flatten(0, 1)  # type: ignore[index]
                for name in own[0]  # type: ignore[union-attr]
            }
        return {name: as_lanes(value) for name, value in values.items()}, num_bytes(values) // len(self._setups)

    def step(self, aggregates: Params, is_finite: torch.Tensor, round: int) -> None:
        """Take the step of every server; aggregates (R, …), is_finite (R,): of those that have none θ stays.

        Raises what torch raises for what has no lanes; nothing is changed then.
        """
        algorithm = self._algorithm(round)
        setup = self._setups[0]
        of_lanes = {name: as_lanes(value) for name, value in aggregates.items()}
        found = algorithm.server_of_cohort(self._lanes, of_lanes, setup.server_optimizer_at(round), round, 1.0)
        new = state_values(found)
        if round < _COMPARED_ROUNDS and not _is_equal(self._alone(0, aggregates, round), new, 0):
            raise NotImplementedError("a server function gives lanes other bits")
        if not is_finite.all():
            new = {
                group: {name: _where(is_finite, value, self.values[group][name]) for name, value in of.items()}
                for group, of in new.items()
            }
        self.values = new

    def _alone(self, run: int, aggregates: Params, round: int) -> State:
        setup = self._setups[run]
        mine = {name: value[run].clone() for name, value in aggregates.items()}
        algorithm = setup.algorithm_at(round)
        return algorithm.server_of_cohort(self.of_run(run), mine, setup.server_optimizer_at(round), round, 1.0)

    def _algorithm(self, round: int) -> Algorithm:
        return merged([setup.algorithm_at(round) for setup in self._setups]) if self._follow_schedules else self._merged

    @property
    def _lanes(self) -> State:
        return state_lanes(self.values)


def merged(algorithms: Sequence[Algorithm]) -> Algorithm:
    """Return the first method with lanes of numbers for what the server alone looks at and not all have alike.

    Schedules are looked at before. Raises NotImplementedError for settings that are no numbers.
    """
    first, changed = algorithms[0], dict[str, Any]()
    for name in first.server_settings:
        values = [getattr(algorithm, name) for algorithm in algorithms]
        if any(value != values[0] for value in values) and not _are_schedules(values):
            if not all(isinstance(value, float) for value in values):
                raise NotImplementedError(f"{name} is no number")
            changed[name] = as_lanes(torch.tensor(values, dtype=torch.float64))
    return first.model_copy(update=changed) if changed else first


def _are_schedules(values: Sequence[Any]) -> bool:
    return all(value is None or isinstance(value, Schedule) for value in values)


def stacked(servers: Sequence[State]) -> State:
    """Return the states of R servers as values (R, …). Raises UnlikeRunsError where they have other names."""
    names = [[(group, name) for group, params in server.items() for name in params] for server in servers]
    for of_server in names:
        if of_server != names[0]:
            one, first = (", ".join(name for _, name in of) for of in (of_server, names[0]))
            raise UnlikeRunsError(f"one run has {one}, another one {first}")
    return {
        group: {name: torch.stack([server[group][name] for server in servers]) for name in params}
        for group, params in servers[0].items()
    }


def _where(rows: torch.Tensor, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    return torch.where(rows.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _is_equal(alone: State, lanes: State, run: int) -> bool:
    return alone.keys() == lanes.keys() and all(
        params.keys() == lanes[group].keys()
        and all(_bits(value) == _bits(lanes[group][name][run]) for name, value in params.items())
        for group, params in alone.items()
    )


def _bits(value: torch.Tensor) -> bytes:
    return value.contiguous().numpy().tobytes()
