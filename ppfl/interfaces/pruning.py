"""What methods have in common whose clients train and send the largest coordinates of θ alone."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, TypeAlias

import torch
from pydantic import Field

from ppfl.core.params import flatten, map_params
from ppfl.core.plugins import Resolved
from ppfl.core.transforms import is_transformed
from ppfl.interfaces.method import Algorithm, ClientStep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.method import ServerOptimizer
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem

_KEPT = "kept"
_GROUP = "pruning"
_ALL = 2**62
"""More coordinates than there are."""
_SLACK = 1e-12
"""Of a share that is a whole number of coordinates but for rounding, such as (1 − 0.9)·10."""

Ratio: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


class Pruned(Algorithm):
    """M_i keeps the (1 − ρ_i) largest |θ_j|; client i computes at θ⊙M_i and changes, and sends, kept coordinates alone:
    θ_j ← θ_j − direction of (1/Σ_i M_ij) Σ_i M_ij x_ij, x the uplink; with sgd θ_j stays where Σ_i M_ij = 0.

    Reconstructed after the words of Liu, Ratnarajah, Sellathurai, Eldar (IEEE TSP 2024), whose formulas were not at
    hand. All shared parameters are ranked together, biases too; of equal ones the first are kept. The server sends all
    of θ, so that client and server find M_i for themselves: it is never sent. Deployed is (θ⊙M_i, w_i), what w_i was
    tuned at. With ρ = 0 these are the bits of the method without pruning.

    What such a method says is its step, on kept coordinates:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.interfaces.method import ClientStep
    >>> from ppfl.interfaces.pruning import Pruned, on_kept
    >>> class PrunedDescent(Pruned):
    ...     name: Literal["pruned_descent"]
    ...
    ...     def on_kept(self, objective, start, masks, state, data, draws):
    ...         gradient = objective.shared_gradient(start, state["local"], data)
    ...         return ClientStep(on_kept(gradient, masks), {"local": state["local"]})
    ...
    ...     def server(self, state, aggregate, optimizer, round):
    ...         return optimizer.step(state, aggregate, 1.0)
    >>> class Parabola:  # all of an objective that this one asks for
    ...     def shared_gradient(self, shared, local, data):
    ...         return {"theta": shared["theta"] - data["goal"]}
    >>> method = PrunedDescent(name="pruned_descent", ratios=0.5).model_copy(update={"kept": (1,)})
    >>> message, state = {"theta": torch.tensor([1.0, -2.0])}, {"local": {}}
    >>> draws = method.draws(None, client=0, round=0, num_samples=1)
    >>> method.client(Parabola(), message, state, {"goal": torch.ones(2)}, draws).uplink
    {'theta': tensor([ 0., -3.])}
    """

    needs_rounds: ClassVar[str] = "a coordinate is averaged over those of a cohort that keep it"
    needs_whole_uplinks: ClassVar[str] = "its masks say already what of it is sent"
    needs_mean: ClassVar[str] = "other rules cannot tell coordinates that were pruned away"

    # clients are told how much to keep as one of their draws, so that runs of other ratios are computed together
    server_settings: ClassVar[frozenset[str]] = frozenset({"ratios", "kept"})

    ratios: Ratio | Annotated[tuple[Ratio, ...], Field(strict=False, min_length=1)] | Literal["network"]
    """ρ of all clients, of each of them, or as the section `network` says."""
    kept: Resolved[tuple[int, ...]] = ()
    """Coordinates that each client keeps; all of them before it is resolved."""

    @abstractmethod
    def on_kept(
        self, objective: Objective, start: Params, masks: Params, state: State, data: Data, draws: Draws
    ) -> ClientStep:
        """Return uplink, 0 where masks are False, new state and report of one client, which begins at θ⊙M."""

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return the same; the state remembers how much is kept."""
        masks = largest(message, draws[_KEPT])
        step = self.on_kept(objective, on_kept(message, masks), masks, state, data, draws)
        return ClientStep(step.uplink, {**step.state, _GROUP: _remembered(draws[_KEPT], message)}, step.report)

    def init_client(self, shared: Params, local: Params) -> State:
        """Return a state that keeps all: a client that has not taken part was not pruned."""
        every = torch.tensor(sum(value.numel() for value in shared.values()))
        return {**super().init_client(shared, local), _GROUP: _remembered(every, shared)}

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return how many coordinates the client keeps, too."""
        return {**super().draws(objective, client, round, num_samples), _KEPT: self._number(client)}

    def coordinate_weights(self, server: State, round: int, client: int) -> Params | None:
        """M_i, of θ as it was sent."""
        shared = server["shared"]
        masks = largest(shared, self._number(client))
        return {name: mask.to(shared[name].dtype) for name, mask in masks.items()}

    def view(self, server: State, state: State) -> tuple[Params, Params]:
        """(θ⊙M_i, w_i)."""
        shared, local = super().view(server, state)
        return on_kept(shared, largest(shared, state[_GROUP][_KEPT])), local

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Count what each client keeps, but where the network says it: that is known when this is resolved."""
        resolved = super().resolve(problem, participation, optimizer)
        assert isinstance(resolved, type(self))
        num_clients = problem.client_data.num_clients
        if self.ratios == "network":
            return resolved
        ratios = (self.ratios,) * num_clients if isinstance(self.ratios, float) else self.ratios
        if len(ratios) != num_clients:
            raise ValueError(f"ratios: {len(ratios)} for {num_clients} clients; one for each, or one for all")
        return resolved.pruned_by(ratios, sum(value.numel() for value in problem.objective.init_shared().values()))

    def pruned_by(self, ratios: Sequence[float], num_coordinates: int) -> Self:
        """Return this method with ⌊(1 − ρ_i) D⌋ coordinates kept by client i."""
        return self.model_copy(update={"kept": tuple(num_kept(ratio, num_coordinates) for ratio in ratios)})

    def _number(self, client: int) -> torch.Tensor:
        return torch.tensor(self.kept[client] if self.kept else _ALL)

    def share_pruned(self, client: int, num_coordinates: int) -> float:
        """Return what ρ_i comes to in whole coordinates."""
        return 1.0 - self.kept[client] / num_coordinates if num_coordinates else 0.0


def num_kept(ratio: float, num_coordinates: int) -> int:
    """Return ⌊(1 − ρ) D⌋.

    >>> from ppfl.interfaces.pruning import num_kept
    >>> [num_kept(ratio, 10) for ratio in (0.0, 0.9, 0.95, 1.0)]
    [10, 1, 0, 0]
    """
    return int((1.0 - ratio) * num_coordinates * (1.0 + _SLACK))


def largest(x: Params, number: torch.Tensor) -> Params:
    """Return where the `number` largest |x_j| of all names are, in the shapes of x; of equal ones the first.

    >>> import torch
    >>> from ppfl.interfaces.pruning import largest
    >>> largest({"a": torch.tensor([1.0, -3.0]), "b": torch.tensor([[3.0], [1.0]])}, torch.tensor(3))
    {'a': tensor([True, True]), 'b': tensor([[ True],
            [False]])}
    """
    if not x:
        return {}
    # NaN is larger than all: pruned away it would hide that θ has diverged, and ratio 0 would not keep everything
    size = torch.nan_to_num(torch.abs(flatten(x)), nan=math.inf, posinf=math.inf)
    number = number.to(size.device)
    threshold = _number_th(size, number)
    above = size > threshold
    tied = size == threshold
    room = number - above.sum()
    masks = above | (tied & (tied.cumsum(0) <= room))
    pieces = torch.split(masks, [value.numel() for value in x.values()])
    return {name: piece.reshape(*value.shape) for (name, value), piece in zip(x.items(), pieces, strict=True)}


def on_kept(x: Params, masks: Params) -> Params:
    """x⊙M; 0 where it is False, whatever x is there."""
    return map_params(lambda value, mask: torch.where(mask, value, torch.zeros_like(value)), x, masks)


def _remembered(number: torch.Tensor, like: Params) -> Params:
    return {_KEPT: next((number.to(value.device) for value in like.values()), number)}


def _number_th(size: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Return the `number`-th largest entry of a vector, the largest for 0 and the smallest beyond its end."""
    last = size.numel()
    if not is_transformed():
        # a fifth of the time that sorting takes
        return torch.kthvalue(size, last + 1 - min(max(int(number), 1), last)).values
    place = last - torch.clamp(number, 1, last)
    return torch.msort(size).gather(0, place.reshape(1)).reshape(())
