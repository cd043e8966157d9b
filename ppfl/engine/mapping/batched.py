"""A chunk of clients in one call: they are one more dimension of every kernel, by `torch.func.vmap`.

Networks bring rules of their own for it (`ppfl.networks.batched`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from ppfl.core.transforms import for_all
from ppfl.engine.mapping.chunks import Chunks, reports_of
from ppfl.engine.mapping.loop import Loop
from ppfl.engine.mapping.mapping import NOT_FOR_SEVERAL, UplinkRows
from ppfl.engine.mapping.padding import stack_draws, stacked
from ppfl.interfaces.client_data import SampledData, num_samples
from ppfl.interfaces.mini_batches import UnequalClientsError

if TYPE_CHECKING:
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.engine.participants import Downlink
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.method import Report

logger = logging.getLogger(__name__)


class Batched(Chunks):
    """All members of a chunk side by side."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._loop = Loop(setup)
        self._has_warned = False

    @classmethod
    def can(cls, setup: Setup) -> bool:
        """Say whether chunks have several clients."""
        return setup.clients_per_chunk > 1

    def together(self, downlink: Downlink, members: list[int], states: State, round: int) -> tuple[UplinkRows, State]:
        """See Chunks; one after another where their function cannot be vectorized."""
        # tried anew in every chunk and round: what is remembered of others, bits would depend on, and so on ranks
        try:
            return self._side_by_side(downlink, members, states, round)
        except (UnequalClientsError, torch.OutOfMemoryError):
            raise
        except NOT_FOR_SEVERAL as error:
            # a mistake of the method is raised by the loop as well
            found = self._loop.rows(downlink, members, states, round)
            if not self._has_warned:
                logger.warning("clients are computed one after another: %s", str(error).partition("\n")[0])
            self._has_warned = True
            return found

    def _side_by_side(
        self, downlink: Downlink, members: list[int], states: State, round: int
    ) -> tuple[UplinkRows, State]:
        algorithm, inputs = self.setup.algorithm_at(round), self.inputs
        data, sizes = self._data(members, round)
        draws = stack_draws(inputs.draws_of(members, sizes, round))
        message, dim = _stack_messages(downlink, members)

        def one(message: Params, state: State, data: Data, draw: Draws) -> tuple[tuple[Params, State], Report]:
            step = algorithm.client(self.objective, message, state, data, draw)
            return (step.uplink, step.state), step.report

        (uplinks, new_states), report = for_all(one, message, states, data, draws, in_dims=(dim, 0, 0, 0))
        return UplinkRows(members, uplinks, reports_of(report, len(members))), new_states

    def _data(self, members: list[int], round: int) -> tuple[Data, list[int]]:
        """Return data (K, …), and S of each client."""
        if isinstance(self.setup.problem.client_data, SampledData):
            joined = self.inputs.joined(members, round)
            if not self.objective.takes_weights and len(set(joined.sizes)) > 1:
                raise UnequalClientsError("have different numbers of samples, which their objective does not weigh")
            return joined.stacked()[0], joined.sizes
        datas = [self.inputs.data(client, round) for client in members]
        return stacked(datas, "have data of unlike shapes"), [num_samples(data) for data in datas]


def _stack_messages(downlink: Downlink, members: list[int]) -> tuple[Params, int | None]:
    """Return what some clients are sent, and the dimension that counts them, if any."""
    if downlink.to_all is not None:
        return downlink.to_all, None
    return stacked([downlink.to(client) for client in members], "are sent messages of unlike shapes"), 0
