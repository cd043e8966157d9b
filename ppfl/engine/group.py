"""The clients of one rank: their states, stacked by chunks, and rounds and jobs of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ppfl.core.params import kinds, map_params
from ppfl.engine.answers import Answers
from ppfl.engine.client_store import MemoryStore, open_store
from ppfl.engine.mapping.choose import choose_mapping, choose_mappings
from ppfl.engine.mapping.laned import Laned
from ppfl.engine.mapping.lanes import as_lanes, state_lanes, state_values
from ppfl.engine.mapping.loop import Loop
from ppfl.engine.mapping.mapping import NOT_FOR_SEVERAL, member, stack_states
from ppfl.interfaces.personal_aggregates import PersonalAggregates
from ppfl.interfaces.query_points import QueryPoints
from ppfl.interfaces.remembering import MEMORY, Remembering, with_memory, without_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from ppfl.core.snapshot import ClientStates
    from ppfl.core.types import Params, State
    from ppfl.engine.client_store import ClientStore
    from ppfl.engine.mapping.mapping import AnyUplink, Uplink
    from ppfl.engine.mapping.mapping import Mapping as ClientMapping
    from ppfl.engine.participants import Downlink
    from ppfl.engine.setup import Setup


class Part(NamedTuple):
    """Clients of a cohort that live in one chunk."""

    number: int
    """Of the chunk."""
    chunk: range
    members: list[int]
    """Ascending."""


class ClientGroup:
    """States of the clients of this rank; C clients in chunks of K."""

    def __init__(self, setup: Setup, shared: Params, mapping: ClientMapping | None = None) -> None:
        self._setup = setup
        self.objective = setup.problem.objective
        self.clients = setup.problem.client_data.clients
        """Clients of this rank."""
        self.algorithm = setup.algorithm
        self._answering: ClientMapping | None = None
        if isinstance(setup.algorithm, QueryPoints):
            # of one kind, since both take a chunk at a time
            mapping, self._answering = choose_mappings(
                setup, replace(setup, algorithm=Answers(name="answers", of=setup.algorithm))
            )
        self.mapping = mapping or choose_mapping(setup)
        is_laned = isinstance(self.mapping, Laned)
        self._clients_per_chunk = max(len(self.clients), 1) if is_laned else setup.clients_per_chunk
        self._initial_shared = shared
        self._largest = self._chunk_of(self.objective.largest(self.clients))
        self.store = open_store(setup.client_state, self._initial, setup.device, self._largest)
        self._device = setup.device
        self._changed_chunks: set[int] = set()
        self._names_by_address: dict[int, str] = {}
        self._keep_one_chunk()

    def state(self, client: int) -> State:
        """Return the state of one client of this rank, each tensor in memory of its own."""
        if client not in self.clients:
            raise KeyError(client)
        return self.store.member(*self.place(client))

    def place(self, client: int) -> tuple[int, int]:
        """Return the chunk of a client of this rank, and its row there."""
        return divmod(client - self.clients.start, self._clients_per_chunk)

    def like(self, client: int) -> State:
        """Return shapes and number types of the state of a client of this rank, on the device "meta"."""
        return member(self.store.like(self._chunk_of(client)), 0)

    def local_name_at(self, address: int) -> str | None:
        """Return the name of the tensor among them whose memory starts at an address."""
        return self._names_by_address.get(address)

    def compute(self, client: int, state: State, message: Params, job: int, step: int) -> tuple[Uplink, State]:
        """Run one client outside of rounds, with data and draws of its job number `job` and the step sizes
        of a step of the server; nothing is kept."""
        assert isinstance(self.mapping, Loop)
        return self.mapping.one(client, state, message, job, step)

    def keep(self, client: int, state: State) -> None:
        """Replace the state of one client of this rank; for chunks of one client."""
        assert self._clients_per_chunk == 1
        self._keep(client - self.clients.start, stack_states([state]))

    @property
    def changed(self) -> list[int]:
        """Clients of this rank whose states may differ from the initial ones."""
        return [client for index in self.store.written for client in self._chunk(index)]

    def restore(self, states: ClientStates) -> None:
        """Replace the states of clients of this rank; those of all others are the initial ones."""
        self.store.forget()
        self._names_by_address.clear()  # memory of the states before will be that of something else
        for index, chunk in self.stacked(states):
            self._keep(index, chunk)
        self._keep_one_chunk()

    def stacked(self, states: ClientStates) -> Iterator[tuple[int, State]]:
        """Yield the chunks of this rank that have some of the states, as they are kept, one at a time."""
        given = {client for client in states.clients if client in self.clients}
        for index in sorted({self._chunk_of(client) for client in given}):
            chunk = [self._restored(client, states if client in given else None) for client in self._chunk(index)]
            yield index, stack_states(chunk)

    def empty_store(self) -> ClientStore:
        """Return a store for states of these clients, where theirs are, in which all of them are the initial ones."""
        return open_store(self.store.kind, self._initial, self._device, self._largest)

    def changed_chunks(self) -> list[int]:
        """Return the chunks that were replaced since this was asked before, ascending."""
        changed = sorted(self._changed_chunks)
        self._changed_chunks.clear()
        return changed

    def _keep_one_chunk(self) -> None:
        """Where all clients are one chunk, have it made once: whoever asks for one of them needs all."""
        if isinstance(self.mapping, Laned) and not self.store.has(0):
            self._keep(0, self._initial(0))

    def _restored(self, client: int, states: ClientStates | None) -> State:
        initial = self._initial_of(client)
        if states is None:
            return initial
        empty: State = {group: {} for group in initial}
        if kinds(empty | states.like(client)) != kinds(initial):
            raise ValueError(f"another state of client {client}")
        state = empty | states.state(client)
        return {group: map_params(lambda value: value.to(self._device), params) for group, params in state.items()}

    def remember(self, round: int) -> None:
        """Have all clients of this rank, in the cohort or not, keep something of data that are gone with this round.

        Before anything of the round is computed, so that all of it, answers and own steps, is of the same data.
        """
        data = self._setup.problem.client_data
        if not isinstance(data, Remembering) or not data.remembers_at(round):
            return
        for index, chunk, members in self.parts(frozenset(self.clients)):
            states = self.store.get(index)
            before = {MEMORY: states[MEMORY]}
            now = [data.remember(m, member(before, m - chunk.start)[MEMORY], round) for m in members]
            self._keep(index, states | stack_states([{MEMORY: memory} for memory in now]))

    def step(self, downlink: Downlink, cohort: frozenset[int], round: int) -> Iterator[AnyUplink]:
        """Run the clients of the cohort that live here, in client order, and keep their new states."""
        for part in self.parts(cohort):
            uplinks, states = self._computed(self.mapping, downlink, part, round)
            self._keep(part.number, states)
            yield from uplinks

    def ask(self, downlink: Downlink, cohort: frozenset[int], round: int) -> Iterator[AnyUplink]:
        """Have the clients of the cohort that live here answer at a query point, in client order; states stay."""
        assert self._answering is not None
        for part in self.parts(cohort):
            yield from self._computed(self._answering, downlink, part, round)[0]

    def _computed(
        self, mapping: ClientMapping, downlink: Downlink, part: Part, round: int
    ) -> tuple[Sequence[AnyUplink], State]:
        """Return what members of a chunk send, and the states of all of it, with what clients remember as it was."""
        index, chunk, members = part
        states, data = self.store.get(index), self._setup.problem.client_data
        if not isinstance(data, Remembering):
            return mapping(downlink, chunk, members, states, round)
        memories = {MEMORY: states[MEMORY]}
        data.recall({client: member(memories, client - chunk.start)[MEMORY] for client in members})
        uplinks, new = mapping(downlink, chunk, members, without_memory(states), round)
        return uplinks, new | memories

    def receive_each(self, own: Mapping[int, Params], round: int) -> None:
        """Give clients of this rank their own aggregates, and keep their new states, each chunk once."""
        algorithm = self._setup.algorithm_at(round)
        assert isinstance(algorithm, PersonalAggregates)
        for index, chunk, members in self.parts(frozenset(own)):
            # a chunk is kept whole, so that who receives nothing is stacked with the others
            states = [self.store.member(index, row) for row in range(len(chunk))]
            for client in members:
                row = client - chunk.start
                states[row] = states[row] | algorithm.receive(without_memory(states[row]), own[client])
            self._keep(index, stack_states(states))

    def receive_rows(self, own: Params, round: int) -> None:
        """Do the same of all clients of this rank, whose aggregates are rows (C, …), in their order."""
        algorithm = self._setup.algorithm_at(round)
        assert isinstance(algorithm, PersonalAggregates)
        if self.laned is not None:
            try:
                lanes = {name: as_lanes(value) for name, value in own.items()}
                self.keep_lanes(state_values(algorithm.receive(state_lanes(self.lanes), lanes)))
            except NOT_FOR_SEVERAL:  # a mistake is raised one by one, too
                pass
            else:
                return
        rows = {name: value.unbind() for name, value in own.items()}
        each = {client: {name: rows[name][row].clone() for name in rows} for row, client in enumerate(self.clients)}
        self.receive_each(each, round)

    def parts(self, cohort: frozenset[int]) -> list[Part]:
        """Return the clients of a cohort that live here, chunk by chunk."""
        members: dict[int, list[int]] = {}
        for client in sorted(cohort):
            if client in self.clients:
                members.setdefault(self._chunk_of(client), []).append(client)
        return [Part(index, self._chunk(index), clients) for index, clients in members.items()]

    @property
    def laned(self) -> Laned | None:
        """The mapping where it is one of lanes: all clients of this rank are one chunk then."""
        return self.mapping if isinstance(self.mapping, Laned) else None

    @property
    def lanes(self) -> State:
        """States of all clients of this rank, (C, …); where they are one chunk."""
        return self.store.get(0)

    def keep_lanes(self, states: State) -> None:
        """Replace them."""
        self._keep(0, states)

    def prefetch(self, cohort: frozenset[int]) -> None:
        """Bring the states of a cohort nearer while others are computed on."""
        self.store.prefetch({self._chunk_of(client) for client in cohort if client in self.clients})

    def _chunk_of(self, client: int) -> int:
        return self.place(client)[0]

    def _chunk(self, index: int) -> range:
        first = self.clients.start + index * self._clients_per_chunk
        return range(first, min(first + self._clients_per_chunk, self.clients.stop))

    def _initial_of(self, client: int) -> State:
        of_method = self.algorithm.init_client(self._initial_shared, self.objective.init_local(client))
        return with_memory(of_method, self._setup.problem.client_data)

    def _initial(self, index: int) -> State:
        return stack_states([self._initial_of(client) for client in self._chunk(index)])

    def _keep(self, index: int, states: State) -> None:
        self._changed_chunks.add(index)
        if isinstance(self.store, MemoryStore):
            if self.store.has(index):
                for _, value in _tensors(self.store.kept(index)):
                    self._names_by_address.pop(value.untyped_storage().data_ptr(), None)
            self.store.put(index, states)
            for name, value in _tensors(self.store.kept(index)):
                self._names_by_address[value.untyped_storage().data_ptr()] = name
        else:
            self.store.put(index, states)


def _tensors(states: State) -> Iterator[tuple[str, torch.Tensor]]:
    for group in states.values():
        yield from ((name, value) for name, value in group.items() if value.numel())
