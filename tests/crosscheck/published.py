"""What public implementations do otherwise than their papers, by their mathematics: the table of docs/methods.md.

Each is a method of `tests.crosscheck.networks` with one thing changed. Tests see that ppfl is far from all of them, and
so that they could tell.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from tests.crosscheck import networks
from tests.crosscheck.networks import Ended, Given, Weights, average, gradients, of_weights, train, weights_of


def _pfedme(
    given: Given, lr: float, penalty: float, inner_steps: int, inner_lr: float, beta: float, *,
    goes_on: bool = False, decay: float = 0.0, pulls: bool = True, scores_outer: bool = False,
) -> Ended:  # fmt: skip
    """goes_on: inner steps begin where the last ones ended; decay: of v; pulls: v to w; scores_outer: w for v."""
    shared, own = given.shared, [given.shared] * len(given.sizes)
    for k, cohort in enumerate(given.cohorts):
        ends = {}
        for m in cohort:
            outer = of_weights(given, shared)
            inner = copy.deepcopy(outer)
            for batch in given.training(m, k):
                inner = inner if goes_on else copy.deepcopy(outer)
                for _ in range(inner_steps):
                    gradients(inner, batch)
                    with torch.no_grad():
                        for v, w in zip(inner.parameters(), outer.parameters(), strict=True):
                            assert v.grad is not None
                            v -= inner_lr * (v.grad + pulls * penalty * (v - w) + decay * v)
                with torch.no_grad():
                    for v, w in zip(inner.parameters(), outer.parameters(), strict=True):
                        w -= lr * penalty * (w - v)
            ends[m] = weights_of(outer)
            own[m] = ends[m] if scores_outer else weights_of(inner)
        mean = average(given, ends)
        shared = {name: (1 - beta) * value + beta * mean[name] for name, value in shared.items()}
    return shared, own


def _apfl(
    given: Given, lr: float, mixing: float, mixing_lr: float, *,
    of_shared_too: float | None = None, theta_first: bool = False, at_itself: bool = False, is_learned: bool = True,
) -> Ended:  # fmt: skip
    """of_shared_too: factor of θ in the mixture, in place of 1 − α; theta_first: θ takes its step before the mixture is
    made; at_itself: v descends on f(v), and becomes the mixture in the end."""
    shared, own, alphas = given.shared, [given.shared] * len(given.sizes), [mixing] * len(given.sizes)
    for k, cohort in enumerate(given.cohorts):
        ends = {}
        for m in cohort:
            net, v, alpha = of_weights(given, shared), own[m], alphas[m]
            for batch in given.training(m, k):
                if theta_first:
                    train(net, [batch], lr, shared)
                factor = 1 - alpha if of_shared_too is None else of_shared_too
                theta = weights_of(net)
                mixture = v if at_itself else {name: alpha * v[name] + factor * x for name, x in theta.items()}
                at = of_weights(given, mixture)
                gradients(at, batch)
                slopes = {name: p.grad for name, p in at.named_parameters() if p.grad is not None}
                if not theta_first:
                    train(net, [batch], lr, shared)
                slope = sum(float((v[name] - theta[name]).flatten() @ g.flatten()) for name, g in slopes.items())
                v = {name: x - lr * (1 if at_itself else alpha) * slopes[name] for name, x in v.items()}
                alpha = min(1.0, max(0.0, alpha - mixing_lr * slope)) if is_learned else alpha
            ends[m], alphas[m] = weights_of(net), alpha
            own[m] = {n: alpha * v[n] + (1 - alpha) * x for n, x in ends[m].items()} if at_itself else v
        shared = average(given, ends)
    kept = [{**v, "alpha": torch.tensor(a, dtype=given.dtype)} for v, a in zip(own, alphas, strict=True)]
    return shared, kept


def _fedrep_with_momentum(given: Given, lr: float, tuning_lr: float) -> Ended:
    """Heavy ball 0.5 on head and body; the head moves on while the body is trained."""
    shared, heads = given.shared, list(given.local)
    for k, cohort in enumerate(given.cohorts):
        ends = {}
        for m in cohort:
            net = of_weights(given, shared, heads[m])
            buffers = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
            phases = [(given.tuning(m, k), tuning_lr, heads[m]), (given.training(m, k), lr, shared)]
            for batches, step, trained in phases:
                for batch in batches:
                    gradients(net, batch)
                    with torch.no_grad():
                        for name, p in net.named_parameters():
                            assert p.grad is not None
                            buffers[name] = 0.5 * buffers[name] + (p.grad if name in trained else 0.0)
                            p -= step * buffers[name]
            ends[m], heads[m] = weights_of(net, shared), weights_of(net, heads[m])
        shared = average(given, ends)
    return shared, heads


def _fedalt_body_first(given: Given, lr: float, tuning_lr: float) -> Ended:
    """θ with the old w, then w: the other order."""
    shared, local = given.shared, list(given.local)
    for k, cohort in enumerate(given.cohorts):
        ends: dict[int, Weights] = {}
        for m in cohort:
            net = of_weights(given, shared, local[m])
            train(net, given.training(m, k), lr, shared)
            ends[m] = weights_of(net, shared)
            train(net, given.tuning(m, k), tuning_lr, local[m])
            local[m] = weights_of(net, local[m])
        shared = average(given, ends)
    return shared, local


def _full_batches_alone(given: Given) -> Given:
    """Leave the smaller mini-batch at the end of an epoch out."""

    def training(m: int, k: int) -> Any:
        batches = given.training(m, k)
        return [batch for batch in batches if len(batch[1]) == max(len(y) for _, y in batches)]

    return replace(given, training=training)


def _alike(given: Given) -> Given:
    return replace(given, sizes=[1] * len(given.sizes))


def _by_batches(given: Given) -> Given:
    return replace(given, sizes=[len(given.training(m, 0)) for m in range(len(given.sizes))])


Deviation = tuple[str, Callable[..., Ended]]
DEVIATIONS: dict[str, Deviation] = {
    "fedalt: body first": ("fedalt", _fedalt_body_first),
    "fedsim: clients count alike": (
        "fedsim",
        lambda g, **s: networks.fedsim(replace(g, sizes=[1] * len(g.sizes)), **s),
    ),
    "fedrep: momentum goes on": ("fedrep", _fedrep_with_momentum),
    "ditto: no smaller last batch": ("ditto", lambda g, **s: networks.ditto(_full_batches_alone(g), **s)),
    "pfedme: inner steps go on": ("pfedme", lambda g, **s: _pfedme(g, **s, goes_on=True)),
    "pfedme: decay of v": ("pfedme", lambda g, **s: _pfedme(g, **s, decay=1e-3)),
    "pfedme: no pull": ("pfedme", lambda g, **s: _pfedme(g, **s, pulls=False)),
    "pfedme: w is scored for v": ("pfedme", lambda g, **s: _pfedme(g, **s, scores_outer=True)),
    "apfl: θ first": ("apfl", lambda g, **s: _apfl(g, **s, theta_first=True)),
    "apfl: α fixed": ("apfl", lambda g, **s: _apfl(g, **s, is_learned=False)),
    "apfl: v at itself": ("apfl", lambda g, **s: _apfl(g, **s, at_itself=True)),
    "apfl: αv + αθ": ("apfl", lambda g, **s: _apfl(g, **s, of_shared_too=s["mixing"])),
}
"""What it is, of which method."""


def without_deviation(given: Given, name: str, settings: dict[str, Any]) -> Ended:
    """Return what the loops of this file give where nothing is changed in them."""
    return {"pfedme": _pfedme, "apfl": _apfl}[name](given, **settings)
