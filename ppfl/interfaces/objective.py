"""What is minimized, as methods and fine-tuners see it: parameters, and losses and gradients of one client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

from ppfl.core.params import add_scaled
from ppfl.interfaces.client_data import at_step

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ppfl.core.types import Data, Params
    from ppfl.interfaces.client_data import Joined
    from ppfl.interfaces.counting import SampleFlops
    from ppfl.interfaces.mixture import Mixture
    from ppfl.interfaces.started import Beginning


class SharedPass:
    """What depends on θ alone, evaluated once for one client: w may then be tuned, and θ's gradient taken."""

    data: Data
    """Stands in for the client's data, as what `Objective.advance` returns does."""

    def __init__(self, objective: Objective, shared: Params, data: Data) -> None:
        self._objective, self._shared, self._original = objective, shared, data
        self.data = objective.advance(shared, data)

    def shared_gradient(self, local: Params) -> Params:
        """∇_1 f_m(θ, w); for one use."""
        return self._objective.shared_gradient(self._shared, local, self._original)


class JointPass(ABC):
    """What depends on θ alone, evaluated once for K clients together: each w may then be tuned by itself."""

    data: Data
    """Stands in for the clients' data, (K, …), as what `Objective.advance` returns does for one client."""

    @abstractmethod
    def shared_gradient(self, tuned: Params, weights: torch.Tensor) -> Params:
        """Σ_k v_k ∇_1 f_k(θ, w_k), w (K, …) and v (K,), by one way back; for one use."""


class Objective(ABC):
    """f_m(θ, w_m), seen one client at a time; which one is said by `data` alone.

    Functions that take `data` are pure and free of control flow on values, so that they may be vectorized over
    clients. `shared` and `local` are Params with disjoint names.

    Whatever a method asks for follows from the loss of one client, where an objective knows nothing faster:

    >>> import torch
    >>> from ppfl.interfaces.objective import Objective
    >>> class Meeting(Objective):
    ...     parameter_names, seed = ("theta", "w"), 0
    ...
    ...     def init_shared(self):
    ...         return {"theta": torch.zeros(1)}
    ...
    ...     def init_local(self, client):
    ...         return {"w": torch.zeros(1)}
    ...
    ...     def redraw_local(self, client, round):
    ...         return self.init_local(client)
    ...
    ...     def loss(self, shared, local, data):
    ...         miss = shared["theta"] + local["w"] - data["goal"]
    ...         return (miss.square().sum() + local["w"].square().sum()) / 2
    >>> meeting, data = Meeting(), {"goal": torch.tensor([4.0])}
    >>> theta, w = meeting.init_shared(), meeting.init_local(1)
    >>> meeting.gradients(theta, w, data)
    ({'theta': tensor([-4.])}, {'w': tensor([-4.])})
    >>> meeting.descend(theta, w, data, lr=0.5, steps=1)
    {'w': tensor([2.])}
    """

    parameter_names: tuple[str, ...]
    """Names of all parameters, shared and local, from the input of the model to its output; frozen ones are not among
    them."""
    seed: int
    """Seed of everything drawn during a run: initial values, batches, fresh local parameters."""
    takes_weights: bool = False
    """True when a `weight` (S,) in `data` counts samples, 0 for those that only fill up. Then clients of unlike S are
    computed side by side, elsewhere those of equal S are."""
    piece_rows: int = 128
    """Samples that are evaluated together where there are many."""
    mixture: Mixture | None = None
    """The adaptors of a model that has a mixture of them."""

    def unclipped(self) -> Objective:
        """Return this objective with gradients that are those of f_m, where training bounds their norms."""
        return self

    @abstractmethod
    def init_shared(self) -> Params:
        """θ at the start, the same on every rank."""

    @abstractmethod
    def init_local(self, client: int) -> Params:
        """w_m at the start."""

    @property
    def is_ragged(self) -> bool:
        """Whether local parameters of clients have different shapes, the same on all ranks: clients are computed one by
        one then, and never stacked."""
        return False

    def largest(self, clients: range) -> int:
        """Return one of these clients whose local parameters take most."""
        return clients.start

    @abstractmethod
    def redraw_local(self, client: int, round: int) -> Params:
        """Return a fresh random w_m, e.g. N(0, I), keyed (seed, round, client)."""

    @abstractmethod
    def loss(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        """f_m(θ, w), a scalar; `data` may have been advanced."""

    def advance(self, shared: Params, data: Data) -> Data:
        """Evaluate the part of the model that depends on θ alone, once, for many uses of `loss` in w with θ fixed.

        The result stands in for `data` in `loss` and `local_gradient` as long as θ does not change; data that was
        advanced is returned as it is.
        """
        return data

    def prefix_of(self, shared: Params) -> Params:
        """Return what `advance` reads of θ: data stay advanced while these values do."""
        return shared

    def shared_pass(self, shared: Params, data: Data) -> SharedPass:
        """Evaluate the same part, and keep what a gradient of θ needs of it; `data` as it came, not advanced."""
        return SharedPass(self, shared, data)

    def local_gradient(self, shared: Params, local: Params, data: Data) -> Params:
        """∇_2 f_m(θ, w)."""
        gradient: Params = torch.func.grad(lambda w: self.loss(shared, w, data))(local)
        return gradient

    def descend(self, shared: Params, local: Params, data: Data, lr: float, steps: int) -> Params:
        """w ← w − lr · ∇_2 f_m(θ, w), `steps` times."""
        for step in range(steps):
            local = add_scaled(local, self.local_gradient(shared, local, at_step(data, step)), -lr)
        return local

    def shared_gradient(self, shared: Params, local: Params, data: Data) -> Params:
        """∇_1 f_m(θ, w); `data` as it came, not advanced."""
        gradient: Params = torch.func.grad(lambda theta: self.loss(theta, local, data))(shared)
        return gradient

    def gradients(self, shared: Params, local: Params, data: Data) -> tuple[Params, Params]:
        """(∇_1 f_m(θ, w), ∇_2 f_m(θ, w)) at the price of one; `data` as it came, not advanced."""
        both: tuple[Params, Params] = torch.func.grad(lambda theta, w: self.loss(theta, w, data), argnums=(0, 1))(
            shared, local
        )
        return both

    def local_hessian_product(self, shared: Params, local: Params, direction: Params, data: Data) -> Params:
        """∇²_22 f_m(θ, w) · direction."""
        transposed = torch.func.vjp(lambda w: self.local_gradient(shared, w, data), local)[1]  # it is symmetric
        product: Params = transposed(direction)[0]
        return product

    def local_system(self, shared: Params, data: Data) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return (A, t), (n, n) and (n,) over the local parameters one after another, where ∇_2 f_m is A w − t with
        an A that is kept as a matrix; None elsewhere. `data` may have been advanced."""
        return None

    @property
    def needs_iterations(self) -> str:
        """Why argmin_w f_m(θ, w) has no closed form; "" when it has one, which is `exact_local`."""
        return "the loss of this problem has no closed form for w"

    def exact_local(self, shared: Params, data: Data) -> Params:
        """Return argmin_w f_m(θ, w) where `needs_iterations` is ""; raises NotImplementedError elsewhere."""
        raise NotImplementedError(f"{type(self).__name__} has no closed form for the local parameters")


class FixedAtStart(Objective):
    """An objective that holds numbers of the start of a run beside θ, w and data: frozen parameters, or what a term of
    f_m pulls to."""

    @property
    @abstractmethod
    def frozen(self) -> Params:
        """Parameters that stay as they are: constants of f_m, held once, neither in θ nor in w."""

    @property
    @abstractmethod
    def fixed_numbers(self) -> Hashable:
        """Return the same for objectives of one kind that hold the same numbers."""

    @abstractmethod
    def begin_anew(self, beginning: Beginning) -> None:
        """Let them be those of another start.

        Called once, before anything is computed, where `init_shared` and `init_local` return other values than drawn.
        """


def frozen_of(objective: Objective) -> Params:
    """Return the parameters of an objective that nobody trains."""
    return objective.frozen if isinstance(objective, FixedAtStart) else {}


class JointObjective(Objective):
    """An objective that evaluates what depends on θ alone for the samples of several clients together."""

    adds_up: bool = True
    """False where a sum over clients does not say what each of them contributes, as with clipped gradients: then each
    is computed by itself."""

    @abstractmethod
    def joint_pass(self, shared: Params, joined: Joined) -> JointPass:
        """Evaluate it for several clients at once; their data as they came, not advanced."""

    def bytes_of_client(self, data: Data) -> int:
        """Return what a client with so many samples takes of a device while it is computed beside others; 0 where
        nobody knows."""
        return 0

    def flops_of_sample(self, data: Data) -> SampleFlops | None:
        """Return the operations of each part of the model for one of such samples; None where nobody knows."""
        return None
