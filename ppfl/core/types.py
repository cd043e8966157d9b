"""The few shapes of data that everything else speaks of.

Letters of shapes, one meaning each (docs/architecture.md has all of them): M clients in all, C of them on this rank, K
in a chunk, N vectors in a round, D shared coordinates, S samples of a client, B in a mini-batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

Params: TypeAlias = "dict[str, torch.Tensor]"
"""Named parameters of one client or of the server, in the order in which the model defines them."""

Data: TypeAlias = "dict[str, torch.Tensor]"
"""What one client computes on: samples (first dimension S) or sufficient statistics."""

Draws: TypeAlias = "dict[str, torch.Tensor]"
"""Random inputs of a pure function, drawn outside of it from a counter."""

State: TypeAlias = "dict[str, Params]"
"""State of the server or of one client: named groups of named tensors."""
