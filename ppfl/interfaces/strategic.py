"""The section `strategic:`: clients that report something else than they computed, to fare better themselves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt

from ppfl.core.agree import SharedUserError
from ppfl.core.plugins import Settings
from ppfl.core.rng import generator
from ppfl.interfaces.named_clients import refuse_unable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.types import Params

SQUARED_NORM = "squared_norm"
"""Among `evaluate.reports`: ‖m_i‖² of what each client sent, whatever method and role it has."""


class Strategic(Settings):
    """m_i = a g_i + β ξ, with ξ ~ N(0, I)/√d for each tensor of d entries: what they send in place of g_i.

    They keep their data, their loss and their place in all scores: unlike attackers they want a good θ, for themselves.
    Source: Chakarov et al., 2024 (arXiv 2412.00980), the game; the noise of a tensor as in their published code.
    """

    clients: PositiveInt | Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    """How many of them there are, drawn by the seed, or the names of the clients."""
    scale: float = 1.0
    """a, on what was computed: 1 says the truth, 0 nothing, −1 the opposite."""
    noise: NonNegativeFloat = 0.0
    """β, expected norm of the noise that is added to every tensor."""

    @property
    def is_honest(self) -> bool:
        """Whether they say the truth after all: what they send is then left untouched."""
        return self.scale == 1.0 and self.noise == 0.0

    @property
    def num_clients(self) -> int:
        """All of them."""
        return self.clients if isinstance(self.clients, int) else len(set(self.clients))

    def members(
        self, client_names: Sequence[str], num_train_samples: Sequence[int], byzantine: frozenset[int], seed: int
    ) -> frozenset[int]:
        """Return who they are: clients with training samples, none of them Byzantine.

        Raises SharedUserError when there are none such.
        """
        able = [client for client, samples in enumerate(num_train_samples) if samples > 0]
        free = [client for client in able if client not in byzantine]
        if isinstance(self.clients, int):
            if self.clients > len(free):
                raise SharedUserError(
                    f"strategic.clients: {self.clients} wanted, and {len(free)} have training samples and are not "
                    f"Byzantine; at most {len(free)}"
                )
            # a stream of its own, so that who attacks and who takes part stay who they are in the plain run
            drawn = generator(seed, "strategic").choice(len(free), self.clients, replace=False)
            return frozenset(free[client] for client in drawn)
        both = sorted(client_names[client] for client in byzantine if client_names[client] in self.clients)
        what = f"{', '.join(both)} is Byzantine, and nobody can be both" if both else ""
        refuse_unable("strategic.clients", self.clients, client_names, [client_names[one] for one in able], what)
        return frozenset(client_names.index(name) for name in self.clients)

    def misreport(self, computed: Params, seed: int, client: int, round: int) -> Params:
        """Return m_i; asynchronously `round` is the number of the client's job."""
        if self.is_honest:
            return computed
        # β is of what is added: a noisy free rider (a = 0) still sends noise
        sent = {name: value * self.scale for name, value in computed.items()}
        if self.noise == 0.0:
            return sent
        # one stream for all tensors, in their order, which is that of the method on every rank
        draw = generator(seed, "strategic noise", round=round, client=client)
        for name, value in sent.items():
            noise = draw.standard_normal(tuple(value.shape)) * (self.noise / math.sqrt(max(value.numel(), 1)))
            sent[name] = value + torch.as_tensor(noise).to(value.device, value.dtype)
        return sent


def squared_norm(sent: Params) -> float:
    """Return ‖m‖² of what one client sends, in float64; 0 where it sends nothing."""
    if not sent:
        return 0.0
    # a vector in memory of its own: kernels round differently for other strides
    flat = torch.cat([value.reshape(-1).to(torch.float64) for value in sent.values()])
    return float(flat.square().sum())
