"""The objective of learning from labels: losses of a model cut before its first local parameter."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch

from ppfl.core.content import content
from ppfl.core.params import map_params
from ppfl.core.rng import generator
from ppfl.interfaces.mixture import ROUTER
from ppfl.interfaces.objective import FixedAtStart, JointObjective
from ppfl.networks.flops import flops_of_sample
from ppfl.networks.losses import CrossEntropy, Loss
from ppfl.networks.memory import bytes_of_client
from ppfl.networks.network import Network, SupervisedJointPass, SupervisedPass
from ppfl.networks.pieces import pieces_of
from ppfl.networks.training_terms import JointPassWithTerms, PassWithTerms, Terms

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ppfl.core.types import Data, Params
    from ppfl.interfaces.client_data import Joined
    from ppfl.interfaces.counting import SampleFlops
    from ppfl.interfaces.mixture import Mixture
    from ppfl.interfaces.objective import JointPass
    from ppfl.interfaces.placement import Placement
    from ppfl.interfaces.split import Parts
    from ppfl.interfaces.started import Beginning
    from ppfl.networks.model import Stage, Takes
    from ppfl.networks.training import Training


class Made(NamedTuple):
    """What an objective is made of."""

    stages: tuple[Stage, ...]
    parts: Parts
    """Names of local and of frozen parameters."""
    num_classes: int
    training: Training | None = None
    """How clients train."""
    mixture: Mixture | None = None
    """The adaptors among the parameters."""
    num_own_tokens: tuple[int, ...] | None = None
    """Of all clients, where tokens are some clients' own."""


class Supervised(JointObjective, FixedAtStart):
    """f_m(θ, w) = Σ_s v_s ℓ(model(x_s; θ, w), y_s) / Σ_s v_s n_s, with v = 1 unless `data` has weights; ℓ and n, which
    is 1 where samples count once, are those of the loss: −log softmax(z)[y] unless another one is given; and what
    `training` adds.

    Data: x (S, channels, height, width) or (S, features) in the run's precision, or tokens (S, T) int64; y (S,) or
    (S, T) int64, or floating point; and for padded samples weight (S,), 0 for rows that are not there. Advanced
    data has `features` (S, …), what the stages before the first one with a local parameter make of x, in its place.
    Samples that are trained on may have a `key` (S,) int64, of which dropout makes its masks.
    """

    criterion: Loss = CrossEntropy()
    """Of logits and labels."""
    takes_weights = True

    def __init__(self, made: Made, placement: Placement, ridge: float = 0.0, criterion: Loss | None = None) -> None:
        if criterion is not None:
            self.criterion = criterion
        stages, parts, self._num_classes, training, self.mixture, self._num_own_tokens = made
        self.seed = placement.seed
        self._all_names = tuple(name for stage in stages for name in stage.parameters)
        self._frozen_names = frozenset(parts.frozen)
        self.parameter_names = tuple(name for name in self._all_names if name not in self._frozen_names)
        self.local_names = tuple(name for name in self.parameter_names if name in parts.local)
        self.stages = stages
        self._own_rows = frozenset(
            name for stage in stages for name, parameter in stage.parameters.items() if parameter.is_of_own_tokens
        )
        self._dtype, self._device = placement.dtype, placement.device
        self.piece_rows = pieces_of(placement.device).rows
        self._network = Network.cut(
            stages, frozenset(parts.local), self.criterion, placement.body_dtype, placement.kernels,
            self._draw("init", tuple(parts.frozen)),
        )  # fmt: skip
        self._initial_local: Params | None = None
        self._terms = self._terms_of(training, ridge)
        # a sum of gradients cannot be clipped client by client
        self.adds_up = self._terms.clip_norm is None

    @property
    def frozen(self) -> Params:
        """Frozen parameters, drawn as they are where they are trained."""
        return self._network.frozen

    @property
    def fixed_numbers(self) -> Hashable:
        """Frozen parameters, and θ⁰ and w⁰ of the proximal term."""
        return content((tuple(self.frozen.items()), tuple(self._terms.start.items())))

    def unclipped(self) -> Self:
        """Return the same with `training.clip_norm: null`."""
        whole = copy.copy(self)
        whole._terms = replace(self._terms, clip_norm=None)
        return whole

    def begin_anew(self, beginning: Beginning) -> None:
        """Let frozen parameters, and θ⁰ and w⁰ of the proximal term, be those of another start.

        Called once, before anything is computed, where `init_shared` and `init_local` return these values already. w⁰
        is that of client 0.
        """
        # new ones, since other runs may begin elsewhere with what this was copied from
        self._network = replace(self._network, frozen=beginning.shared(self.frozen))
        if self._terms.proximal:
            self._terms = replace(self._terms, start={**self.init_shared(), **self.init_local(0)})

    def all_local(self) -> Self:
        """Return the same f_m with all parameters of the model local, but for those that are frozen."""
        # shallow: only what the split decides is made anew
        view = copy.copy(self)
        view._initial_local = None
        view.local_names = self.parameter_names
        view._network = self._network.cut_again(frozenset(self.parameter_names))
        return view

    def of_some(self, chosen: np.ndarray) -> Self:
        """Return the same for some of the clients, ascending numbers, which are numbered anew."""
        if self._num_own_tokens is None:
            return self
        some = copy.copy(self)
        some._num_own_tokens = tuple(np.array(self._num_own_tokens)[chosen].tolist())
        return some

    @property
    def is_ragged(self) -> bool:
        """Whether clients have different numbers of own tokens."""
        return len(set(self._num_own_tokens or ())) > 1

    def largest(self, clients: range) -> int:
        """The client with most own tokens."""
        own = self._num_own_tokens
        return clients.start if own is None else max(clients, key=own.__getitem__, default=clients.start)

    def init_shared(self) -> Params:
        """Draw θ from the model's initial law, keyed (seed, name of the parameter)."""
        return self._draw("init", tuple(name for name in self.parameter_names if name not in self.local_names))

    def init_local(self, client: int) -> Params:
        """Draw w from the model's initial law, the same for all clients; of rows of own tokens the first ones."""
        if self._initial_local is None:
            self._initial_local = self._draw("init", self.local_names)
        return map_params(torch.clone, self._rows_of(client, self._initial_local))

    def redraw_local(self, client: int, round: int) -> Params:
        """Draw w from the model's initial law, afresh for every (round, client)."""
        return self._rows_of(client, self._draw("redraw", self.local_names, round=round, client=client))

    def _rows_of(self, client: int, params: Params) -> Params:
        """Return parameters with as many rows of own tokens as a client has."""
        if self._num_own_tokens is None:
            return params
        rows = self._num_own_tokens[client]
        return {name: value[:rows].clone() if name in self._own_rows else value for name, value in params.items()}

    def advance(self, shared: Params, data: Data) -> Data:
        """Replace x by the features that the stages before the first one with a local parameter make of it."""
        if "features" in data:
            return data
        rest = {name: value for name, value in data.items() if name != "x"}
        return {"features": self._network.in_pieces(shared, data["x"], data.get("key")), **rest}

    def prefix_of(self, shared: Params) -> Params:
        """Return the parameters of the stages before the first one with a local parameter."""
        return {name: shared[name] for name in self._network.prefix_names}

    def shared_pass(self, shared: Params, data: Data) -> SupervisedPass | PassWithTerms:
        """Keep the graphs of the shared stages."""
        once = SupervisedPass(self._network, shared, data)
        return PassWithTerms(once, shared, self._terms) if self._terms.do_something else once

    def joint_pass(self, shared: Params, joined: Joined) -> JointPass:
        """Send the samples of all clients through the shared stages together."""
        once = SupervisedJointPass(self._network, shared, joined)
        return JointPassWithTerms(once, shared, self._terms) if self._terms.do_something else once

    def bytes_of_client(self, data: Data) -> int:
        """Return the bytes of parameters, activations and windows."""
        x = data["x"]
        takes: Takes = "numbers" if x.is_floating_point() else "tokens"
        shape, frozen = tuple(x.shape[1:]), self._frozen_names
        return bytes_of_client(self.stages, shape, self._dtype, len(x), takes=takes, frozen=frozen)

    def flops_of_sample(self, data: Data) -> SampleFlops | None:
        """Return what torch counts."""
        return flops_of_sample(self._network, self.local_names, data["x"])

    def local_gradient(self, shared: Params, local: Params, data: Data) -> Params:
        """∇_2 f_m(θ, w)."""
        data = self.advance(shared, data)
        found = self._network.suffix_gradients({**shared, **local}, data["features"], data, local)
        return self._terms.clipped(self._terms.of_local(found, local))[0]

    def descend(self, shared: Params, local: Params, data: Data, lr: float, steps: int) -> Params:
        """w ← w − lr · ∇_2 f_m(θ, w), `steps` times; on logits where the local part is linear and samples are few."""
        data = self.advance(shared, data)
        found = None
        if (ridge := self._terms.ridge) is not None:
            found = self._network.descend_on_logits({**shared, **local}, data, local, lr, steps, ridge)
        return super().descend(shared, local, data, lr, steps) if found is None else found

    def shared_gradient(self, shared: Params, local: Params, data: Data) -> Params:
        """∇_1 f_m(θ, w)."""
        return self.shared_pass(shared, data).shared_gradient(local)

    def gradients(self, shared: Params, local: Params, data: Data) -> tuple[Params, Params]:
        """(∇_1 f_m(θ, w), ∇_2 f_m(θ, w))."""
        return self.shared_pass(shared, data).gradients(local)

    def loss(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        """f_m(θ, w), a scalar."""
        return self._terms.added(self.data_loss(shared, local, data), shared, local)

    def data_loss(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        """f_m(θ, w) without ridge, weight decay and proximal term, a scalar."""
        return self.criterion.mean(self.logits(shared, local, data), data)

    def logits(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        """Return what the model says of every sample, (S, classes), (S, T, vocabulary) or (S, numbers)."""
        params, key = {**shared, **local}, data.get("key")
        features = data["features"] if "features" in data else self._network.prefix(params, data["x"], key)
        return self._network.suffix(params, features, key)

    def _terms_of(self, training: Training | None, ridge: float) -> Terms:
        # a router says who is alike, and is small for nobody's sake
        exempt = frozenset() if self.mixture is None else frozenset({ROUTER})
        if training is None:
            return Terms(local=ridge, exempt=exempt)
        decay, proximal = training.weight_decay or 0.0, training.proximal or 0.0
        start = {**self.init_shared(), **self.init_local(0)} if proximal else {}
        nonconvex = training.nonconvex_penalty or 0.0
        return Terms(decay, ridge + decay, proximal, start, training.clip_norm, nonconvex, exempt)

    def _draw(self, purpose: str, names: tuple[str, ...], *, round: int = 0, client: int = 0) -> Params:
        def of(name: str) -> np.random.Generator:
            return generator(self.seed, f"{purpose} {name}", round=round, client=client)

        return {
            name: value.to(self._dtype).to(self._device)
            for stage in self.stages
            for name, value in stage.init(of).items()
            if name in names
        }
