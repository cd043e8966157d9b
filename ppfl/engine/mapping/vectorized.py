"""A chunk of clients in one call, by `torch.func.vmap`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.core.errors import UserError
from ppfl.core.params import map_params
from ppfl.engine.mapping.mapping import Mapping, Uplink, member, stack_states
from ppfl.interfaces.client_data import num_samples

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
        uplinks, new_states, told = side_by_side(message, states, _stack_data(datas), _stack_draws(draws, chunk))
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


def _stack_data(datas: list[Data]) -> Data:
    """Stack the data of K clients; samples are padded to the longest, with weight 0 for rows that are not there."""
    shapes = {tuple((key, value.shape) for key, value in data.items()) for data in datas}
    if len(shapes) == 1:
        return {key: torch.stack([data[key] for data in datas]) for key in datas[0]}
    longest = max(num_samples(data) for data in datas)
    stacked = {key: torch.stack([_pad(data[key], longest) for data in datas]) for key in datas[0]}
    like = next(value for value in datas[0].values() if value.is_floating_point())
    ones = [_pad(like.new_ones(num_samples(data)), longest) for data in datas]
    return {**stacked, "weight": torch.stack(ones)}


def _pad(value: torch.Tensor, length: int) -> torch.Tensor:
    return torch.cat([value, value.new_zeros(length - len(value), *value.shape[1:])])


def _stack_draws(draws: list[Draws], chunk: range) -> Draws:
    for key, value in draws[0].items():
        if any(draw[key].shape != value.shape for draw in draws):
            raise UserError(
                f"engine.clients_per_chunk: clients {chunk.start}–{chunk.stop - 1} draw mini-batches of different "
                f"numbers of samples and cannot be computed together; use 1, or a batch_size that all clients reach"
            )
    return {key: torch.stack([draw[key] for draw in draws]) for key in draws[0]}
