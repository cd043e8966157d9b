"""The objective of learning from labels: losses of a model cut before its first local parameter."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import torch

from ppfl.core.params import map_params
from ppfl.core.rng import generator
from ppfl.interfaces.objective import JointObjective
from ppfl.networks.losses import CrossEntropy, Loss
from ppfl.networks.memory import bytes_of_client
from ppfl.networks.network import Network, SupervisedJointPass, SupervisedPass
from ppfl.networks.pieces import pieces_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from ppfl.core.types import Data, Params
    from ppfl.interfaces.client_data import Joined
    from ppfl.interfaces.placement import Placement
    from ppfl.networks.model import Stage


class Supervised(JointObjective):
    """f_m(θ, w) = Σ_s v_s ℓ(model(x_s; θ, w), y_s) / Σ_s v_s n_s, with v = 1 unless `data` has weights; ℓ and n, which
    is 1 where samples count once, are those of the loss: −log softmax(z)[y] unless another one is given.

    Data: x (S, channels, height, width) or (S, features) in the run's precision, or tokens (S, T) int64; y (S,) or
    (S, T) int64, or floating point; and for padded samples weight (S,), 0 for rows that are not there. Advanced
    data has `features` (S, …), what the stages before the first one with a local parameter make of x, in its place.
    """

    criterion: Loss = CrossEntropy()
    """Of logits and labels."""
    takes_weights = True
    _ridge = 0.0
    """Weight of ½‖w‖² in f_m."""

    def __init__(
        self,
        stages: tuple[Stage, ...],
        local_names: Sequence[str],
        placement: Placement,
        num_classes: int,
        criterion: Loss | None = None,
    ) -> None:
        if criterion is not None:
            self.criterion = criterion
        self.seed = placement.seed
        self.parameter_names = tuple(name for stage in stages for name in stage.parameters)
        self.local_names = tuple(name for name in self.parameter_names if name in local_names)
        self.stages = stages
        self._num_classes = num_classes
        self._dtype, self._device = placement.dtype, placement.device
        self.piece_rows = pieces_of(placement.device).rows
        self._network = Network.cut(
            stages, frozenset(local_names), self.criterion, placement.body_dtype, placement.kernels
        )
        self._initial_local: Params | None = None

    def all_local(self) -> Self:
        """Return the same f_m with all parameters of the model local."""
        # shallow: only what the split decides is made anew
        view = copy.copy(self)
        view._initial_local = None
        view.local_names = self.parameter_names
        view._network = replace(self._network, num_shared=0)
        return view

    def init_shared(self) -> Params:
        """Draw θ from the model's initial law, keyed (seed, name of the parameter)."""
        return self._draw("init", local=False)

    def init_local(self, client: int) -> Params:
        """Draw w from the model's initial law, the same for all clients."""
        if self._initial_local is None:
            self._initial_local = self._draw("init", local=True)
        return map_params(torch.clone, self._initial_local)

    def redraw_local(self, client: int, round: int) -> Params:
        """Draw w from the model's initial law, afresh for every (round, client)."""
        return self._draw("redraw", local=True, round=round, client=client)

    def advance(self, shared: Params, data: Data) -> Data:
        """Replace x by the features that the stages before the first one with a local parameter make of it."""
        if "features" in data:
            return data
        rest = {name: value for name, value in data.items() if name != "x"}
        return {"features": self._network.in_pieces(shared, data["x"]), **rest}

    def prefix_of(self, shared: Params) -> Params:
        """Return the parameters of the stages before the first one with a local parameter."""
        return {name: shared[name] for name in self._network.prefix_names}

    def shared_pass(self, shared: Params, data: Data) -> SupervisedPass:
        """Keep the graphs of the shared stages."""
        return SupervisedPass(self._network, shared, data)

    def joint_pass(self, shared: Params, joined: Joined) -> SupervisedJointPass:
        """Send the samples of all clients through the shared stages together."""
        return SupervisedJointPass(self._network, shared, joined)

    def bytes_of_client(self, data: Data) -> int:
        """Return the bytes of parameters, activations and windows."""
        x = data["x"]
        takes_tokens = not x.is_floating_point()
        return bytes_of_client(self.stages, tuple(x.shape[1:]), self._dtype, len(x), takes_tokens=takes_tokens)

    def local_gradient(self, shared: Params, local: Params, data: Data) -> Params:
        """∇_2 f_m(θ, w)."""
        data = self.advance(shared, data)
        return self._network.suffix_gradients({**shared, **local}, data["features"], data, local)

    def descend(self, shared: Params, local: Params, data: Data, lr: float, steps: int) -> Params:
        """w ← w − lr · ∇_2 f_m(θ, w), `steps` times; on logits where the local part is linear and samples are few."""
        data = self.advance(shared, data)
        found = self._network.descend_on_logits({**shared, **local}, data, local, lr, steps, self._ridge)
        return super().descend(shared, local, data, lr, steps) if found is None else found

    def shared_gradient(self, shared: Params, local: Params, data: Data) -> Params:
        """∇_1 f_m(θ, w)."""
        return self.shared_pass(shared, data).shared_gradient(local)

    def gradients(self, shared: Params, local: Params, data: Data) -> tuple[Params, Params]:
        """(∇_1 f_m(θ, w), ∇_2 f_m(θ, w))."""
        return self.shared_pass(shared, data).gradients(local)

    def loss(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        """f_m(θ, w), a scalar."""
        return self.criterion.mean(self.logits(shared, local, data), data)

    def logits(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        """Return what the model says of every sample, (S, classes), (S, T, vocabulary) or (S, numbers)."""
        params = {**shared, **local}
        features = data["features"] if "features" in data else self._network.prefix(params, data["x"])
        return self._network.suffix(params, features)

    def _draw(self, purpose: str, *, local: bool, round: int = 0, client: int = 0) -> Params:
        def of(name: str) -> np.random.Generator:
            return generator(self.seed, f"{purpose} {name}", round=round, client=client)

        return {
            name: value.to(self._dtype).to(self._device)
            for stage in self.stages
            for name, value in stage.init(of).items()
            if (name in self.local_names) == local
        }
