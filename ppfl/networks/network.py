"""A model cut before its first local parameter: what depends on θ alone is run once, in pieces of fixed size."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from ppfl.core.params import add_scaled
from ppfl.core.transforms import for_all
from ppfl.interfaces.client_data import Joined
from ppfl.interfaces.objective import JointPass, SharedPass
from ppfl.networks.blocked import Blocked, as_dense
from ppfl.networks.convolution import ConvolutionStage
from ppfl.networks.dropout import keyed
from ppfl.networks.gradients import Pull, counted_bytes, pullback
from ppfl.networks.kernels import column, of_this_processor
from ppfl.networks.model import LinearStage
from ppfl.networks.pieces import pieces_of
from ppfl.networks.products import linear, matmul

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from ppfl.core.types import Data, Params
    from ppfl.interfaces.loss import Loss
    from ppfl.networks.kernels import Kernels
    from ppfl.networks.model import Stage


@dataclass(frozen=True)
class Network:
    """Stages in order; those before `num_shared` have shared parameters alone."""

    stages: tuple[Stage, ...]
    num_shared: int
    loss: Loss
    """What gradients are of, in the logits."""
    kernels: Kernels
    """Which forms of stages are taken."""
    body_dtype: torch.dtype | None = None
    """What all stages but the last one compute in; None: in the number type of the parameters."""
    frozen: Params = field(default_factory=dict)
    """Constants of the stages, which nobody differentiates in."""

    @classmethod
    def cut(
        cls,
        stages: tuple[Stage, ...],
        local_names: frozenset[str],
        loss: Loss,
        body_dtype: torch.dtype | None = None,
        kernels: str | None = None,
        frozen: Params | None = None,
    ) -> Network:
        """Cut before the first stage with a local parameter; `kernels` names a column, None is this processor's.

        Dropout right before that stage is cut off, too: its masks are others in every step on w.
        """
        of_column = column(kernels or of_this_processor())
        return cls(stages, _place_of_cut(stages, local_names), loss, of_column, body_dtype, frozen or {})

    def cut_again(self, local_names: frozenset[str]) -> Network:
        """Return the same network, cut for other local parameters."""
        return replace(self, num_shared=_place_of_cut(self.stages, local_names))

    @property
    def prefix_names(self) -> tuple[str, ...]:
        """Names of the parameters that the shared stages read, but for frozen ones."""
        return self._read_by(self.stages[: self.num_shared])

    @property
    def suffix_names(self) -> tuple[str, ...]:
        """Names of the parameters that the other stages read, but for frozen ones; tied ones may be among
        `prefix_names`, too."""
        return self._read_by(self.stages[self.num_shared :])

    def _read_by(self, stages: tuple[Stage, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for stage in stages for name in stage.reads if name not in self.frozen))

    def wanted_of_suffix(self, variables: Iterable[str]) -> set[str]:
        """Return what gradients in these parameters need of the suffix, with "features" where there is a prefix."""
        of_suffix = set(self.suffix_names)
        return {name for name in variables if name in of_suffix} | ({"features"} if self.prefix_names else set())

    def prefix(self, params: Params, x: torch.Tensor, key: torch.Tensor | None = None) -> torch.Tensor:
        """Return the features that the shared stages make of x; with the keys (S,) of samples that are trained on."""
        return self._run(range(self.num_shared), params, x, key)

    def suffix(self, params: Params, features: torch.Tensor, key: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits that the other stages make of features; with keys as there."""
        return self._run(range(self.num_shared, len(self.stages)), params, features, key)

    def _run(self, numbers: range, params: Params, x: torch.Tensor, key: torch.Tensor | None) -> torch.Tensor:
        # around the stages and not handed to them: most take none, and a module could not pass them on
        with keyed(key):
            return self._stages(numbers, {**self.frozen, **params}, x)

    def _stages(self, numbers: range, params: Params, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor | Blocked = x
        # tokens have no number type of their own: stages compute in that of the parameters
        numbered = (x, *params.values())
        dtype = next((value.dtype for value in numbered if value.is_floating_point()), x.dtype)
        for number in numbers:
            stage = self.stages[number]
            # the last stage, the cheapest, stays as it is: in bfloat16 a logit of 10 is known to 0.03 alone, which
            # the loss sees
            if self.body_dtype is not None and number < len(self.stages) - 1:
                y = self._apply_short(stage, params, y, x.device, dtype)
            else:
                y = self._apply(stage, params, y, dtype)
        # features leave in the precision of the run, so that fine-tuners do not know of another
        return _in(dtype, as_dense(y))

    def _apply_short(
        self, stage: Stage, params: Params, y: torch.Tensor | Blocked, device: torch.device, dtype: torch.dtype
    ) -> torch.Tensor | Blocked:
        """Run a stage in `body_dtype`."""
        assert self.body_dtype is not None
        short = {name: params[name].to(self.body_dtype) for name in stage.reads}
        if device.type != "cpu" or self.kernels.has_bfloat16:
            return self._apply(stage, short, y, self.body_dtype)
        # products of short numbers in wide registers: without instructions for them torch takes ten times as long
        wide = {name: value.to(dtype) for name, value in short.items()}
        rounded = _in(dtype, _in(self.body_dtype, as_dense(y)))
        return as_dense(self._apply(stage, wide, rounded, dtype)).to(self.body_dtype)

    def _apply(
        self, stage: Stage, params: Params, x: torch.Tensor | Blocked, dtype: torch.dtype
    ) -> torch.Tensor | Blocked:
        x = x if isinstance(x, Blocked) else _in(dtype, x)
        if isinstance(stage, ConvolutionStage):
            return stage.run(params, x, self.kernels)
        return stage.apply(params, _in(dtype, as_dense(x)))

    def in_pieces(self, params: Params, x: torch.Tensor, key: torch.Tensor | None = None) -> torch.Tensor:
        """Return `prefix` of any number of samples, piece by piece."""
        rows = pieces_of(x.device).rows
        pieces = [
            self.prefix(params, *piece) for piece in zip(torch.split(x, rows), split_keys(key, x, rows), strict=True)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def suffix_gradients(self, params: Params, features: torch.Tensor, data: Data, wanted: Container[str]) -> Params:
        """Return the gradients of the loss in the wanted parameters of the suffix; "features" may be among them."""
        if self.num_shared == len(self.stages):
            return {"features": self.loss.gradient(features, data)} if "features" in wanted else {}
        if self._is_linear:
            return self._linear_gradients(params, features, data, wanted)
        variables = {name: value for name, value in {**params, "features": features}.items() if name in wanted}

        def logits_of(changed: Params) -> torch.Tensor:
            return self.suffix({**params, **changed}, changed.get("features", features), data.get("key"))

        logits, pull = pullback(logits_of, variables)
        return pull(self.loss.gradient(logits, data))

    @property
    def _is_linear(self) -> bool:
        rest = self.stages[self.num_shared :]
        return len(rest) == 1 and isinstance(rest[0], LinearStage)

    def _linear_gradients(self, params: Params, features: torch.Tensor, data: Data, wanted: Container[str]) -> Params:
        """The same in closed form: a graph would cost several times what is computed."""
        # one of the two may be frozen
        params = {**self.frozen, **params}
        weight, bias = self.stages[self.num_shared].parameters
        flat = features.flatten(1)
        of_logits = self.loss.gradient(linear(flat, params[weight], params[bias]), data)
        found: Params = {}
        if weight in wanted:
            found[weight] = matmul(of_logits.T, flat)
        if bias in wanted:
            found[bias] = of_logits.sum(dim=0)
        if "features" in wanted:
            found["features"] = matmul(of_logits, params[weight]).reshape(features.shape)
        return found

    def linear_parameters(self, wanted: Container[str]) -> tuple[str, str] | None:
        """Return the names of weight and bias where the suffix is one linear stage and both are wanted, else None."""
        if not self._is_linear:
            return None
        weight, bias = self.stages[self.num_shared].parameters
        return (weight, bias) if weight in wanted and bias in wanted else None

    def descend_on_logits(
        self, params: Params, data: Data, wanted: Container[str], lr: float, steps: int, ridge: float = 0.0
    ) -> Params | None:
        """Gradient descent on weight and bias of a linear suffix Z = F Wᵀ + b, done on Z: the dual form.

        With P_t the gradient in Z and κ = 1 − lr · ridge, for a loss with (ridge/2)(‖W‖² + ‖b‖²) beside it:
        Z ← κZ − lr · (F Fᵀ + 1) P_t, in the end κ^steps W − lr · Σ_t κ^(steps−1−t) P_tᵀ F. None where another part is
        wanted, or for so many samples that F Fᵀ costs more than what it saves.
        """
        features, names = data["features"].flatten(1), self.linear_parameters(wanted)
        if names is None:
            return None
        weight, bias = (params[name] for name in names)
        (num_classes, width), num_samples = weight.shape, len(features)
        # multiplications of both forms: F Fᵀ once and S² · classes a step, against S · width · classes twice a step
        if num_samples * (width + 2 * steps * num_classes) > (4 * steps - 2) * width * num_classes:
            return None
        logits = linear(features, weight, bias)
        targets, rates = self.loss.targets(data["y"], logits), lr * self.loss.shares(data, logits)
        # + 1 is the bias, a column of ones beside F
        moves = (matmul(features, features.T) + 1.0) * rates
        total, kappa = torch.zeros_like(logits), 1.0 - lr * ridge
        for step in range(steps):
            derivative = self.loss.derivative(logits, targets)
            if ridge:
                logits, total = kappa * logits, kappa * total
            total = total + derivative
            # nobody reads the logits after the last step
            if step < steps - 1:
                logits = logits - matmul(moves, derivative)
        if ridge:
            weight, bias = kappa**steps * weight, kappa**steps * bias
        total = rates[:, None] * total
        return {names[0]: weight - matmul(total.T, features), names[1]: bias - total.sum(dim=0)}


def split_keys(key: torch.Tensor | None, x: torch.Tensor, rows: int) -> list[torch.Tensor | None]:
    """Return the keys of pieces of so many samples; None for each where samples have none."""
    if key is None:
        return [None] * max(1, -(-len(x) // rows))
    return list(torch.split(key, rows))


def _place_of_cut(stages: tuple[Stage, ...], local_names: frozenset[str]) -> int:
    with_local = (number for number, stage in enumerate(stages) if not local_names.isdisjoint(stage.reads))
    found = next(with_local, len(stages))
    while 0 < found < len(stages) and _only_drops(stages[found - 1]):
        found -= 1
    return found


def _only_drops(stage: Stage) -> bool:
    return stage.is_random and not stage.parameters


def _in(dtype: torch.dtype, x: torch.Tensor) -> torch.Tensor:
    """Return numbers in a number type, and tokens as they are."""
    return x.to(dtype) if x.is_floating_point() and dtype.is_floating_point else x


class SupervisedPass(SharedPass):
    """The features of one client's samples, and the way back through the stages that made them."""

    def __init__(self, network: Network, shared: Params, data: Data) -> None:
        self._network = network
        self._shared = shared
        self._prefix = {name: shared[name] for name in network.prefix_names}
        self._limits = pieces_of(data["x"].device)
        self._pieces = (
            list(torch.split(data["x"], self._limits.rows)) if len(data["x"]) > self._limits.rows else [data["x"]]
        )
        self._keys = split_keys(data.get("key"), data["x"], self._limits.rows)
        self._pulls: list[Pull] = []
        self._kept_bytes = 0
        features = [self._forward(*piece) for piece in zip(self._pieces, self._keys, strict=True)]
        rest = {name: value for name, value in data.items() if name != "x"}
        self.data = {"features": features[0] if len(features) == 1 else torch.cat(features), **rest}

    def shared_gradient(self, local: Params) -> Params:
        """∇_1 f_m(θ, w); for one use."""
        return self._gradient(local, self._shared)

    def gradients(self, local: Params) -> tuple[Params, Params]:
        """(∇_1 f_m(θ, w), ∇_2 f_m(θ, w)); for one use."""
        both = self._gradient(local, {**self._shared, **local})
        return {name: both[name] for name in self._shared}, {name: both[name] for name in local}

    def _gradient(self, local: Params, variables: Params) -> Params:
        wanted = self._network.wanted_of_suffix(variables)
        features = self.data["features"]
        found = self._network.suffix_gradients({**self._shared, **local}, features, self.data, wanted)
        return both_sides(variables, found, self.pull(found["features"]) if self._prefix else {})

    def _forward(self, x: torch.Tensor, key: torch.Tensor | None) -> torch.Tensor:
        # nothing to differentiate in; and beyond that no graph is kept, and `pull` runs the piece once more
        if not self._prefix or self._kept_bytes >= self._limits.kept_bytes:
            return self._network.prefix(self._shared, x, key)
        # one piece is kept in any case, so that there is nothing to count
        if len(self._pieces) == 1:
            features, pull = self._linearize(x, key)
        else:
            with counted_bytes() as num_bytes:
                features, pull = self._linearize(x, key)
            self._kept_bytes += num_bytes()
        self._pulls.append(pull)
        return features

    def _linearize(self, x: torch.Tensor, key: torch.Tensor | None) -> tuple[torch.Tensor, Pull]:
        return pullback(lambda theta: self._network.prefix(theta, x, key), self._prefix)

    def pull(self, of_features: torch.Tensor) -> Params:
        """Return the gradients of the shared stages, given those of the features; for one use."""
        total: Params = {}
        # in the order of pieces: sums of floats depend on it, and with them the bits of a result
        for number, (x, direction) in enumerate(
            zip(self._pieces, torch.split(of_features, self._limits.rows), strict=True)
        ):
            pull = self._pulls[number] if number < len(self._pulls) else self._linearize(x, self._keys[number])[1]
            found = pull(direction)
            total = add_scaled(total, found, 1.0) if total else found
        # graphs hold up to `kept_bytes`: given back before the next client begins
        self._pulls = []
        return total


class SupervisedJointPass(JointPass):
    """The features of K clients' samples, one after another in the same pieces, and one way back for all."""

    def __init__(self, network: Network, shared: Params, joined: Joined) -> None:
        self._network = network
        self._shared = shared
        self._pass = SupervisedPass(network, shared, joined.data)
        self.data, self._places = Joined(self._pass.data, joined.sizes).stacked()

    def shared_gradient(self, tuned: Params, weights: torch.Tensor) -> Params:
        """Σ_k v_k ∇_1 f_k(θ, w_k), the gradients of features weighted before they go back; for one use."""
        wanted = self._network.wanted_of_suffix(self._shared)

        def of_one(local: Params, data: Data) -> tuple[Params, dict[str, float]]:
            return self._network.suffix_gradients({**self._shared, **local}, data["features"], data, wanted), {}

        found = for_all(of_one, tuned, self.data)[0]
        total = {name: torch.tensordot(weights, value, 1) for name, value in found.items() if name != "features"}
        of_prefix: Params = {}
        if "features" in wanted:
            of_features = found["features"]
            of_samples = (weights.reshape(-1, *[1] * (of_features.ndim - 1)) * of_features).flatten(0, 1)
            of_prefix = self._pass.pull(of_samples if self._places is None else of_samples[self._places])
        return both_sides(self._shared, total, of_prefix)


def both_sides(names: Iterable[str], of_suffix: Params, of_prefix: Params) -> Params:
    """Return the gradients of these parameters: the sum of both for those that are read before and behind the cut."""
    tied, either = of_suffix.keys() & of_prefix.keys(), {**of_suffix, **of_prefix}
    return {name: of_suffix[name] + of_prefix[name] if name in tied else either[name] for name in names}
