"""The weighted sum over a chunk, where that is all that is needed: one pass of the body for all its clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.core.params import number_type
from ppfl.engine.mapping.chunks import Chunks, reports_of
from ppfl.engine.mapping.mapping import UplinkSum
from ppfl.engine.mapping.padding import stack_draws
from ppfl.interfaces.client_data import SampledData
from ppfl.interfaces.joint_method import JointAlgorithm
from ppfl.interfaces.objective import JointObjective

if TYPE_CHECKING:
    from ppfl.core.types import State
    from ppfl.engine.participants import Downlink
    from ppfl.engine.setup import Setup


class Joint(Chunks):
    """Σ_k v_k uplink_k over the members of a chunk, none of whose uplinks is computed by itself."""

    objective: JointObjective

    @classmethod
    def can(cls, setup: Setup) -> bool:
        """Say whether the method and the problem know such a sum, and nobody looks at single uplinks."""
        objective = setup.problem.objective
        knows = (
            isinstance(setup.algorithm, JointAlgorithm) and isinstance(objective, JointObjective) and objective.adds_up
        )
        has_samples = isinstance(setup.problem.client_data, SampledData)
        # a liar's own uplink, the norm of one, or one that is lost, cannot be found in a sum
        is_enough = setup.adds_up and not setup.looks_at_each and not setup.loses
        return knows and has_samples and is_enough and setup.clients_per_chunk > 1

    def together(self, downlink: Downlink, members: list[int], states: State, round: int) -> tuple[UplinkSum, State]:
        """See Chunks."""
        message = downlink.to_all
        if message is None:
            raise TypeError(f"{self.algorithm.name} adds clients up, so it has to send the same to all of them")
        method = self.setup.algorithm_at(round)
        assert isinstance(method, JointAlgorithm)
        joined = self.inputs.joined(members, round)
        draws = stack_draws(self.inputs.draws_of(members, joined.sizes, round))
        device = next(iter(joined.data.values())).device
        dtype = number_type(joined.data, message, *states.values())
        weights = torch.tensor([self.setup.client_weights[client] for client in members]).to(device, dtype)
        step = method.client_sum(self.objective, message, states, joined, draws, weights)
        return UplinkSum(members, step.total, reports_of(step.report, len(members))), step.states
