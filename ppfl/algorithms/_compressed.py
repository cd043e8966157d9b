"""Nodes that tell each other how far they have moved from what they told before, by a compressor."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple, Self

from ppfl.algorithms._decentralized import Decentralized
from ppfl.core.params import flatten
from ppfl.core.plugins import ChosenFrom, Resolved
from ppfl.core.transforms import of_each
from ppfl.interfaces.compressor import Compressor

if TYPE_CHECKING:
    import torch

    from ppfl.core.plugins import Example
    from ppfl.core.types import Draws, Params
    from ppfl.interfaces.method import ServerOptimizer
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem

_PART = "."
"""Between the name of a vector and that of a part of its message."""


class Told(NamedTuple):
    """How a node tells its neighbours of a vector y that it has now."""

    message: Params
    """C(y − ŷ), as it is sent."""
    reference: torch.Tensor
    """ŷ⁺ = ŷ + C(y − ŷ), (D,): what all of them know of y."""
    apart: torch.Tensor
    """Σ_j w_ij (ŷ_j − ŷ_i) of before, less C(y − ŷ); the sum that the node receives makes it that of now."""


class Compressing(Decentralized):
    """ŷ_i ← ŷ_i + C(y_i − ŷ_i), which neighbours add to the Σ_j w_ij (ŷ_j − ŷ_i) that they keep in the place of copies.

    Differences of the ŷ are kept and not weighted sums of them: they go to 0, and their rounding with them.
    """

    example: ClassVar[Example] = {**Decentralized.example, "mixing": 0.5, "compressor": {"name": "none"}}
    compressor: Annotated[Compressor, ChosenFrom("ppfl.compressors")]
    """C."""
    size: Resolved[int] = 0
    """D."""

    def message_draws(self, objective: Objective, client: int, round: int, what: str) -> Draws:
        """Return the random inputs of one message."""
        drawn = {} if not self.size else self.compressor.draws(objective.seed, client, round, what, self.size)
        return {_name(what, part): value for part, value in drawn.items()}

    def tell(self, what: str, y: torch.Tensor, reference: torch.Tensor, apart: torch.Tensor, draws: Draws) -> Told:
        """Return what is sent of y (D,), and what is known after it; `what` names it in messages and draws."""
        message, moved = of_each(self._compressed, y - reference, _parts(draws, what))
        named = {_name(what, part): value for part, value in message.items()}
        return Told(named, reference + moved, apart - moved)

    def _compressed(self, x: torch.Tensor, draws: Draws) -> tuple[Params, torch.Tensor]:
        """Return the message and C(x)."""
        message = self.compressor.encode(x, draws)
        return message, self.compressor.decode(message, self.size, x.dtype)

    def message_like(self, what: str, shared: Params) -> Params:
        """Return tensors of the names, shapes and number types of a message."""
        like = flatten(shared)
        parts = _message_like(self.compressor, self.size, like.dtype)
        return {_name(what, part): value.to(like.device) for part, value in parts.items()}

    def decode(self, sent: Params, shared: Params) -> Params:
        """Return C(y − ŷ) of each vector, (D,)."""
        dtype = next(iter(shared.values())).dtype
        found: Params = {}
        for what in dict.fromkeys(name.partition(_PART)[0] for name in sent):
            parts = _parts(sent, what)
            found[what] = self.compressor.decode(parts, self.size, dtype) if parts else sent[what]
        return found

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Find D; refuse compressors that vectors are too short for."""
        size = sum(value.numel() for value in problem.objective.init_shared().values())
        try:
            # where nothing is shared, nothing is compressed
            if size:
                self.compressor.check(size)
        except ValueError as error:
            raise ValueError(f"compressor.{error}") from error
        return super().resolve(problem, participation, optimizer).model_copy(update={"size": size})


@cache
def _message_like(compressor: Compressor, size: int, dtype: torch.dtype) -> Params:
    # asked in each round
    return compressor.message_like(size, dtype)


def _name(what: str, part: str) -> str:
    return f"{what}{_PART}{part}"


def _parts(named: Params, what: str) -> Params:
    """Return what belongs to one vector, by the names of its parts; nothing where it was sent as it is."""
    prefix = what + _PART
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
