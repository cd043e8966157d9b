"""A card that is none: tensors that say they are elsewhere and are computed on the CPU, but refuse to be mixed with
tensors of the CPU, as those of a GPU do. What mixes devices is found where there is no GPU, and waits are counted.

They say `meta`, since torch without CUDA has no streams for tensors that say `cuda`. What they cannot show: kernels of
a GPU, their bits and errors, memory, and what is done for `device.type == "cuda"` alone.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ppfl.runs import assemble

CARD = torch.device("meta")
_MIXING = ("copy_", "_to_copy", "index.Tensor", "index_put", "_index_put_impl_")
"""Operations that take tensors of the host beside those of a card: copies, and numbers of rows."""
_WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "repeat_interleave.Tensor")
"""Operations whose outcome the host has to know before it goes on."""


class OnCard(torch.Tensor):
    """A tensor of the card; `under` is where it really is."""

    under: torch.Tensor

    @staticmethod
    def __new__(cls, under: torch.Tensor) -> OnCard:
        found: OnCard = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, under.shape, strides=under.stride(), storage_offset=under.storage_offset(), dtype=under.dtype,
            device=CARD,
        )  # fmt: skip
        found.under = under
        return found

    def tolist(self) -> Any:
        """Copy to the host, which torch does for tensors of its own kinds alone."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return _do(function, args, kwargs or {}, None)


class Waits(TorchDispatchMode):
    """While it is active there is a card; counts where the host waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.where: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return _do(function, args, kwargs or {}, self.where)


def under(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the CPU with the numbers of any."""
    return tensor.under if isinstance(tensor, OnCard) else tensor


@contextmanager
def pretended_card(monkeypatch: Any) -> Iterator[Waits]:
    """Have runs compute on a card that is none."""
    monkeypatch.setattr(assemble, "choose_device", lambda *_: CARD)
    with Waits() as waits:
        yield waits


def _do(function: Any, args: Sequence[Any], kwargs: dict[str, Any], where: Counter[str] | None) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    of_card = [tensor for tensor in tensors if isinstance(tensor, OnCard)]
    of_host = [tensor for tensor in tensors if not isinstance(tensor, OnCard) and tensor.dim() > 0]
    name = str(function).removeprefix("aten.")
    if of_card and of_host and not name.startswith(_MIXING):
        raise RuntimeError(f"{name} of tensors of a card and of the host")
    to_card, options = _target(name, args, kwargs, bool(of_card))
    leaves_card = bool(of_card) and not to_card and name.startswith(("_to_copy", "copy_"))
    if where is not None and of_card and (leaves_card or name.startswith(_WAITING)):
        where[_place()] += 1
    real_args, real_options = tree_map(_real, args), tree_map(_real, options)
    out = function(*real_args, **real_options)
    return tree_map(_wrapper(tensors, to_card), out)


def _target(name: str, args: Sequence[Any], kwargs: dict[str, Any], of_card: bool) -> tuple[bool, dict[str, Any]]:
    """Return whether what comes out is on the card, and the options with which it is computed here."""
    options = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if name.startswith("copy_"):
        return isinstance(args[0], OnCard), options
    if options.get("device") is None:
        return of_card, options
    to_card = torch.device(options["device"]).type == CARD.type
    return to_card, {**options, "device": torch.device("cpu")}


def _real(value: Any) -> Any:
    return under(value) if isinstance(value, torch.Tensor) else value


def _wrapper(tensors: Sequence[torch.Tensor], to_card: bool) -> Callable[[Any], Any]:
    # what is changed in place comes out as itself
    known = {id(under(tensor)): tensor for tensor in tensors}

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, OnCard):
            return value
        if id(value) in known:
            return known[id(value)]
        return OnCard(value) if to_card else value

    return wrap


def _place() -> str:
    """Return the line of the package that is at work."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and "/ppfl/" not in frame.f_code.co_filename:
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename.rpartition('/ppfl/')[2]}:{frame.f_lineno}"
