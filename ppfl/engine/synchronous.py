"""Rounds of one run, with scores now and then, snapshots and stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.core.snapshot import Snapshot
from ppfl.engine.checkpoint import Checkpointer, agree
from ppfl.engine.consensus import meet
from ppfl.engine.evaluate import score_rounds
from ppfl.engine.newcomers import series_of_newcomers
from ppfl.engine.run import Run, play_round
from ppfl.interfaces.aggregator import is_sum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppfl.engine.ledger import Scored
    from ppfl.engine.setup import Setup


class Synchronous(Run):
    """A run in rounds; iterate over it to run it. After that, `server` and `group` hold the final state."""

    def __init__(self, setup: Setup, checkpointer: Checkpointer | None = None) -> None:
        super().__init__(setup)
        self.checkpointer = checkpointer
        self._done = 0

    def __iter__(self) -> Iterator[Scored]:
        """Run the rounds that are left; yield scores at 0, at every `evaluate_every`-th and at the last. Collective.

        Between two rounds the checkpointer, if there is one, may have a snapshot taken, or the run stopped.
        """
        return (scored for scored in self.turns() if scored is not None)

    def turns(self) -> Iterator[Scored | None]:
        """Do the same, and yield None before every round: what follows is up to whoever goes on. Collective."""
        if self._done == 0:
            yield self._score(0)
        for round in range(self._done, self.setup.num_rounds):
            yield None
            finite = play_round(self, round)
            done = round + 1
            if done % self.setup.evaluate_every == 0 or done == self.setup.num_rounds or not finite:
                yield self._score(done, is_finite=finite)
                if self.status != "running":
                    return
            if done < self.setup.num_rounds and self._stops_after(done):
                self.ledger.status = "stopped"
                return
        self.ledger.status = "complete"

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of this run, on any number of ranks."""
        super().restore(snapshot)
        self._done = snapshot.round

    def _snapshot(self, done: int) -> Snapshot:
        """Return the state of this rank. Collective."""
        numbers = self._numbers()
        told = self.ledger.told.tensors()
        of_all = {**self._server_tensors(), **told} if self.setup.communicator.rank == 0 else {}
        return Snapshot(done, self.group.clients, numbers, of_all, self._states())

    def _stops_after(self, done: int) -> bool:
        """Do what all ranks agree on: save, stop. Collective."""
        due = agree(self.checkpointer, self.setup.communicator, done)
        if self.checkpointer is not None and (due.save or due.stop):
            with self.ledger.spent.on("checkpoints"):
                self.checkpointer.save(self._snapshot(done))
        return due.stop

    def _score(self, round: int, *, is_finite: bool = True) -> Scored:
        scores = meet(self) | score_rounds([self], round)[0] | series_of_newcomers(self)
        return self.scored(round, scores, self._more_costs(), is_finite=is_finite)

    def _more_costs(self) -> dict[str, float]:
        """Return the costs that only some runs have."""
        setup, costs = self.setup, self.ledger.costs
        virtual = {"virtual_seconds": costs.virtual_seconds} if setup.has_virtual_seconds else {}
        if setup.loses:
            virtual |= {"lost_uplinks": float(costs.lost_uplinks), "silent_rounds": float(costs.silent_rounds)}
        robust = not is_sum(setup.aggregator) or setup.byzantine is not None
        return {**virtual, **({"nonfinite_clients": float(costs.nonfinite_clients)} if robust else {})}
