"""Every method once more, from the formulas of the papers that docs/methods.md names: plain NumPy, a few lines each.

A method is a function with its name, of a World and of its own settings, and yields what stands after every round.
What it costs is counted by hand: gradients in units of one over all samples of a client, vectors as long as θ.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.crosscheck.nodes import beer as beer
from tests.crosscheck.nodes import choco_sgd as choco_sgd
from tests.crosscheck.nodes import dsgd as dsgd
from tests.crosscheck.nodes import gradient_tracking as gradient_tracking
from tests.crosscheck.nodes import motef as motef
from tests.crosscheck.nodes import motef_vr as motef_vr
from tests.crosscheck.problem import Round, Rounds, Vector, World
from tests.crosscheck.tuners import Settings, num_gradients, tune


def descend(gradient: Callable[[Vector], Vector], x: Vector, lr: float, steps: int) -> Vector:
    """x ← x − lr ∇(x), `steps` times."""
    for _ in range(steps):
        x = x - lr * gradient(x)
    return x


def descend_both(world: World, m: int, theta: Vector, w: Vector, lr: float, steps: int) -> tuple[Vector, Vector]:
    """(θ, w) ← (θ, w) − lr ∇f_m(θ, w), `steps` times."""
    for _ in range(steps):
        of_theta, of_w = world.f.of_both(m, theta, w)
        theta, w = theta - lr * of_theta, w - lr * of_w
    return theta, w


def averaging(
    world: World, client: Callable[[int, Vector], Vector], deployed: Callable[[Vector], list[tuple[Vector, Vector]]],
    of_theta: float, of_w: float = 0.0,
) -> Rounds:  # fmt: skip
    """θ ← θ − direction(mean over the cohort of θ − θ_m), θ_m = client(m, θ)."""
    theta = world.theta
    for cohort in world.cohorts:
        moved = {m: theta - client(m, theta) for m in cohort}
        theta = theta - world.direction(world.mean(moved))
        size = len(cohort)
        yield Round(theta, deployed(theta), of_theta * size, of_w * size, size, size)


# --- everything shared


def fedavg(world: World, *, lr: float, local_steps: int) -> Rounds:
    """McMahan et al. 2017, Algorithm 1."""
    return averaging(
        world,
        lambda m, theta: descend(lambda z: world.f.of_theta(m, z, world.w), theta, lr, local_steps),
        lambda theta: [(theta, world.w) for _ in world.clients],
        local_steps,
    )


def fedprox(world: World, *, lr: float, local_steps: int, penalty: float) -> Rounds:
    """Li et al. 2020, Algorithm 2."""
    return averaging(
        world,
        lambda m, theta: descend(
            lambda z: world.f.of_theta(m, z, world.w) + penalty * (z - theta), theta, lr, local_steps
        ),
        lambda theta: [(theta, world.w) for _ in world.clients],
        local_steps,
    )


def ditto(world: World, *, lr: float, local_steps: int, penalty: float) -> Rounds:
    """Li et al. 2021, Algorithm 1."""
    v = [world.theta for _ in world.clients]

    def client(m: int, theta: Vector) -> Vector:
        v[m] = descend(lambda z: world.f.of_theta(m, z, world.w) + penalty * (z - theta), v[m], lr, local_steps)
        return descend(lambda z: world.f.of_theta(m, z, world.w), theta, lr, local_steps)

    return averaging(world, client, lambda theta: [(own, world.w) for own in v], 2 * local_steps)


def pfedme(world: World, *, lr: float, local_steps: int, penalty: float, inner_steps: int, inner_lr: float) -> Rounds:
    """Dinh et al. 2020, Algorithm 1: v minimizes f_m(v) + (λ/2)‖v − θ_m‖², here by a few gradient steps from θ_m."""
    v = [world.theta for _ in world.clients]

    def client(m: int, theta: Vector) -> Vector:
        for _ in range(local_steps):
            center = theta
            v[m] = descend(
                lambda z, center=center: world.f.of_theta(m, z, world.w) + penalty * (z - center),  # type: ignore[misc]
                center, inner_lr, inner_steps,
            )  # fmt: skip
            theta = theta - lr * penalty * (theta - v[m])
        return theta

    return averaging(world, client, lambda theta: [(own, world.w) for own in v], local_steps * inner_steps)


def apfl(world: World, *, lr: float, local_steps: int, mixing: float, mixing_lr: float) -> Rounds:
    """Deng et al. 2020, Algorithm 1: with u = αv + (1 − α)θ, ∂f(u)/∂v = α∇f(u) and ∂f(u)/∂α = ⟨v − θ, ∇f(u)⟩."""
    v, alpha = [world.theta for _ in world.clients], [mixing for _ in world.clients]

    def client(m: int, theta: Vector) -> Vector:
        for _ in range(local_steps):
            of_mixture = world.f.of_theta(m, alpha[m] * v[m] + (1 - alpha[m]) * theta, world.w)
            of_alpha = (v[m] - theta) @ of_mixture
            theta, v[m] = theta - lr * world.f.of_theta(m, theta, world.w), v[m] - lr * alpha[m] * of_mixture
            alpha[m] = float(np.clip(alpha[m] - mixing_lr * of_alpha, 0, 1))
        return theta

    def deployed(theta: Vector) -> list[tuple[Vector, Vector]]:
        return [(a * own + (1 - a) * theta, world.w) for a, own in zip(alpha, v, strict=True)]

    return averaging(world, client, deployed, 2 * local_steps)


# --- with local parameters


def fedsim(world: World, *, lr: float, local_steps: int) -> Rounds:
    """Pillutla et al. 2022: θ and w take their steps together."""
    w = [world.w for _ in world.clients]

    def client(m: int, theta: Vector) -> Vector:
        theta, w[m] = descend_both(world, m, theta, w[m], lr, local_steps)
        return theta

    return averaging(world, client, lambda theta: [(theta, own) for own in w], local_steps, local_steps)


def floral(world: World, *, lr: float, local_steps: int, router_lr: float) -> Rounds:
    """Almansoori et al. 2025 on a model without adaptors, which leaves no router to be trained; with adaptors in
    tests/algorithms/test_floral.py."""
    assert router_lr
    return fedsim(world, lr=lr, local_steps=local_steps)


def fedalt(world: World, *, lr: float, local_steps: int, fine_tuner: Settings) -> Rounds:
    """Pillutla et al. 2022: first w with θ fixed, then θ with w fixed."""
    w = [world.w for _ in world.clients]

    def client(m: int, theta: Vector) -> Vector:
        w[m] = tune(world.f, m, theta, w[m], **fine_tuner)
        return descend(lambda z: world.f.of_theta(m, z, w[m]), theta, lr, local_steps)

    return averaging(world, client, lambda theta: [(theta, own) for own in w], local_steps, num_gradients(fine_tuner))


def fedbabu(world: World, *, lr: float, local_steps: int, fine_tuner: Settings) -> Rounds:
    """Oh et al. 2022, Algorithm 1: the head is not trained before the end."""
    return fedavg(world, lr=lr, local_steps=local_steps)


def ffgg(world: World, *, lr: float, fine_tuner: Settings) -> Rounds:
    """Mishchenko et al. 2025, Algorithm 1: a gradient of θ at the w that was just tuned."""
    theta, w = world.theta, [world.w for _ in world.clients]
    for cohort in world.cohorts:
        for m in cohort:
            w[m] = tune(world.f, m, theta, w[m], **fine_tuner)
        gradient = world.mean({m: world.f.of_theta(m, theta, w[m]) for m in cohort})
        theta = theta - lr * world.direction(gradient)
        size = len(cohort)
        yield Round(theta, [(theta, own) for own in w], size, num_gradients(fine_tuner) * size, size, size)


def local_ffgg(world: World, *, lr: float, local_steps: int, fine_tuner: Settings) -> Rounds:
    """Mishchenko et al. 2025: FFGG's two steps several times before the mean."""
    w = [world.w for _ in world.clients]

    def client(m: int, theta: Vector) -> Vector:
        for _ in range(local_steps):
            w[m] = tune(world.f, m, theta, w[m], **fine_tuner)
            theta = theta - lr * world.f.of_theta(m, theta, w[m])
        return theta

    of_w = local_steps * num_gradients(fine_tuner)
    return averaging(world, client, lambda theta: [(theta, own) for own in w], local_steps, of_w)


def local_only(world: World, *, lr: float, local_steps: int) -> Rounds:
    """Nothing is sent."""
    models = [(world.theta, world.w) for _ in world.clients]
    for cohort in world.cohorts:
        for m in cohort:
            models[m] = descend_both(world, m, *models[m], lr, local_steps)
        count = local_steps * len(cohort)
        yield Round(world.theta, list(models), count, count)


def interpolation(world: World, *, lr: float, collaboration: float) -> Rounds:
    """Allouah et al. 2024: a gradient of one's own, and the mean of all clients' at one's own θ."""
    models = [(world.theta, world.w) for _ in world.clients]
    for cohort in world.cohorts:
        before, size = list(models), len(cohort)
        for m in cohort:
            theta, w = before[m]
            together = world.mean({j: world.f.of_theta(j, theta, before[j][1]) for j in cohort})
            own, of_w = world.f.of_both(m, theta, w)
            step = (1 - collaboration) * own + collaboration * together
            models[m] = theta - lr * step, w - lr * of_w
        # every answer, and each θ that is told and each mean that comes back
        yield Round(world.theta, list(models), size + size**2, size, size**2 + size, size**2 + size)


def pfedgraph(world: World, *, lr: float, local_steps: int, penalty: float) -> Rounds:
    """Ye et al. 2023: rows argmin λ‖a‖² + ⟨d_i − 2λp, a⟩ over the simplex, by where the derivative is one τ."""
    models = [(world.theta, world.w) for _ in world.clients]
    for cohort in world.cohorts:
        for m in cohort:
            models[m] = descend_both(world, m, *models[m], lr, local_steps)
        moved = np.array([models[m][0] - world.theta for m in cohort])
        lengths = np.linalg.norm(moved, axis=1)
        unlike = -(moved @ moved.T) / np.outer(lengths, lengths)
        unlike[unlike < -0.9] = -1.0
        p = world.weights[cohort] / world.weights[cohort].sum()
        for m, row in zip(cohort, unlike, strict=True):
            models[m] = world.theta + _shares(p - row / (2 * penalty)) @ moved, models[m][1]
        size = len(cohort)
        yield Round(world.theta, list(models), local_steps * size, local_steps * size, size, size)


def _shares(v: Vector) -> Vector:
    """(v − τ)₊ with sum 1, τ by bisection."""
    low, high = v.max() - 1.0, v.max()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(v - middle, 0).sum() > 1 else (low, middle)
    shares: Vector = np.maximum(v - high, 0)
    return shares


# --- with a memory at both ends


def scaffold(world: World, *, lr: float, local_steps: int) -> Rounds:
    """Karimireddy et al. 2020, Algorithm 1, option II; c = Σ_m n_m c_m / Σ_m n_m over all clients, always."""
    theta, w = world.theta, [world.w for _ in world.clients]
    c_of = [np.zeros_like(theta) for _ in world.clients]
    for cohort in world.cohorts:
        c = sum(n * own for n, own in zip(world.weights, c_of, strict=True)) / world.weights.sum()
        moved = {}
        for m in cohort:
            end = theta
            for _ in range(local_steps):
                of_theta, of_w = world.f.of_both(m, end, w[m])
                end, w[m] = end - lr * (of_theta - c_of[m] + c), w[m] - lr * of_w
            c_of[m] = c_of[m] - c + (theta - end) / (local_steps * lr)
            moved[m] = theta - end
        theta = theta - world.direction(world.mean(moved))
        size = len(cohort)
        count = local_steps * size
        yield Round(theta, [(theta, own) for own in w], count, count, 2 * size, 2 * size)


def l2gd(world: World, *, lr: float, penalty: float, probability: float) -> Rounds:
    """Hanzely & Richtárik 2020, Algorithm 1; with local parameters, these take part in gradient steps alone.

    The mean over all clients does not move while they move towards it, so only the first averaging after a gradient
    step sends something, and the next gradient step is what fetches the mean. With a sampled cohort it is the next
    cohort that moves, towards the mean over this one: every averaging sends, and the next round fetches.
    """
    M = len(world.clients)
    mean, has_moved, waits = world.theta, False, False  # the mean; since it was sent; for who fetches it
    x = [(world.theta, world.w) for _ in world.clients]

    def nearer(m: int) -> tuple[Vector, Vector]:
        return x[m][0] - lr * penalty / (M * probability) * (x[m][0] - mean), x[m][1]

    for k, cohort in enumerate(world.cohorts):
        averages, size = world.averages(k), len(cohort)
        fetched = waits and not (world.is_full and averages)
        if fetched and not world.is_full:
            x = [nearer(m) if m in cohort else x[m] for m in world.clients]
        sent = averages and (has_moved or not world.is_full)
        waits = sent or (waits and not fetched)
        if averages:
            mean = world.mean({m: x[m][0] for m in cohort})
            x = [nearer(m) for m in world.clients] if world.is_full else x
        else:
            step = lr / (M * (1 - probability))
            x = [descend_both(world, m, *x[m], step, 1) if m in cohort else x[m] for m in world.clients]
        has_moved = not averages
        deployed = [nearer(m) for m in world.clients] if averages and not world.is_full else list(x)
        count = 0 if averages else size
        yield Round(mean, deployed, count, count, size * sent, size * fetched)


# --- on the largest coordinates of θ


def mask(theta: Vector, ratio: float) -> Vector:
    """1 at the ⌊(1 − ρ) D⌋ largest |θ_j|, of equal ones the first."""
    order = np.lexsort((np.arange(len(theta)), -abs(theta)))
    kept = np.zeros(len(theta))
    kept[order[: len(theta) - int(np.ceil(ratio * len(theta)))]] = 1.0
    return kept


def masked(
    world: World, client: Callable[[int, Vector, Vector], Vector], w: list[Vector], ratio: float, lr: float,
    of_theta: float, of_w: float,
) -> Rounds:  # fmt: skip
    """θ ← θ − γ direction(Σ n M x / Σ n M), x = client(m, θ⊙M, M); a client that has not begun deploys all of θ."""
    theta, begun = world.theta, set[int]()
    for cohort in world.cohorts:
        M = mask(theta, ratio)
        x = {m: M * client(m, theta * M, M) for m in cohort}
        # with one ratio all masks are equal, and where they are 0 the mean is, too
        theta = theta - lr * world.direction(world.mean(x))
        begun |= set(cohort)
        now = theta * mask(theta, ratio)
        deployed = [(now if m in begun else theta, w[m]) for m in world.clients]
        size = len(cohort)
        yield Round(theta, deployed, of_theta * size, of_w * size, size * float(M.mean()) if len(M) else 0, size)


def pruned_fedalt(world: World, *, lr: float, local_steps: int, fine_tuner: Settings, ratios: float) -> Rounds:
    """FedAlt at θ⊙M."""
    w = [world.w for _ in world.clients]

    def client(m: int, start: Vector, M: Vector) -> Vector:
        w[m] = tune(world.f, m, start, w[m], **fine_tuner)
        return start - descend(lambda z: M * world.f.of_theta(m, z, w[m]), start, lr, local_steps)

    return masked(world, client, w, ratios, 1.0, local_steps, num_gradients(fine_tuner))


def pruned_fedsim(world: World, *, lr: float, local_steps: int, ratios: float) -> Rounds:
    """FedSim at θ⊙M."""
    w = [world.w for _ in world.clients]

    def client(m: int, start: Vector, M: Vector) -> Vector:
        theta = start
        for _ in range(local_steps):
            of_theta, of_w = world.f.of_both(m, theta, w[m])
            theta, w[m] = theta - lr * M * of_theta, w[m] - lr * of_w
        return start - theta

    return masked(world, client, w, ratios, 1.0, local_steps, local_steps)


def pruned_ffgg(world: World, *, lr: float, fine_tuner: Settings, ratios: float) -> Rounds:
    """FFGG at θ⊙M."""
    w = [world.w for _ in world.clients]

    def client(m: int, start: Vector, M: Vector) -> Vector:
        w[m] = tune(world.f, m, start, w[m], **fine_tuner)
        return world.f.of_theta(m, start, w[m])

    return masked(world, client, w, ratios, lr, 1, num_gradients(fine_tuner))


# --- the same formulas for other splits, and without mini-batches


fedper = lg_fedavg = fedsim
fedrep = fedalt
l2gd_theta = l2gd
local_gd = fedavg
scaffold_theta = scaffold
