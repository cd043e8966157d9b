"""The few shapes of data that everything else speaks of. Letters: C clients on this rank, N clients in the cohort,
D shared coordinates, S samples, B batch, K clients in a chunk."""

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
