"""Where the states of a rank's clients are between two uses: on the device, on the host, or in a file.

A state that was never written is made anew whenever it is asked for, so that clients that have not taken part yet cost
nothing. What is handed out may be what is kept: it is only read.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

import torch

from ppfl.core.errors import UserError
from ppfl.core.gpu_memory import free_gpu_bytes
from ppfl.core.host_memory import free_host_bytes
from ppfl.core.numbers import in_words
from ppfl.core.params import kinds, map_params, num_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ppfl.core.types import State

Kind = Literal["device", "host", "file"]
KINDS: tuple[Kind, ...] = ("device", "host", "file")
"""From near to far."""

_USABLE = 0.5
"""Part of the free memory that states may take."""
_COPIES = 3
"""How often a chunk is there while it is saved or restored: as read, as stacked, as handed over."""
_BUFFER_BYTES = 2**23
"""What writing needs beside them."""


class ClientStore(ABC):
    """The states of chunks 0, 1, … of clients; `initial` makes one that was never put."""

    kind: Kind

    def __init__(self, initial: Callable[[int], State]) -> None:
        self._initial = initial
        self._written: set[int] = set()

    def has(self, index: int) -> bool:
        """Say whether a state was put."""
        return index in self._written

    @property
    def written(self) -> list[int]:
        """Chunks of which a state was put, ascending."""
        return sorted(self._written)

    def get(self, index: int) -> State:
        """Return a state."""
        return self._read(index) if index in self._written else self._initial(index)

    def member(self, index: int, row: int) -> State:
        """Return the state of one client of a chunk, each tensor in memory of its own."""
        # kernels round differently for other alignments
        return _mapped(lambda value: value[row].clone(), self.get(index))

    def like(self, index: int) -> State:
        """Return shapes and number types of a state, on the device "meta"."""
        return _to_meta(self.get(index))

    def put(self, index: int, state: State) -> None:
        """Keep a state. Raises UserError when a disk refuses it."""
        self._write(index, state)
        self._written.add(index)

    def forget(self) -> None:
        """Go back to the initial states."""
        self._written.clear()

    @abstractmethod
    def prefetch(self, indices: Iterable[int]) -> None:
        """Bring states that will be asked for soon nearer, while others are computed on."""

    @abstractmethod
    def _read(self, index: int) -> State:
        """Return a state that was put."""

    @abstractmethod
    def _write(self, index: int, state: State) -> None:
        """Keep a state."""


class MemoryStore(ClientStore):
    """States as tensors, on the device or, for a GPU, in the pinned memory of its host."""

    def __init__(self, initial: Callable[[int], State], kind: Literal["device", "host"], device: torch.device) -> None:
        super().__init__(initial)
        self.kind = kind
        self._device = device
        self._is_away = kind == "host" and device.type != "cpu"
        self._states: dict[int, State] = {}

    def _read(self, index: int) -> State:
        kept = self._states[index]
        return _mapped(lambda value: value.to(self._device, non_blocking=True), kept) if self._is_away else kept

    def _write(self, index: int, state: State) -> None:
        self._states[index] = _mapped(lambda value: value.cpu().pin_memory(), state) if self._is_away else state

    def prefetch(self, indices: Iterable[int]) -> None:
        """Do nothing: they are near."""

    def kept(self, index: int) -> State:
        """Return the very tensors that are kept."""
        return self._states[index]


class FileStore(ClientStore):
    """States as rows of a file without a name, which goes with its process; the file system caches it."""

    kind = "file"

    def __init__(self, initial: Callable[[int], State], device: torch.device, largest: int = 0) -> None:
        """largest: the chunk whose state takes most."""
        super().__init__(initial)
        self._device = device
        self._like = _to_meta(initial(largest))
        self._row_bytes = state_bytes(self._like)
        self._smaller: dict[int, State] = {}
        """The same of chunks of other shapes: the last one with fewer clients, and those of ragged parameters."""
        with tempfile.TemporaryFile(prefix="ppfl-clients-") as file:
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)

    def member(self, index: int, row: int) -> State:
        """Return the state of one client of a chunk; no other one is read."""
        if index not in self._written:
            return super().member(index, row)
        start = index * self._row_bytes
        state: State = {}
        for group, params in self._like_of(index).items():
            state[group] = {}
            for name, like in params.items():
                size = num_bytes({name: like[row]})
                content = bytearray(os.pread(self._descriptor, size, start + row * size))
                state[group][name] = self._tensor(content, 0, like[row])
                start += num_bytes({name: like})
        return state

    def like(self, index: int) -> State:
        """Return shapes and number types of a state; nothing is read."""
        return self._like_of(index) if index in self._written else super().like(index)

    def prefetch(self, indices: Iterable[int]) -> None:
        """Have the operating system read rows ahead."""
        for index in indices:
            if index in self._written:
                os.posix_fadvise(self._descriptor, index * self._row_bytes, self._row_bytes, os.POSIX_FADV_WILLNEED)

    def _read(self, index: int) -> State:
        row = bytearray(os.pread(self._descriptor, self._row_bytes, index * self._row_bytes))
        state: State = {}
        start = 0
        for group, params in self._like_of(index).items():
            state[group] = {}
            for name, like in params.items():
                state[group][name] = self._tensor(row, start, like)
                start += num_bytes({name: like})
        return state

    def _like_of(self, index: int) -> State:
        return self._smaller.get(index, self._like)

    def _tensor(self, content: bytearray, start: int, like: torch.Tensor) -> torch.Tensor:
        if not like.numel():
            return torch.empty(like.shape, dtype=like.dtype, device=self._device)
        value = torch.frombuffer(content, dtype=like.dtype, count=like.numel(), offset=start)
        # a copy in memory of its own: kernels round differently for other alignments
        return value.reshape(like.shape).to(self._device, copy=True)

    def _write(self, index: int, state: State) -> None:
        if kinds(state) != kinds(self._like):
            assert state_bytes(state) <= self._row_bytes
            self._smaller[index] = _to_meta(state)
        row = b"".join(
            state[group][name].cpu().numpy().tobytes()
            for group, params in self._like_of(index).items()
            for name in params
        )
        try:
            written = os.pwrite(self._descriptor, row, index * self._row_bytes)
            if written != len(row):
                raise OSError(0, f"only {written} of {len(row)} bytes fit")
        except OSError as error:
            raise UserError(
                f"engine.client_state: file: cannot write the states of clients into {tempfile.gettempdir()} "
                f"({error.strerror}); set TMPDIR to a file system with more space, or use more ranks"
            ) from error


def open_store(kind: Kind, initial: Callable[[int], State], device: torch.device, largest: int = 0) -> ClientStore:
    """Return an empty store; `largest` is the chunk whose state takes most."""
    return FileStore(initial, device, largest) if kind == "file" else MemoryStore(initial, kind, device)


def choose_kind(
    wanted: Kind | Literal["auto"], needed_bytes: int, saving_bytes: int, device: torch.device, ranks_of_host: int
) -> Kind:
    """Return the nearest place where all states of a rank fit into half of what is free, shared by the host's ranks.

    saving_bytes: what else a checkpoint needs for a while, in the memory of the host.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        free = free_gpu_bytes(device) * torch.cuda.device_count()
        if needed_bytes <= _USABLE * free / ranks_of_host:
            return "device"
    fits_host = needed_bytes + saving_bytes <= _USABLE * free_host_bytes() / ranks_of_host
    if not fits_host:
        return "file"
    return "host" if device.type == "cuda" else "device"


def saving_bytes(bytes_a_client: int, clients_per_chunk: int) -> int:
    """Return what saving and restoring states needs beside them: a chunk that is read, stacked and handed over."""
    return _COPIES * bytes_a_client * clients_per_chunk + _BUFFER_BYTES


def state_bytes(state: State) -> int:
    """Size of all tensors of a state in bytes."""
    return sum(num_bytes(params) for params in state.values())


def describe(kind: Kind, num_clients: int, bytes_a_client: int) -> str:
    """Say in words where how much will be, e.g. "1114 clients × 5.6 MB = 6.2 GB: host"."""
    total = in_words(num_clients * bytes_a_client, "B")
    return f"{num_clients} clients × {in_words(bytes_a_client, 'B')} = {total}: {kind}"


def _to_meta(state: State) -> State:
    return _mapped(lambda value: value.to("meta"), state)


def _mapped(function: Callable[[torch.Tensor], torch.Tensor], state: State) -> State:
    return {name: map_params(function, group) for name, group in state.items()}
