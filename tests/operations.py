"""Operations that torch dispatches, and those for which the host has to wait for a device, counted on a CPU.

A CPU computes what a device would once `devices.is_host` says no, see `on_a_device`; then every tensor stands for one
of the device, but for what `devices.to_host` has brought, what was made of nothing (`torch.tensor`, `torch.zeros`,
NumPy's) and what was made of such tensors alone.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from ppfl.core import devices

# what returns a number, or a shape that depends on numbers
_WAITING = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "nonzero_numpy", "argwhere",
    "masked_select", "unique", "unique_dim", "unique_consecutive", "unique_dim_consecutive", "_unique", "_unique2",
    "bincount", "histc", "_assert_scalar", "_linalg_check_errors", "_linalg_eigh", "linalg_eig", "_linalg_eigvals",
    "_linalg_svd", "linalg_lstsq",
}  # fmt: skip
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_BYTES = (torch.bool, torch.uint8)


class Counts:
    """What was dispatched."""

    def __init__(self) -> None:
        self.by_name: Counter[str] = Counter()
        """All operations, by the names that they have in aten."""
        self.waits_by_name: Counter[str] = Counter()
        self.of_device = 0
        """Operations with a tensor of the device, views included; the others keep only the host busy."""

    @property
    def operations(self) -> int:
        """All of them, views included."""
        return self.by_name.total()

    @property
    def waits(self) -> int:
        """For the device; what is looked at on the host is none."""
        return self.waits_by_name.total()


class _Counting(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts
        self._of_host = WeakTensorKeyDictionary()
        self._has_device = torch.cuda.is_initialized()
        self._thread = threading.get_ident()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        is_of_host = name == "lift_fresh" or all(map(self._is_of_host, given))
        if not is_of_host and (name in _WAITING or self._chooses(name, args) or self._fetches(name, args, kwargs)):
            self._counts.waits_by_name[name] += 1
        self._counts.by_name[name] += 1
        self._counts.of_device += not is_of_host
        found = func(*args, **kwargs)
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self.mark(tensor, is_of_host)
        return found

    def mark(self, tensor: torch.Tensor, is_of_host: bool) -> None:
        """Note where a tensor is taken to be."""
        if is_of_host:
            self._of_host[tensor] = True
        elif tensor in self._of_host:
            del self._of_host[tensor]

    def look(self, name: str, tensor: torch.Tensor) -> None:
        """Count what is not dispatched on a CPU, but would have to wait for a device."""
        # ranks as threads share what is replaced
        if threading.get_ident() == self._thread and not self._is_of_host(tensor):
            self._counts.waits_by_name[name] += 1

    def fetched(self, tensor: torch.Tensor) -> torch.Tensor:
        """Stand for `devices.to_host`."""
        self.look("to_host", tensor)
        if threading.get_ident() != self._thread:
            return tensor.to("cpu")
        with _disable_current_modes():
            copy = tensor.detach().to("cpu", copy=True)
        self.mark(copy, True)
        return copy

    def _is_of_host(self, tensor: torch.Tensor) -> bool:
        return not tensor.is_cuda if self._has_device else tensor in self._of_host

    def _chooses(self, name: str, args: Any) -> bool:
        """Say whether rows are chosen by marks, whose number the host has to know."""
        if name == "repeat_interleave":
            return isinstance(args[-1], torch.Tensor)
        return name in _INDEXING and any(x is not None and x.dtype in _BYTES for x in args[1])

    def _fetches(self, name: str, args: Any, kwargs: Any) -> bool:
        """Say whether something is copied between a real device and the host, in a way that waits."""
        if not self._has_device or kwargs.get("non_blocking", False):
            return False
        if name == "_to_copy":
            device = kwargs.get("device")
            return device is not None and args[0].device.type != torch.device(device).type
        return name == "copy_" and args[0].is_cuda != args[1].is_cuda and not (len(args) > 2 and args[2])


@contextmanager
def counted() -> Iterator[Counts]:
    """Count what this thread dispatches; not two threads at a time.

    >>> with counted() as counts:
    ...     total = torch.ones(3).sum()
    >>> counts.operations, counts.by_name
    (2, Counter({'ones': 1, 'sum': 1}))
    """
    counts = Counts()
    mode = _Counting(counts)

    def looking(name: str) -> Callable[..., Any]:
        original = getattr(torch.Tensor, name)

        def look(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            mode.look(name, tensor)
            return original(tensor, *args, **kwargs)

        return look

    with (
        mock.patch.object(devices, "_copied", mode.fetched),
        mock.patch.object(torch.Tensor, "tolist", looking("tolist")),
        mock.patch.object(torch.Tensor, "numpy", looking("numpy")),
        mode,
    ):
        yield counts


@contextmanager
def on_a_device() -> Iterator[None]:
    """Have a CPU compute what another device would."""
    with mock.patch.object(devices, "is_host", return_value=False):
        yield
