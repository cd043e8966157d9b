"""The weighted sum over a chunk, where that is all that is needed: one pass of the body for all its clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.engine.mapping.mapping import Mapping, UplinkSum, member, stack_states
from ppfl.interfaces.method import JointAlgorithm
from ppfl.interfaces.objective import JointObjective

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.types import State
    from ppfl.engine.participants import Downlink
    from ppfl.engine.setup import Setup


class Joint(Mapping):
    """Σ_k v_k uplink_k over the members of a chunk, none of whose uplinks is computed by itself."""

    objective: JointObjective

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._weights = setup.client_weights

    @classmethod
    def can(cls, setup: Setup) -> bool:
        """Say whether the method and the problem know such a sum, and nobody looks at single uplinks."""
        knows = isinstance(setup.algorithm, JointAlgorithm) and isinstance(setup.problem.objective, JointObjective)
        return knows and setup.adds_up and setup.clients_per_chunk > 1

    def __call__(
        self, downlink: Downlink, chunk: range, members: Sequence[int], states: State, round: int
    ) -> tuple[list[UplinkSum], State]:
        """See Mapping."""
        message = downlink.to_all
        if message is None:
            raise TypeError(f"{self.algorithm.name} adds clients up, so it has to send the same to all of them")
        datas, _, draws = self.inputs.of_all(members, round)
        of_chunk = [member(states, row) for row in range(len(chunk))]
        rows = [client - chunk.start for client in members]
        weights = [self._weights[client] for client in members]
        of_members = [of_chunk[row] for row in rows]
        method = self.setup.algorithm_at(round)
        assert isinstance(method, JointAlgorithm)
        step = method.client_sum(self.objective, message, of_members, datas, draws, weights)
        for row, new_state in zip(rows, step.states, strict=True):
            of_chunk[row] = new_state
        return [UplinkSum(members, step.total, step.reports)], stack_states(of_chunk)
