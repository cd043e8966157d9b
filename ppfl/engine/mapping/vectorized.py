"""A chunk of clients in one call, by `torch.func.vmap`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.core.errors import UserError
from ppfl.core.params import map_params
from ppfl.engine.mapping.mapping import Mapping, Uplink, member, stack_states
from ppfl.engine.mapping.padding import stack_data, stack_draws
from ppfl.interfaces.mini_batches import UnequalClientsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.engine.participants import Downlink
    from ppfl.engine.setup import Setup


class Vectorized(Mapping):
    """All K clients of a chunk side by side, those that do not take part as well; chunks of one call the function."""

    @classmethod
    def can(cls, setup: Setup) -> bool:
        """Say whether chunks have several clients."""
        return setup.clients_per_chunk > 1

    def __call__(
        self, downlink: Downlink, chunk: range, members: Sequence[int], states: State, round: int
    ) -> tuple[list[Uplink], State]:
        """See Mapping."""
        datas, _, draws = self.inputs.of_all(chunk, round)
        algorithm = self.setup.algorithm_at(round)
        if len(chunk) == 1:
            step = algorithm.client(self.objective, downlink.to(chunk[0]), member(states, 0), datas[0], draws[0])
            return [Uplink(chunk[0], step.uplink, step.report)], stack_states([step.state])
        numbers: dict[str, float] = {}  # that clients told: the same for all, since functions do not branch on values

        def one(message: Params, state: State, data: Data, draw: Draws) -> tuple[Params, State, Params]:
            step = algorithm.client(self.objective, message, state, data, draw)
            tensors = {name: value for name, value in step.report.items() if isinstance(value, torch.Tensor)}
            numbers.update({name: value for name, value in step.report.items() if not isinstance(value, torch.Tensor)})
            return step.uplink, step.state, tensors

        message, dim = _stack_messages(downlink, chunk)
        side_by_side = torch.func.vmap(one, in_dims=(dim, 0, 0, 0))
        try:
            uplinks, new_states, told = side_by_side(message, states, stack_data(datas), stack_draws(draws))
        except UnequalClientsError as error:
            raise UserError(
                f"engine.clients_per_chunk: clients {chunk.start}–{chunk.stop - 1} {error} and cannot be computed "
                f"together; use 1"
            ) from None
        sampled = torch.tensor([client in members for client in chunk])
        kept = {
            name: map_params(lambda new, old: _where_first(sampled, new, old), group, states[name])
            for name, group in new_states.items()
        }
        rows = [chunk.index(client) for client in members]
        return [Uplink(chunk[row], _row(uplinks, row), {**numbers, **_row(told, row)}) for row in rows], kept


def _row(params: Params, row: int) -> Params:
    return {name: value[row] for name, value in params.items()}


def _where_first(mask: torch.Tensor, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    return torch.where(mask.to(new.device).reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _stack_messages(downlink: Downlink, chunk: range) -> tuple[Params, int | None]:
    """Return what the clients of a chunk are sent, and the dimension that counts them, if any."""
    if downlink.to_all is not None:
        return downlink.to_all, None
    messages = [downlink.to(client) for client in chunk]
    if len({tuple((name, value.shape) for name, value in message.items()) for message in messages}) > 1:
        raise UserError(
            f"engine.clients_per_chunk: clients {chunk.start}–{chunk.stop - 1} are sent messages of different shapes "
            f"and cannot be computed together; use 1"
        )
    return {name: torch.stack([message[name] for message in messages]) for name in messages[0]}, 0
