"""The classification problem at run time: losses, drawn batches and scores."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from ppfl.core.agree import SharedUserError, on_every_rank
from ppfl.core.params import map_params
from ppfl.core.problem import Problem
from ppfl.core.rng import generator
from ppfl.problems._losses import CrossEntropy, Loss
from ppfl.problems._network import PIECE_ROWS, Network, SupervisedJointPass, SupervisedPass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ppfl.core.dataset import FederatedSamples, Samples
    from ppfl.core.model import Stage
    from ppfl.core.problem import Placement
    from ppfl.core.types import Data, Params
    from ppfl.problems._classification_settings import ClassificationSettings


def build_supervised(
    settings: ClassificationSettings, placement: Placement, clients_per_chunk: int, make: Callable[..., Supervised]
) -> Supervised:
    """Load the samples, agree on the number of classes, and build the stages of the model. Collective.

    `make` builds the problem itself and takes the arguments of `Supervised`.
    """
    if settings.batch_size != "all":
        placement = replace(placement, samples_a_round=settings.batch_size)
    samples = settings.dataset.load(placement, clients_per_chunk)
    if not any(samples.num_train_samples):
        raise SharedUserError("problem.dataset: no client has a training sample")
    num_classes = _agree_on_num_classes(samples, placement)
    histogram = _label_histogram(samples, num_classes, placement)
    stages = on_every_rank(placement.communicator, lambda: settings.model.stages(samples.input_shape, num_classes))
    local_names = settings.split.local_names(settings.model.parameter_names())
    return make(samples, stages, local_names, settings.batch_size, placement, histogram)


class Supervised(Problem):
    """f_m(θ, w) = −Σ_s v_s log softmax(model(x_s; θ, w))[y_s] / Σ_s v_s, with v = 1 unless `data` has weights.

    Data: x (S, channels, height, width) or (S, features) in the run's precision, y (S,) int64, and for padded samples
    weight (S,), 0 for rows that are not there. Advanced data has `features` (S, …), what the stages before the first
    one with a local parameter make of x, in the place of x.
    """

    has_joint_pass = True
    _loss: Loss = CrossEntropy()
    _ridge = 0.0
    """Weight of ½‖w‖² in f_m."""

    def __init__(
        self,
        samples: FederatedSamples,
        stages: tuple[Stage, ...],
        local_names: tuple[str, ...],
        batch_size: int | Literal["all"],
        placement: Placement,
        label_histogram: np.ndarray,
    ) -> None:
        self.client_names = samples.client_names
        self.num_train_samples = samples.num_train_samples
        self.num_validation_samples = samples.num_validation_samples
        self.num_test_samples = samples.num_test_samples
        self.clients = samples.clients
        self.byzantine = placement.byzantine_clients(samples.client_names, samples.num_train_samples)
        self._attack = placement.byzantine.attack if placement.byzantine is not None else None
        self.device = placement.device
        self.seed = placement.seed
        self.fixed_data = batch_size == "all"
        self.label_histogram = label_histogram
        self._dtype = placement.dtype
        self._divisor = samples.divisor
        self._batch_size = batch_size
        self._stages = stages
        self._local_names = frozenset(local_names)
        self._network = Network.cut(stages, self._local_names, self._loss, placement.body_dtype)
        self._initial_local: Params | None = None
        self._train = {m: _Stored(s.train, placement.device) for m, s in samples.samples.items()}
        self._scored_on = {
            part: {m: _Stored(getattr(s, part), placement.device) for m, s in samples.samples.items()}
            for part in ("test", "validation")
        }

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

    def parameter_names(self) -> tuple[str, ...]:
        """Return all names in the order of the stages."""
        return tuple(name for stage in self._stages for name in stage.parameters)

    @property
    def local_names(self) -> tuple[str, ...]:
        """Return those of them that are local."""
        return tuple(name for name in self.parameter_names() if name in self._local_names)

    def all_local(self) -> Supervised:
        """Return the same f_m with all parameters of the model local."""
        # shallow: samples are shared, and only what the split decides is made anew
        view = copy.copy(self)
        view._initial_local = None
        view._local_names = frozenset(self.parameter_names())
        view._network = replace(self._network, num_shared=0)
        return view

    def data(self, client: int, round: int) -> Data:
        """Draw min(B, S) of the S training samples without replacement, keyed (seed, round, client).

        All of them, in their order, when B ≥ S; those of a Byzantine client as its attack has changed them.
        """
        train = self._train[client]
        size = self._size_of_batch(len(train))
        rows: torch.Tensor | slice = slice(None)
        if size < len(train):
            draw = generator(self.seed, "batch", round=round, client=client).choice(len(train), size, replace=False)
            # in the order drawn, not sorted: the order of samples is part of the bits of a batch
            rows = torch.from_numpy(draw).to(self.device)
        data = self._decode(train, rows)
        if self._attack is None or client not in self.byzantine:
            return data
        return self._attack.poison(data, self.label_histogram.shape[1])

    def training_epoch(self, client: int, epoch: int) -> list[Data]:
        """Return all training samples in batches of B, the last possibly smaller; order keyed (seed, epoch, client)."""
        train = self._train[client]
        order = generator(self.seed, "tuned epoch", round=epoch, client=client).permutation(len(train))
        # a client without samples has a step of 1 over an empty range
        size = max(self._size_of_batch(len(train)), 1)
        rows = torch.from_numpy(order).to(self.device)
        return [self._decode(train, rows[start : start + size]) for start in range(0, len(train), size)]

    def advance(self, shared: Params, data: Data) -> Data:
        """Replace x by the features that the stages before the first one with a local parameter make of it."""
        if "features" in data:
            return data
        rest = {name: value for name, value in data.items() if name != "x"}
        return {"features": self._network.in_pieces(shared, data["x"]), **rest}

    def shared_pass(self, shared: Params, data: Data) -> SupervisedPass:
        """Keep the graphs of the shared stages."""
        return SupervisedPass(self._network, shared, data)

    def joint_pass(self, shared: Params, datas: Sequence[Data]) -> SupervisedJointPass:
        """Send the samples of all clients through the shared stages together."""
        return SupervisedJointPass(self._network, shared, datas)

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
        return self._loss.mean(self._logits(shared, local, data), data)

    def facts(self) -> dict[str, float]:
        """Return numbers of parameters, samples and classes."""
        sizes: dict[bool, int] = {True: 0, False: 0}
        for stage in self._stages:
            for name, parameter in stage.parameters.items():
                sizes[name in self._local_names] += math.prod(parameter.shape)
        return {
            "num_shared_parameters": float(sizes[False]),
            "num_local_parameters": float(sizes[True]),
            "num_train_samples": float(sum(self.num_train_samples)),
            "num_validation_samples": float(sum(self.num_validation_samples)),
            "num_test_samples": float(sum(self.num_test_samples)),
            "num_classes": float(self.label_histogram.shape[1]),
        }

    def client_facts(self) -> dict[str, np.ndarray]:
        """Return the label histogram over all three parts, (M, classes), and the sizes of the parts, (M,)."""
        return {
            "label_histogram": self.label_histogram,
            "num_train_samples": np.array(self.num_train_samples, dtype=np.int64),
            "num_validation_samples": np.array(self.num_validation_samples, dtype=np.int64),
            "num_test_samples": np.array(self.num_test_samples, dtype=np.int64),
        }

    def client_metrics(self, shared: Params, local: Params, client: int) -> dict[str, float]:
        """Mean loss, here in nats, and accuracy in [0, 1] on test and validation samples.

        NaN where there are none; and accuracy where a logit is NaN or inf: among those none is the largest.
        """
        scores: dict[str, float] = {}
        for part, stored in self._scored_on.items():
            scores[f"{part}_loss"], scores[f"{part}_accuracy"] = self._score(shared, local, stored[client])
        return scores

    def round_metrics(self, shared: Params, local: Params, client: int, round: int) -> dict[str, float]:
        """Add `loss`, f_m(θ, w) on the training samples of this round: f_m itself with `batch_size: all`."""
        loss = math.nan
        if self.num_train_samples[client]:
            with torch.no_grad():
                loss = float(self.loss(shared, local, self.advance(shared, self.data(client, round))))
        return {"loss": loss, **self.client_metrics(shared, local, client)}

    def metric_weights(self, metric: str) -> tuple[int, ...]:
        """Return the sizes of the part that the metric is named after."""
        if metric.startswith("test_"):
            return self.num_test_samples
        return self.num_validation_samples if metric.startswith("validation_") else self.num_train_samples

    def _draw(self, purpose: str, *, local: bool, round: int = 0, client: int = 0) -> Params:
        def of(name: str) -> np.random.Generator:
            return generator(self.seed, f"{purpose} {name}", round=round, client=client)

        return {
            name: value.to(self._dtype).to(self.device)
            for stage in self._stages
            for name, value in stage.init(of).items()
            if (name in self._local_names) == local
        }

    def _size_of_batch(self, num_samples: int) -> int:
        return num_samples if self._batch_size == "all" else min(self._batch_size, num_samples)

    def _decode(self, stored: _Stored, rows: torch.Tensor | slice) -> Data:
        x = stored.x[rows].to(self._dtype)
        # division makes fresh memory, so that neither alignment nor the next use depends on where the rows lie
        return {"x": x / self._divisor, "y": stored.y[rows].clone()}

    def _logits(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        params = {**shared, **local}
        features = data["features"] if "features" in data else self._network.prefix(params, data["x"])
        return self._network.suffix(params, features)

    def _score(self, shared: Params, local: Params, stored: _Stored) -> tuple[float, float]:
        if not len(stored):
            return math.nan, math.nan
        loss, correct = 0.0, 0.0
        with torch.no_grad():
            for data in self._scoring_batches(stored):
                logits = self._logits(shared, local, data)
                loss += float(self._loss.total(logits, data["y"]))
                # argmax takes NaN for the largest, and would call a diverged model a guess
                hits = int((logits.argmax(dim=1) == data["y"]).sum())
                correct += hits if bool(logits.isfinite().all()) else math.nan
        return loss / len(stored), correct / len(stored)

    def _scoring_batches(self, stored: _Stored) -> Iterator[Data]:
        for start in range(0, len(stored), PIECE_ROWS):
            yield self._decode(stored, slice(start, start + PIECE_ROWS))


class _Stored:
    """Samples of one part of one client, x as compact as they came (uint8 stays uint8)."""

    def __init__(self, samples: Samples, device: torch.device) -> None:
        self.x = torch.from_numpy(samples.x).to(device)
        self.y = torch.from_numpy(samples.y).to(device)

    def __len__(self) -> int:
        return len(self.y)


def _agree_on_num_classes(samples: FederatedSamples, placement: Placement) -> int:
    """Return 1 + the largest label of any part of any client. Collective."""
    # of all ranks: the model must have the same logits everywhere, also where a rank's clients lack a class
    largest = [int(part.y.max()) for parts in samples.samples.values() for part in parts if len(part)]
    mine = torch.tensor([max(largest, default=0)])
    return int(placement.communicator.allreduce(mine, "max")) + 1


def _label_histogram(samples: FederatedSamples, num_classes: int, placement: Placement) -> np.ndarray:
    """Count the labels of every client over its three parts, (M, classes) int64. Collective."""
    mine = np.zeros((len(samples.clients), num_classes), dtype=np.int64)
    for row, client in zip(mine, samples.clients, strict=True):
        labels = np.concatenate([part.y for part in samples.samples[client]])
        row[:] = np.bincount(labels, minlength=num_classes)
    return placement.communicator.allgather_rows(torch.from_numpy(mine)).numpy()
