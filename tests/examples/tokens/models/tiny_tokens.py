"""An embedding, its mean with what came before, and a linear layer at every position: the smallest model of tokens."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from ppfl.core.types import Params
from ppfl.networks.model import Model, Parameter, Stage


class TinyTokens(Model):
    """z_t = W (e(x_t) + mean of e(x_1..t)) + b; tokens (S, T) to logits (S, T, vocabulary)."""

    name: Literal["tiny_tokens"]
    width: int = 4
    last_only: bool = False
    """Logits of the last position alone, (S, vocabulary)."""
    takes: ClassVar[Literal["numbers", "tokens"]] = "tokens"

    def parameter_names(self) -> tuple[str, ...]:
        """Return the names of all parameters."""
        return ("embed.weight", "head.weight", "head.bias")

    def stages(self, input_shape: tuple[int, ...], num_classes: int) -> tuple[Stage, ...]:
        """Return embedding, mixing and head."""

        def embed(params: Params, x: torch.Tensor) -> torch.Tensor:
            return params["embed.weight"][x]

        def mix(params: Params, x: torch.Tensor) -> torch.Tensor:
            positions = torch.arange(1, x.shape[1] + 1, dtype=x.dtype, device=x.device)
            mixed = x + x.cumsum(dim=1) / positions[:, None]
            return mixed[:, -1] if self.last_only else mixed

        def head(params: Params, x: torch.Tensor) -> torch.Tensor:
            return x @ params["head.weight"].T + params["head.bias"]

        drawn = Parameter((num_classes, self.width), half_width=0.5)
        return (
            Stage("embed", {"embed.weight": drawn}, embed),
            Stage("mix", {}, mix),
            Stage("head", {"head.weight": drawn, "head.bias": Parameter((num_classes,), half_width=0.5)}, head),
        )
