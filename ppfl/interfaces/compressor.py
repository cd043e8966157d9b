"""Compressors: how a vector becomes a shorter message, and what of it is lost."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field, PositiveInt, model_validator

from ppfl.core.params import num_bytes
from ppfl.core.plugins import PlugIn, refusal
from ppfl.core.rng import generator

if TYPE_CHECKING:
    from ppfl.core.types import Draws, Params


class Compressor(PlugIn):
    """C(x) = decode(encode(x)), with E‖C(x) − x‖² ≤ (1 − α)‖x‖² for a contraction 0 < α ≤ 1.

    Names, shapes and number types of a message follow from those of x, and not from its values, so that everybody knows
    how many bytes go over the wire, which are all that are counted. Both functions are pure and have no control flow on
    values; whatever is random comes in through `draws`, and the decoder knows the message alone. What is not finite in
    x is not hidden: C(x) then has a number that is not finite, too, so that who diverges is seen to.

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.core.params import num_bytes
    >>> from ppfl.interfaces.compressor import Compressor
    >>> class Halves(Compressor):
    ...     name: Literal["halves"]
    ...
    ...     def contraction(self, size):
    ...         return 1.0 - 2.0**-22
    ...
    ...     def encode(self, x, draws):
    ...         return {"values": x.to(torch.bfloat16)}
    ...
    ...     def decode(self, message, size, dtype):
    ...         return message["values"].to(dtype)
    >>> halves, x = Halves(name="halves"), torch.tensor([1.0, 1.001, -3.0])
    >>> message = halves.encode(x, halves.draws(seed=0, client=3, round=7, what="uplink", size=3))
    >>> num_bytes(message), halves.decode(message, 3, x.dtype)
    (6, tensor([ 1.,  1., -3.]))
    """

    @abstractmethod
    def contraction(self, size: int) -> float:
        """Return α for vectors of D = `size` entries, in exact arithmetic."""

    @abstractmethod
    def encode(self, x: torch.Tensor, draws: Draws) -> Params:
        """Return what is sent of x (D,), floating point, D ≥ 1."""

    @abstractmethod
    def decode(self, message: Params, size: int, dtype: torch.dtype) -> torch.Tensor:
        """Return C(x), (D,) of this number type, which is that of x."""

    def draws(self, seed: int, client: int, round: int, what: str, size: int) -> Draws:
        """Return random inputs of one call; `what` tells the messages of a client in a round apart."""
        return {}

    def check(self, size: int) -> None:
        """Raise ValueError, beginning with the key, where it is not defined for vectors of D = `size` entries."""

    def message_like(self, size: int, dtype: torch.dtype) -> Params:
        """Return tensors of the names, shapes and number types of a message; values do not matter."""
        return self.encode(torch.zeros(size, dtype=dtype), self.draws(0, 0, 0, "", size))

    def message_bytes(self, size: int, dtype: torch.dtype) -> int:
        """Return the bytes of a message."""
        return num_bytes(self.message_like(size, dtype)) if size else 0


def key_draws(seed: int, client: int, round: int, what: str) -> Draws:
    """Return {"key": () int64}, from which `ppfl.core.counter_hash` makes as many numbers as are needed."""
    drawn = generator(seed, f"compressor {what}", round=round, client=client).integers(-(2**63), 2**63 - 1)
    return {"key": torch.tensor(int(drawn))}


def as_diverged(sent: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return what is sent of x, all of it NaN where x has NaN or inf, which nobody else would see."""
    return torch.where(torch.isfinite(x).all(), sent, torch.nan)


class Sparsifier(Compressor):
    """k entries of x are sent, the others taken for 0:  E‖C(x) − x‖² ≤ (1 − k/D)‖x‖².

    A subclass says which ones, on average as good as any. How many, settings say as a number or as a share:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.interfaces.compressor import Sparsifier
    >>> class Block(Sparsifier):
    ...     name: Literal["block"]
    ...
    ...     def draws(self, seed, client, round, what, size):
    ...         return {"first": torch.tensor(7 * round % size)}
    ...
    ...     def encode(self, x, draws):
    ...         rolled = x.roll(-int(draws["first"]))
    ...         return {"values": rolled[: self.kept(len(x))], "first": draws["first"]}
    ...
    ...     def decode(self, message, size, dtype):
    ...         padded = torch.cat([message["values"], torch.zeros(size - self.kept(size), dtype=dtype)])
    ...         return padded.roll(int(message["first"]))
    >>> block, x = Block(name="block", share=0.5), torch.arange(1.0, 5.0)
    >>> block.decode(block.encode(x, block.draws(0, 0, 1, "uplink", 4)), 4, x.dtype)
    tensor([1., 0., 0., 4.])
    >>> block.contraction(4), Block(name="block", share=0.01).kept(20), Block(name="block", k=3).kept(20)
    (0.5, 1, 3)
    """

    k: PositiveInt | None = None
    """Entries that are sent; either this or `share`."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """k/D, rounded to the nearest k, which is at least 1."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Sparsifier:
        if (self.k is None) == (self.share is None):
            raise refusal("k", "a number of entries, or `share` in its place: give exactly one of the two")
        return self

    def kept(self, size: int) -> int:
        """Return k for vectors of D = `size` entries."""
        if self.k is not None:
            return self.k
        assert self.share is not None
        return max(1, round(self.share * size))

    def contraction(self, size: int) -> float:
        """Return k/D."""
        return self.kept(size) / size

    def check(self, size: int) -> None:
        """Refuse k above D."""
        if self.k is not None and self.k > size:
            raise ValueError(f"k: {self.k} entries of vectors that have {size}; at most {size}")
