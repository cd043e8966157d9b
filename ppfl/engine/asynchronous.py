"""What both asynchronous engines have in common: who is sent θ next, and what the server does with an arrival."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right, insort
from typing import TYPE_CHECKING, Any

import torch

from ppfl.core.communicator import LocalParameterError
from ppfl.core.params import add_scaled, all_finite, flatten, map_params, num_bytes
from ppfl.core.snapshot import NO_COLUMNS, Snapshot
from ppfl.engine.arrivals import Arrival, ArrivalLog
from ppfl.engine.checkpoint import Checkpointer, name_params, read_params
from ppfl.engine.evaluate import score_rounds
from ppfl.engine.exchange.buffer import Buffer
from ppfl.engine.exchange.misreports import one_as_sent
from ppfl.engine.newcomers import series_of_newcomers
from ppfl.engine.participants import Downlink
from ppfl.engine.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppfl.core.types import Params, State
    from ppfl.engine.ledger import Scored
    from ppfl.engine.mapping.mapping import Uplink
    from ppfl.engine.participants import CohortSampler
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.method import Report


class Dispatcher:
    """Who is sent θ: J clients at the start, then one for each that arrives.

    With all clients in flight it is the one that arrived. Otherwise draw number k is uniform over the clients that are
    idle; with J = 1 these are the draws of synchronous rounds with one client.
    """

    def __init__(self, sampler: CohortSampler) -> None:
        self._sampler = sampler
        self.starters = sorted(sampler(0))
        self._idle = sorted(set(sampler.eligible) - set(self.starters))
        self._num_draws = 1

    @property
    def numbers(self) -> dict[str, Any]:
        """What a snapshot needs to know."""
        return {"idle": self._idle, "num_draws": self._num_draws}

    def restore(self, numbers: dict[str, Any]) -> None:
        """Go on from the numbers of a snapshot."""
        self._idle, self._num_draws = list(numbers["idle"]), numbers["num_draws"]

    def next(self, arrived: int) -> int:
        """Return who takes the place of a client that arrived."""
        if self._sampler.is_full:
            return arrived
        insort(self._idle, arrived)
        position = self._sampler.position(len(self._idle), self._num_draws)
        self._num_draws += 1
        return self._idle.pop(position)


class AsynchronousEngine(Run, ABC):
    """θ ← θ − γ s(d) g as uplinks g arrive, and θ goes back to one client; iterate over it to run it.

    Source: Mishchenko et al., TMLR 2025, Asynchronous FFGG. `rounds` counts arrivals. An uplink that was computed at
    version v and arrives at version v', both counted in server updates, has the delay d = v' − v. Scores show w_m as
    it is after those jobs of client m that have arrived. After the run `server` and `group` hold the final state.
    """

    def __init__(self, setup: Setup, checkpointer: Checkpointer | None = None) -> None:
        assert setup.asynchronous is not None
        super().__init__(setup)
        self.checkpointer = checkpointer
        self.rules = setup.asynchronous
        self.arrivals = ArrivalLog()
        self.version = 0
        self.num_dropped = 0
        self._dispatcher = Dispatcher(setup.cohort)
        self._like = setup.algorithm.uplink_like(self.server)
        self._like_of_all = setup.algorithm.downlink(self.server, 0)
        """Names and shapes of what all clients are sent; None when each is sent something of its own."""
        first = self._dispatcher.starters[0]
        if setup.algorithm.sent_weights() or setup.algorithm.coordinate_weights(self.server, 0, first) is not None:
            raise TypeError(f"{setup.algorithm.name} weighs coordinates of a cohort, and has to say `needs_rounds`")
        self._total: Params | None = None
        self._rows = None if setup.adds_up or not self._like else Buffer(setup, self._like)
        """Uplinks one by one, for a rule or attackers that look at each of them; None where their sum is enough."""
        self._num_buffered = 0
        self._largest_delay = 0
        self._done = 0
        stops = setup.communicator.allgather_rows(torch.tensor([setup.problem.client_data.clients.stop]))
        self._stops: list[int] = stops.tolist()

    @abstractmethod
    def __iter__(self) -> Iterator[Scored]:
        """Run all arrivals that are left; yield the scores at 0, every `evaluate_every`-th and the last. Collective.

        Between two arrivals the checkpointer may have a snapshot taken, or the run stopped.
        """

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of this run, on any number of ranks."""
        super().restore(snapshot)
        numbers, tensors, device = snapshot.numbers, snapshot.tensors, self.setup.device
        self._done = snapshot.round
        self.version, self.num_dropped = numbers["version"], numbers["num_dropped"]
        self._num_buffered, self._largest_delay = numbers["num_buffered"], numbers["largest_delay"]
        self._dispatcher.restore(numbers["dispatcher"])
        summed = self._num_buffered and self._rows is None
        self._total = read_params(tensors, "total", device) if summed else None
        if self._rows is not None:
            self._rows.restore(numbers["rows"], snapshot.columns)
        self.arrivals.restore(read_params(tensors, "arrivals", torch.device("cpu")))

    def _snapshot(self, done: int, numbers: dict[str, Any], messages: Params) -> Snapshot:
        """Return the state of this rank: `numbers` of the engine, messages to clients at work, the rest. Collective."""
        communicator = self.setup.communicator
        common = {
            **self._numbers(),
            "version": self.version,
            "num_dropped": self.num_dropped,
            "num_buffered": self._num_buffered,
            "largest_delay": self._largest_delay,
            "dispatcher": self._dispatcher.numbers,
        }
        columns = NO_COLUMNS
        if self._rows is not None:
            common["rows"], columns = self._rows.numbers, self._rows.columns
        tensors, told = dict(messages), self.ledger.told.tensors()
        if communicator.rank == 0:
            tensors |= told
            log = {name: torch.from_numpy(values) for name, values in self.arrivals.arrays().items()}
            tensors |= self._server_tensors() | name_params("total", self._total or {})
            tensors |= name_params("arrivals", log)
        return Snapshot(done, self.group.clients, common | numbers, tensors, self._states(), columns)

    def _message(self, client: int) -> Params:
        """Return what a client is sent now."""
        return Downlink(self.setup.algorithm, self.server, self.version).to(client)

    def _like_of_message(self, client: int, version: int) -> Params:
        """Return names and shapes of what a client was sent, which do not depend on the server's state."""
        if self._like_of_all is not None:
            return self._like_of_all
        return Downlink(self.setup.algorithm, self.server, version).to(client)

    def _count(self, client: int, version: int, report: Report, uplink: Params) -> None:
        """Count what one job has cost; called on one rank."""
        self.ledger.count_clients(report)
        downlink_bytes = num_bytes(self._like_of_message(client, version))
        self.ledger.count_bytes(downlink_bytes, self.setup.algorithm.uplink_bytes(uplink))

    def _name_of_message(self, client: int, version: int) -> str:
        """Return what the message of a job is called in a snapshot: jobs may share what was sent to all."""
        return f"message_to/{client}" if self._like_of_all is None else f"message/{version}"

    def _rank_of(self, client: int) -> int:
        return bisect_right(self._stops, client)

    def _compute(self, client: int, message: Params, job: int, version: int) -> tuple[Uplink, State]:
        """Return (uplink, new state) of one job of a client of this rank, its θ of a version; the group stays as it
        is.

        Raises LocalParameterError when the uplink has other names than announced, or memory of the client's state.
        """
        state = self.group.state(client)
        uplink, new_state = self.group.compute(client, state, message, job, version)
        private = {_address(value) for of in (state, new_state) for group in of.values() for value in group.values()}
        shares_memory = any(_address(value) in private for value in uplink.params.values() if value.numel())
        if shares_memory or uplink.params.keys() != self._like.keys():
            raise LocalParameterError(
                f"the uplink of {self.setup.algorithm.name} has {', '.join(uplink.params)}; only "
                f"{', '.join(self._like)}, in memory of their own, may leave a client: local parameters stay on the "
                f"rank of their client"
            )
        return one_as_sent(self.setup, self.server, uplink, job), new_state

    def _keep(self, client: int, state: State, report: Report) -> None:
        """Let a client of this rank be as it is after a job that has arrived."""
        self.group.keep(client, state)
        self.ledger.told.note([client], [report])

    def _apply(self, client: int, version: int, uplink: Params, seconds: float, turnaround_seconds: float) -> bool:
        """Let the server take one uplink. Returns False when θ cannot go on for NaN or inf; it then stays as it was."""
        delay = self.version - version
        # before anything is dropped or replaced: a replay has to meet the same arrivals, in the same order
        self.arrivals.append(Arrival(client, version, delay, seconds, turnaround_seconds))
        # rules leave such vectors out, as in rounds; half the price of torch.isfinite
        if self._rows is None and not all(math.isfinite(float(value.sum())) for value in uplink.values()):
            return False
        if self.rules.max_staleness is not None and delay > self.rules.max_staleness:
            self.num_dropped += 1
            return True
        self._take(client, uplink, delay)
        return self._num_buffered < self.rules.buffer or self._step()

    def _take(self, client: int, uplink: Params, delay: int) -> None:
        """Put an uplink into the buffer."""
        if self._rows is not None:
            self._rows.add(client, self._rows.columns_of(flatten(uplink), self.setup.communicator.rank), delay)
            # anew each time, since the oldest uplink may be the one whose place was taken
            self._num_buffered, self._largest_delay = len(self._rows.delays), max(self._rows.delays.values())
        else:
            self._total = uplink if self._total is None else add_scaled(self._total, uplink, 1.0)
            self._largest_delay = max(self._largest_delay, delay)
            self._num_buffered += 1

    def _combined(self) -> Params:
        """Return the mean of the buffer, or what attackers and the rule make of it."""
        if self._rows is not None:
            return self._rows.aggregate(self.version)
        assert self._total is not None
        count = self._num_buffered
        return self._total if count == 1 else map_params(lambda value: value / count, self._total)

    def _step(self) -> bool:
        """θ ← θ − γ s(d) · mean of the buffer. Returns False when a rule finds nothing finite; θ then stays."""
        setup, combined = self.setup, self._combined()
        is_finite = self._rows is None or all_finite(combined)
        if is_finite:
            factor = self.rules.step_factor(setup.cohort.size, self._largest_delay)
            optimizer = setup.server_optimizer_at(self.version)
            if factor != 1.0:
                optimizer = optimizer.model_copy(update={"lr": optimizer.lr * factor})
            self.server = setup.algorithm_at(self.version).server(self.server, combined, optimizer, self.version)
            self.version += 1
        self._total, self._num_buffered, self._largest_delay = None, 0, 0
        return is_finite

    def _is_due(self, num_arrivals: int, finite: bool) -> bool:
        last = num_arrivals == self.setup.num_rounds
        return num_arrivals % self.setup.evaluate_every == 0 or last or not finite

    def _score(self, num_arrivals: int, finite: bool = True) -> Scored:
        """Score the state and set the status. Collective."""
        metrics = score_rounds([self], num_arrivals)[0] | series_of_newcomers(self)
        scored = self.scored(num_arrivals, metrics, self._more_costs(), is_finite=finite)
        if num_arrivals == self.setup.num_rounds and self.status == "running":
            self.ledger.status = "complete"
        return scored

    def _more_costs(self) -> dict[str, float]:
        """Return the costs that only asynchronous runs have."""
        costs = {"server_updates": float(self.version), "dropped_arrivals": float(self.num_dropped)}
        if self._rows is not None:
            costs["nonfinite_clients"] = float(self._rows.num_nonfinite)
            costs["replaced_arrivals"] = float(self._rows.num_replaced)
        return costs


def _address(value: torch.Tensor) -> int:
    return value.untyped_storage().data_ptr()
