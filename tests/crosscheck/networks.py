"""Six methods once more on a network with convolutions: torch.nn, autograd and loops, in place, as clients would do it.

From the papers: Pillutla et al. 2022 (FedAlt, FedSim), Collins et al. 2021 (FedRep, Algorithm 1), Li et al. 2021
(Ditto, Algorithm 1), Dinh et al. 2020 (pFedMe, Algorithm 1), Deng et al. 2020 (APFL, Algorithm 1). No line of ppfl:
samples, initial parameters, who takes part and the mini-batches are given. A method is a function of these and of its
settings, and returns θ and what every client keeps.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

Batch = tuple[torch.Tensor, torch.Tensor]
"""x (B, 1, 28, 28), y (B,)."""
Batches = Callable[[int, int], Sequence[Batch]]
"""Those of a client in a round."""
Weights = dict[str, torch.Tensor]
Ended = tuple[Weights, list[Weights]]
"""θ, and what each client keeps: w_m or v_m, and α."""

NUM_CLASSES, CHANNELS, KERNEL, HIDDEN = 6, (4, 8), 5, 16


@dataclass(frozen=True)
class Given:
    """What a method is given."""

    shared: Weights
    local: list[Weights]
    """w_m of every client."""
    cohorts: list[list[int]]
    sizes: list[int]
    """Samples of every client, by which the server weighs."""
    training: Batches
    tuning: Batches
    """Of the steps on w of the methods that alternate."""

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.shared.values())).dtype


def network(dtype: torch.dtype) -> nn.Module:
    """Two times { convolution, ReLU, 2×2 max pooling }, a hidden layer with ReLU, logits."""
    flat = CHANNELS[1] * 4 * 4
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(1, CHANNELS[0], KERNEL)), ("relu1", nn.ReLU()), ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(*CHANNELS, KERNEL)), ("relu2", nn.ReLU()), ("pool2", nn.MaxPool2d(2)),
        ("flat", nn.Flatten()), ("hidden", nn.Linear(flat, HIDDEN)), ("relu3", nn.ReLU()),
        ("head", nn.Linear(HIDDEN, NUM_CLASSES)),
    ]  # fmt: skip
    return nn.Sequential(OrderedDict(layers)).to(dtype)


def of_weights(given: Given, *weights: Weights) -> nn.Module:
    """Return a network with these weights, each given once."""
    net = network(given.dtype)
    net.load_state_dict({name: value for group in weights for name, value in group.items()})
    return net


def weights_of(net: nn.Module, names: Iterable[str] | None = None) -> Weights:
    kept = set(names) if names is not None else None
    return {name: p.detach().clone() for name, p in net.named_parameters() if kept is None or name in kept}


def gradients(net: nn.Module, batch: Batch) -> list[torch.Tensor]:
    net.zero_grad()
    cross_entropy(net(batch[0]), batch[1]).backward()
    return [p.grad for p in net.parameters() if p.grad is not None]


def train(net: nn.Module, batches: Iterable[Batch], lr: float, names: Iterable[str]) -> None:
    """SGD on some of the parameters, all others frozen."""
    trained = set(names)
    for batch in batches:
        gradients(net, batch)
        with torch.no_grad():
            for name, p in net.named_parameters():
                if name in trained:
                    assert p.grad is not None
                    p -= lr * p.grad


def average(given: Given, ends: dict[int, Weights]) -> Weights:
    """Σ n_m θ_m / Σ n_m over who took part."""
    total = sum(given.sizes[m] for m in ends)
    return {name: sum(given.sizes[m] / total * end[name] for m, end in ends.items()) for name in given.shared}  # type: ignore[misc]


# --- some parameters local


def fedalt(given: Given, *, lr: float, tuning_lr: float) -> Ended:
    """First the personal parameters with θ as it was sent, then θ with the new ones."""
    shared, local = given.shared, list(given.local)
    for k, cohort in enumerate(given.cohorts):
        ends = {}
        for m in cohort:
            net = of_weights(given, shared, local[m])
            train(net, given.tuning(m, k), tuning_lr, local[m])
            train(net, given.training(m, k), lr, shared)
            ends[m], local[m] = weights_of(net, shared), weights_of(net, local[m])
        shared = average(given, ends)
    return shared, local


def fedsim(given: Given, *, lr: float) -> Ended:
    """All at once; θ alone is sent back."""
    shared, local = given.shared, list(given.local)
    for k, cohort in enumerate(given.cohorts):
        ends = {}
        for m in cohort:
            net = of_weights(given, shared, local[m])
            train(net, given.training(m, k), lr, [*shared, *local[m]])
            ends[m], local[m] = weights_of(net, shared), weights_of(net, local[m])
        shared = average(given, ends)
    return shared, local


def fedrep(given: Given, *, lr: float, tuning_lr: float) -> Ended:
    """Many steps on the head, then one on the representation."""
    shared, heads = given.shared, list(given.local)
    for k, cohort in enumerate(given.cohorts):
        ends = {}
        for m in cohort:
            net = of_weights(given, shared, heads[m])
            train(net, given.tuning(m, k), tuning_lr, heads[m])
            heads[m] = weights_of(net, heads[m])
            (once,) = given.training(m, k)
            train(net, [once], lr, shared)
            ends[m] = weights_of(net, shared)
        shared = average(given, ends)
    return shared, heads


# --- two models a client


def ditto(given: Given, *, lr: float, penalty: float) -> Ended:
    """v_m descends on f_m(v) + (λ/2)‖v − θ‖², θ as it was sent, beside federated averaging."""
    shared, own = given.shared, [given.shared] * len(given.sizes)
    for k, cohort in enumerate(given.cohorts):
        ends = {}
        for m in cohort:
            sent, net, mine = of_weights(given, shared), of_weights(given, shared), of_weights(given, own[m])
            for batch in given.training(m, k):
                train(net, [batch], lr, shared)
                gradients(mine, batch)
                with torch.no_grad():
                    for v, theta in zip(mine.parameters(), sent.parameters(), strict=True):
                        assert v.grad is not None
                        v -= lr * (v.grad + penalty * (v - theta))
            ends[m], own[m] = weights_of(net), weights_of(mine)
        shared = average(given, ends)
    return shared, own


def pfedme(given: Given, *, lr: float, penalty: float, inner_steps: int, inner_lr: float, beta: float) -> Ended:
    """θ̃ nearly minimizes f_B(θ̃) + (λ/2)‖θ̃ − w‖² from w on; w ← w − ηλ(w − θ̃); the server: w ← (1 − β)w + β mean."""
    shared, own = given.shared, [given.shared] * len(given.sizes)
    for k, cohort in enumerate(given.cohorts):
        ends = {}
        for m in cohort:
            outer = of_weights(given, shared)
            for batch in given.training(m, k):
                inner = copy.deepcopy(outer)
                for _ in range(inner_steps):
                    gradients(inner, batch)
                    with torch.no_grad():
                        for v, w in zip(inner.parameters(), outer.parameters(), strict=True):
                            assert v.grad is not None
                            v -= inner_lr * (v.grad + penalty * (v - w))
                with torch.no_grad():
                    for v, w in zip(inner.parameters(), outer.parameters(), strict=True):
                        w -= lr * penalty * (w - v)
                own[m] = weights_of(inner)
            ends[m] = weights_of(outer)
        mean = average(given, ends)
        shared = {name: (1 - beta) * value + beta * mean[name] for name, value in shared.items()}
    return shared, own


def apfl(given: Given, *, lr: float, mixing: float, mixing_lr: float) -> Ended:
    """v̄ = αv + (1 − α)w; autograd differentiates f_B(v̄) by v and by α, all at the values of before the step."""
    shared, own, alphas = given.shared, [given.shared] * len(given.sizes), [mixing] * len(given.sizes)
    for k, cohort in enumerate(given.cohorts):
        ends = {}
        for m in cohort:
            net, frame = of_weights(given, shared), of_weights(given, shared)
            v = {name: value.clone().requires_grad_() for name, value in own[m].items()}
            alpha = torch.tensor(alphas[m], dtype=given.dtype, requires_grad=True)
            for batch in given.training(m, k):
                mixture = {name: alpha * v[name] + (1 - alpha) * p.detach() for name, p in net.named_parameters()}
                loss = cross_entropy(torch.func.functional_call(frame, mixture, (batch[0],)), batch[1])
                *of_v, of_alpha = torch.autograd.grad(loss, [*v.values(), alpha])
                train(net, [batch], lr, shared)
                with torch.no_grad():
                    for value, gradient in zip(v.values(), of_v, strict=True):
                        value -= lr * gradient
                    alpha.copy_((alpha - mixing_lr * of_alpha).clamp(0, 1))
            ends[m], alphas[m] = weights_of(net), alpha.item()
            own[m] = {name: value.detach().clone() for name, value in v.items()}
        shared = average(given, ends)
    of_alpha_too = [{**v, "alpha": torch.tensor(a, dtype=given.dtype)} for v, a in zip(own, alphas, strict=True)]
    return shared, of_alpha_too
