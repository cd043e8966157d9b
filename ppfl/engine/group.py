"""The clients of one rank: their states, stacked by chunks, and the mapping of one client's function over a chunk.

The unit of work is a chunk of K consecutive clients. A kernel sees one chunk only, so that nothing depends on which
other clients a rank happens to have. K = 1 calls the function as it is. K > 1 asks for the weighted sum over the chunk
where that is all that is needed, and the method and the problem know a way; elsewhere it vectorizes the function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ppfl.core.errors import UserError
from ppfl.core.params import kinds, map_params
from ppfl.engine.client_store import MemoryStore, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ppfl.core.snapshot import ClientStates
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.engine.setup import Setup


@dataclass(frozen=True)
class Uplink:
    """What one client of the cohort sent, and the samples it was computed on."""

    client: int
    params: Params
    num_samples: int


@dataclass(frozen=True)
class UplinkSum:
    """Σ_k v_k x_k of what several clients of the cohort would have sent, v their weights, and the samples of each."""

    params: Params
    num_samples: tuple[int, ...]


class ClientGroup:
    """States of the clients of this rank; C clients in chunks of K."""

    def __init__(self, setup: Setup, shared: Params) -> None:
        self.problem = setup.problem
        self.algorithm = setup.algorithm
        self._clients_per_chunk = setup.clients_per_chunk
        self._weights = setup.client_weights
        can_add = self.algorithm.sums_clients and self.problem.has_joint_pass
        self._adds_clients = setup.adds_up and can_add and self._clients_per_chunk > 1
        self._initial_shared = shared
        self.store = open_store(setup.client_state, self._initial, setup.device)
        self._device = setup.device
        self._names_by_address: dict[int, str] = {}
        self._kept_data: dict[int, Data] = {}

    @property
    def clients(self) -> range:
        """Clients of this rank."""
        return self.problem.clients

    def state(self, client: int) -> State:
        """Return the state of one client of this rank, each tensor in memory of its own."""
        if client not in self.clients:
            raise KeyError(client)
        return self.store.member(*divmod(client - self.clients.start, self._clients_per_chunk))

    def like(self, client: int) -> State:
        """Return shapes and number types of the state of a client of this rank, on the device "meta"."""
        return _member(self.store.like(self._chunk_of(client)), 0)

    def local_name_at(self, address: int) -> str | None:
        """Return the name of the tensor among them whose memory starts at an address."""
        return self._names_by_address.get(address)

    def compute(self, client: int, state: State, message: Params, job: int) -> tuple[Uplink, State]:
        """Run one client outside of rounds, with data and draws of its job number `job`; nothing is kept."""
        data = self._data(client, job)
        num_samples = _num_samples(data)
        draws = self.algorithm.draws(self.problem, client, job, num_samples)
        uplink, new_state = self.algorithm.client(self.problem, message, state, data, draws)
        return Uplink(client, uplink, num_samples), new_state

    def keep(self, client: int, state: State) -> None:
        """Replace the state of one client of this rank; for chunks of one client."""
        assert self._clients_per_chunk == 1
        self._keep(client - self.clients.start, _stack_states([state]))

    @property
    def changed(self) -> list[int]:
        """Clients of this rank whose states may differ from the initial ones."""
        return [client for client in self.clients if self.store.has(self._chunk_of(client))]

    def restore(self, states: ClientStates) -> None:
        """Replace the states of clients of this rank; those of all others are the initial ones."""
        self.store.forget()
        given = {client for client in states.clients if client in self.clients}
        for index in sorted({self._chunk_of(client) for client in given}):
            chunk = [self._restored(client, states if client in given else None) for client in self._chunk(index)]
            self._keep(index, _stack_states(chunk))

    def _restored(self, client: int, states: ClientStates | None) -> State:
        initial = self._initial_of(client)
        if states is None:
            return initial
        empty: State = {group: {} for group in initial}
        if kinds(empty | states.like(client)) != kinds(initial):
            raise ValueError(f"another state of client {client}")
        state = empty | states.state(client)
        return {group: map_params(lambda value: value.to(self._device), params) for group, params in state.items()}

    def step(self, message: Params, cohort: frozenset[int], round: int) -> Iterator[Uplink | UplinkSum]:
        """Run the clients of the cohort that live here, in client order, and keep their new states."""
        members: dict[int, list[int]] = {}
        for client in sorted(cohort):
            if client in self.clients:
                members.setdefault(self._chunk_of(client), []).append(client)
        for index, clients in members.items():
            if self._adds_clients:
                yield self._step_sum(index, self._chunk(index), clients, message, round)
            else:
                yield from self._step_chunk(index, self._chunk(index), clients, message, round)

    def prefetch(self, cohort: frozenset[int]) -> None:
        """Bring the states of a cohort nearer while others are computed on."""
        self.store.prefetch({self._chunk_of(client) for client in cohort if client in self.clients})

    def _step_sum(self, index: int, chunk: range, members: list[int], message: Params, round: int) -> UplinkSum:
        datas, sizes, draws = self._inputs(members, round)
        stacked = self.store.get(index)
        states = [_member(stacked, row) for row in range(len(chunk))]
        rows = [client - chunk.start for client in members]
        weights = [self._weights[client] for client in members]
        total, new_states = self.algorithm.client_sum(
            self.problem, message, [states[row] for row in rows], datas, draws, weights
        )
        for row, new_state in zip(rows, new_states, strict=True):
            states[row] = new_state
        self._keep(index, _stack_states(states))
        return UplinkSum(total, tuple(sizes))

    def _step_chunk(
        self, index: int, chunk: range, members: list[int], message: Params, round: int
    ) -> Iterator[Uplink]:
        datas, sizes, draws = self._inputs(chunk, round)
        states = self.store.get(index)
        if len(chunk) == 1:
            uplink, new_state = self.algorithm.client(self.problem, message, _member(states, 0), datas[0], draws[0])
            self._keep(index, _stack_states([new_state]))
            yield Uplink(chunk[0], uplink, sizes[0])
            return
        uplinks, new_states = torch.func.vmap(
            lambda state, data, draw: self.algorithm.client(self.problem, message, state, data, draw)
        )(states, _stack_data(datas), _stack_draws(draws, chunk))
        sampled = torch.tensor([client in members for client in chunk])
        kept = {
            name: map_params(lambda new, old: _where_first(sampled, new, old), group, states[name])
            for name, group in new_states.items()
        }
        self._keep(index, kept)
        for client in members:
            row = chunk.index(client)
            yield Uplink(client, {name: value[row] for name, value in uplinks.items()}, sizes[row])

    def _inputs(self, clients: Sequence[int], round: int) -> tuple[list[Data], list[int], list[Draws]]:
        """Return data, numbers of samples and draws of some clients."""
        datas = [self._data(client, round) for client in clients]
        sizes = [_num_samples(data) for data in datas]
        draws = [
            self.algorithm.draws(self.problem, client, round, size) for client, size in zip(clients, sizes, strict=True)
        ]
        return datas, sizes, draws

    def _chunk_of(self, client: int) -> int:
        return (client - self.clients.start) // self._clients_per_chunk

    def _chunk(self, index: int) -> range:
        first = self.clients.start + index * self._clients_per_chunk
        return range(first, min(first + self._clients_per_chunk, self.clients.stop))

    def _initial_of(self, client: int) -> State:
        return self.algorithm.init_client(self._initial_shared, self.problem.init_local(client))

    def _initial(self, index: int) -> State:
        return _stack_states([self._initial_of(client) for client in self._chunk(index)])

    def _keep(self, index: int, states: State) -> None:
        if isinstance(self.store, MemoryStore):
            if self.store.has(index):
                for _, value in _tensors(self.store.kept(index)):
                    self._names_by_address.pop(value.untyped_storage().data_ptr(), None)
            self.store.put(index, states)
            for name, value in _tensors(self.store.kept(index)):
                self._names_by_address[value.untyped_storage().data_ptr()] = name
        else:
            self.store.put(index, states)

    def _data(self, client: int, round: int) -> Data:
        if not self.problem.fixed_data:
            return self.problem.data(client, round)
        if client not in self._kept_data:
            self._kept_data[client] = self.problem.data(client, round)
        return self._kept_data[client]


def _tensors(states: State) -> Iterator[tuple[str, torch.Tensor]]:
    for group in states.values():
        yield from ((name, value) for name, value in group.items() if value.numel())


def _member(states: State, row: int) -> State:
    # a copy in memory of its own: kernels round differently for other alignments
    return {name: {key: value[row].clone() for key, value in group.items()} for name, group in states.items()}


def _stack_states(states: list[State]) -> State:
    first = states[0]
    return {
        name: {key: torch.stack([state[name][key] for state in states]) for key in group}
        for name, group in first.items()
    }


def _where_first(mask: torch.Tensor, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    return torch.where(mask.to(new.device).reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _num_samples(data: Data) -> int:
    return len(data["y"]) if "y" in data else 1


def _stack_data(datas: list[Data]) -> Data:
    """Stack the data of K clients; samples are padded to the longest, with weight 0 for rows that are not there."""
    shapes = {tuple((key, value.shape) for key, value in data.items()) for data in datas}
    if len(shapes) == 1:
        return {key: torch.stack([data[key] for data in datas]) for key in datas[0]}
    longest = max(_num_samples(data) for data in datas)
    stacked = {key: torch.stack([_pad(data[key], longest) for data in datas]) for key in datas[0]}
    like = next(value for value in datas[0].values() if value.is_floating_point())
    ones = [_pad(like.new_ones(_num_samples(data)), longest) for data in datas]
    return {**stacked, "weight": torch.stack(ones)}


def _pad(value: torch.Tensor, length: int) -> torch.Tensor:
    return torch.cat([value, value.new_zeros(length - len(value), *value.shape[1:])])


def _stack_draws(draws: list[Draws], chunk: range) -> Mapping[str, torch.Tensor]:
    for key, value in draws[0].items():
        if any(draw[key].shape != value.shape for draw in draws):
            raise UserError(
                f"engine.clients_per_chunk: clients {chunk.start}–{chunk.stop - 1} draw mini-batches of different "
                f"numbers of samples and cannot be computed together; use 1, or a batch_size that all clients reach"
            )
    return {key: torch.stack([draw[key] for draw in draws]) for key in draws[0]}
