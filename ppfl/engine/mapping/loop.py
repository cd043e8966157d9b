"""One client after the other, each as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.engine.mapping.mapping import Mapping, Uplink, UplinkRows, member, stack_states
from ppfl.engine.mapping.padding import stacked
from ppfl.interfaces.client_data import num_samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.types import Params, State
    from ppfl.engine.participants import Downlink
    from ppfl.engine.setup import Setup


class Loop(Mapping):
    """Chunks of one client; serves every run."""

    @classmethod
    def can(cls, setup: Setup) -> bool:
        """Say whether chunks have one client."""
        return setup.clients_per_chunk == 1

    def __call__(
        self, downlink: Downlink, chunk: range, members: Sequence[int], states: State, round: int
    ) -> tuple[list[Uplink], State]:
        """See Mapping."""
        uplink, state = self.one(chunk[0], member(states, 0), downlink.to(chunk[0]), round, round)
        return [uplink], stack_states([state])

    def one(self, client: int, state: State, message: Params, round: int, step: int) -> tuple[Uplink, State]:
        """Return the uplink and the new state of one client, with data and draws of a round or of a job.

        step: of the server, whose step sizes it takes; in rounds the round.
        """
        data = self.inputs.data(client, round)
        size = num_samples(data)
        draws = self.inputs.draws(client, round, size)
        done = self.setup.algorithm_at(step).client(self.objective, message, state, data, draws)
        return Uplink(client, done.uplink, done.report), done.state

    def rows(self, downlink: Downlink, members: Sequence[int], states: State, round: int) -> tuple[UplinkRows, State]:
        """Return what some clients send and their new states, (K, …), for mappings that cannot do it at once.

        Raises UnequalClientsError where they send unlike shapes.
        """
        steps = [
            self.one(client, member(states, row), downlink.to(client), round, round)
            for row, client in enumerate(members)
        ]
        params = stacked([uplink.params for uplink, _ in steps], "send unlike shapes")
        reports = [uplink.report for uplink, _ in steps]
        return UplinkRows(members, params, reports), stack_states([state for _, state in steps])
