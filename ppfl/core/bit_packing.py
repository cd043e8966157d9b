"""Small whole numbers without the bits that they do not need: what goes over a wire is as large as what is counted."""

from __future__ import annotations

import torch

_BITS_OF_BYTE = 8


def packed_bytes(number: int, width: int) -> int:
    """Return the bytes of so many numbers of `width` bits each."""
    return -(-number * width // _BITS_OF_BYTE)


def pack(numbers: torch.Tensor, width: int) -> torch.Tensor:
    """Return whole numbers (number,) below 2^width as ⌈number · width/8⌉ bytes, lowest bits first; works under vmap.

    >>> import torch
    >>> from ppfl.core.bit_packing import pack, unpack
    >>> bytes_ = pack(torch.tensor([5, 0, 7, 2]), width=3)
    >>> bytes_, unpack(bytes_, number=4, width=3)
    (tensor([197,   5], dtype=torch.uint8), tensor([5, 0, 7, 2]))
    """
    places = torch.arange(width, device=numbers.device)
    bits = ((numbers[:, None] >> places) & 1).to(torch.uint8).reshape(-1)
    missing = -bits.shape[0] % _BITS_OF_BYTE
    bits = torch.cat([bits, bits.new_zeros(missing)]).reshape(-1, _BITS_OF_BYTE)
    # a byte cannot hold more than the sum of its bits, so that it may be added up as one
    return (bits << _places(bits.device)).sum(1, dtype=torch.uint8)


def unpack(packed: torch.Tensor, number: int, width: int) -> torch.Tensor:
    """Return the numbers (number,) again, int64."""
    # the bits behind the last number only fill a byte
    bits = ((packed[:, None] >> _places(packed.device)) & 1).reshape(-1)[: number * width].reshape(number, width)
    return (bits.to(torch.int64) << torch.arange(width, device=packed.device)).sum(1)


def _places(device: torch.device) -> torch.Tensor:
    return torch.arange(_BITS_OF_BYTE, dtype=torch.uint8, device=device)
