"""Servers and clients of several runs between two rounds, as lanes of one computation in this process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from ppfl.engine.exchange.misreports import rows_as_sent, told_of_row
from ppfl.engine.exchange.sums import weighted_means
from ppfl.engine.ledger import COUNTED, Costs, summable
from ppfl.engine.mapping.laned import Laned
from ppfl.engine.mapping.laned_servers import LanedServers
from ppfl.engine.mapping.lanes import state_lanes, state_values, values_of
from ppfl.engine.mapping.mapping import NOT_FOR_SEVERAL
from ppfl.engine.run import play_round

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.types import Params, State
    from ppfl.engine.run import Run
    from ppfl.interfaces.method import Report


class Batch:
    """R runs of one kind (`ppfl.engine.lockstep.kind_of`). What a round costs in calls it costs once for all of them:
    counts come to the runs by `count`, servers and states by `settle`."""

    def __init__(self, runs: Sequence[Run]) -> None:
        laned = runs[0].group.laned
        assert laned is not None
        self._runs, self._laned = runs, laned
        self._alone: list[Laned] = []
        self._costs, self._gradients = Costs(), self._no_gradients()
        self._begin()

    def play(self, round: int) -> torch.Tensor:
        """θ, w ← one round of every run; returns (R,), False where the aggregate has NaN or inf: θ stays as it was."""
        try:
            return self._side_by_side(round)
        except NOT_FOR_SEVERAL:  # what the first round has not shown; a mistake is raised by the loop as well
            return self._one_after_the_other(round)

    @property
    def lanes(self) -> tuple[State, State]:
        """Return the servers, (R, …), and the states of clients as lanes. Raises NotImplementedError without lanes."""
        if self._servers is None:
            raise NotImplementedError("servers are no lanes")
        return self._servers.values, state_lanes(self._states)

    def settle(self) -> None:
        """Bring servers, states and counts to the runs."""
        self.count()
        if self._servers is not None:
            states = self._laned.of_runs(self._states)
            for number, (run, mine) in enumerate(zip(self._runs, states, strict=True)):
                run.server = self._servers.of_run(number)
                run.group.keep_lanes(mine)

    def count(self) -> None:
        """Bring what has been spent to the runs."""
        counts = {name: values.tolist() for name, values in self._gradients.items()}
        for number, run in enumerate(self._runs):
            run.ledger.add(self._costs, {name: values[number] for name, values in counts.items()})
        self._costs, self._gradients = Costs(), self._no_gradients()

    def _begin(self) -> None:
        """Take servers and states from the runs; without `merged` servers every run goes on by itself."""
        setups = [run.setup for run in self._runs]
        self._weights = torch.tensor([setup.client_weights for setup in setups], dtype=torch.float64)
        self._servers: LanedServers | None
        try:
            self._servers = LanedServers(setups, [run.server for run in self._runs])
        except NotImplementedError:
            self._servers = None
        self._states = state_values(self._laned.gather([run.group.lanes for run in self._runs]))

    def _no_gradients(self) -> dict[str, np.ndarray]:
        return {name: np.zeros(len(self._runs)) for name in COUNTED}

    def _side_by_side(self, round: int) -> torch.Tensor:
        started, laned, servers = time.perf_counter(), self._laned, self._servers
        if servers is None or servers.are_weighed(round):
            raise NotImplementedError("servers, or the weights of coordinates, are no lanes")
        messages, downlink_bytes = servers.messages(round, laned.clients)
        uplinks, states, report = laned.step(messages, state_lanes(self._states), round)
        like = servers.uplink_like
        if uplinks.keys() != like.keys():
            raise ValueError("uplinks have names that were not announced")
        uplinks = self._as_sent(uplinks, round)
        aggregates, is_finite = self._aggregates(uplinks, like)
        servers.step(aggregates, is_finite, round)
        # from here on nothing fails, so that a round that lanes cannot do can be done again
        self._states = states
        self._count(report, uplinks)
        self._costs.downlink_bytes += downlink_bytes
        self._costs.uplink_bytes += self._runs[0].setup.algorithm.uplink_bytes(like) * laned.num_clients
        self._costs.seconds += (time.perf_counter() - started) / len(self._runs)
        return is_finite

    def _as_sent(self, uplinks: Params, round: int) -> Params:
        """Let the strategic clients of every run send what they like, (L, …)."""
        setups = [run.setup for run in self._runs]
        if not uplinks or not any(setup.misreports for setup in setups):
            return uplinks
        # run by run: each has liars of its own, and lies of its own
        clients, of_runs = self._laned.clients, []
        for number, setup in enumerate(setups):
            mine = slice(number * len(clients), (number + 1) * len(clients))
            of_runs.append(rows_as_sent(setup, clients, {name: value[mine] for name, value in uplinks.items()}, round))
        return {name: torch.cat([of_run[name] for of_run in of_runs]) for name in uplinks}

    def _aggregates(self, uplinks: Params, like: Params) -> tuple[Params, torch.Tensor]:
        """Return the mean over the clients of every run, (R, …), and whether it is finite, (R,)."""
        num_runs = len(self._runs)
        if not like:  # everything is local: the clients work, and nothing is sent
            return {}, torch.ones(num_runs, dtype=torch.bool)
        values = [value.reshape(len(value), -1) for value in uplinks.values()]
        rows = (values[0] if len(values) == 1 else torch.cat(values, dim=1)).to(torch.float64)
        means = weighted_means(rows.reshape(num_runs, self._laned.num_clients, -1), self._weights)
        pieces = torch.split(means, [value.numel() for value in like.values()], dim=1)
        aggregates = {
            name: piece.reshape(num_runs, *value.shape).to(value.dtype, copy=True)
            for (name, value), piece in zip(like.items(), pieces, strict=True)
        }
        finite = [torch.isfinite(value.reshape(num_runs, -1)).all(dim=1) for value in aggregates.values()]
        return aggregates, torch.stack(finite).all(dim=0)

    def _count(self, report: Report, uplinks: Params) -> None:
        """Count what every client tells; numbers are the same for all, since functions do not branch on values."""
        for name in COUNTED:
            value = report.get(name, 0.0)
            if isinstance(value, float | int):
                self._gradients[name] += summable(value) * self._laned.num_clients
            else:
                counts = [summable(one) for one in values_of(value).tolist()]
                self._gradients[name] += np.reshape(counts, (len(self._runs), -1)).sum(axis=1)
        if self._runs[0].setup.reports:
            reports = self._laned.reports(report)
            for number, (run, mine) in enumerate(zip(self._runs, reports, strict=True)):
                first = number * self._laned.num_clients
                mine = [{**one, **told_of_row(run.setup, uplinks, first + row)} for row, one in enumerate(mine)]
                run.ledger.told.note(self._laned.clients, mine)
                run.ledger.told.check()

    def _one_after_the_other(self, round: int) -> torch.Tensor:
        self.settle()
        self._alone = self._alone or [Laned(run.setup) for run in self._runs]
        for run, alone in zip(self._runs, self._alone, strict=True):
            run.group.mapping = alone
        finite = [play_round(run, round) for run in self._runs]
        for run in self._runs:
            run.group.mapping = self._laned
        self._begin()
        return torch.tensor(finite)
