"""σ²(θ), how much the clients still pull on θ once each has tuned its own w, and the gap between train and test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ppfl.core.params import flatten, map_params
from ppfl.interfaces.client_data import SampledData, at_step, join, num_samples
from ppfl.rows.exact_sum import ExactSum

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.core.types import Data, Params
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.client_data import ClientData
    from ppfl.interfaces.problem import Problem

NUM_BATCHES = 8
"""Mini-batches in each of the two independent halves of a gradient estimate."""

_TRAIN_LOSS = "train_loss"


@dataclass(frozen=True)
class Measurement:
    """What is found at one θ over the M honest clients with training samples, in client order; alike on all ranks."""

    squares: dict[str, np.ndarray]
    """{group: (M,)}: unbiased estimates of the group's part of ‖∇_1 f_m(θ, w_m)‖², which may be negative."""
    common: float
    """Estimate of ‖F(θ)‖², F(θ) the mean of the clients' gradients: the part of σ² that more rounds would remove."""
    memorized_gap: float
    """Of the problem."""
    scores: dict[str, np.ndarray]
    """{metric: (M,)} with the tuned w: `train_loss`, and what the problem scores; NaN for clients without samples."""
    is_tested: np.ndarray
    """(M,), whether the client has test samples: NaN of one that has them is a number that is lost, and shows."""

    @property
    def client_squares(self) -> np.ndarray:
        """‖∇_1 f_m‖² over all groups, (M,)."""
        total: np.ndarray = sum(self.squares.values(), np.zeros(len(self.scores[_TRAIN_LOSS])))
        return total


def group_of(parameter: str) -> str:
    """Return the stage that a parameter belongs to: conv1 for conv1.weight, and theta for theta."""
    return parameter.rpartition(".")[0] or parameter


def measure(setup: Setup, shared: Params, start: Callable[[int], Params], first_draw: int) -> Measurement:
    """σ²(θ) = (1/M) Σ_m ‖∇_1 f_m(θ, w_m)‖² by groups, w_m tuned from start(m) at fixed θ. Collective.

    `first_draw` is the first number of a round whose batches no training has seen. Where the problem knows w_m*(θ),
    that is taken; where data are not drawn, gradients are exact.
    """
    problem, data = setup.problem, setup.problem.client_data
    groups = list(dict.fromkeys(map(group_of, shared)))
    clients = [client for client in setup.roles.honest if data.num_train_samples[client] > 0]
    length = sum(value.numel() for value in shared.values())
    halves = tuple(ExactSum(length, device=setup.device) for _ in range(2))
    rows: list[list[float]] = []
    names: list[str] = []
    for client in clients:
        whole = join(data.training_epoch(client, 0))
        local = tuned_local(setup, shared, start(client), client, whole)
        # two halves with noise of their own: the square of one estimate would count its variance as a pull on θ
        pair = gradient_pair(problem, shared, local, client, first_draw)
        for half, gradient in zip(halves, pair, strict=True):
            if gradient:
                half.add(flatten(gradient))
        with torch.no_grad():
            train_loss = float(problem.scores.data_loss(shared, local, _as_scored(data, client, whole)))
        scores = {_TRAIN_LOSS: train_loss, **problem.scores.client_metrics(shared, local, client)}
        names = list(scores)
        rows.append([*_inner_by_group(groups, *pair).values(), *scores.values()])
    return _gathered(setup, groups, names, rows, halves)


def _as_scored(data: ClientData, client: int, whole: Data) -> Data:
    """Return the training samples as the test samples are scored: as stored, and with nothing dropped."""
    if not isinstance(data, SampledData) or not data.changes_training:
        return whole
    return data.samples(client, "train", torch.arange(data.num_train_samples[client]))


def tuned_local(setup: Setup, shared: Params, local: Params, client: int, data: Data) -> Params:
    """w ← w*(θ) where it has a closed form, otherwise `evaluate.tuned`'s fine-tuner on all training samples."""
    objective, tuner = setup.problem.objective, setup.tuned_fine_tuner or setup.algorithm.fine_tuner_of_clients
    if not local:
        return local
    # θ is fixed while w is tuned, so that the shared stages run once
    data = objective.advance(shared, data)
    if not objective.needs_iterations:
        return objective.exact_local(shared, data)
    if tuner is None:
        return local
    for call in range(max(setup.tuned_epochs, 1)):
        draws = tuner.draws(objective, client, setup.num_rounds + call, num_samples(data))
        start = tuner.begin(local, draws) if call == 0 else local
        local = tuner.tune(objective, shared, start, at_step(data, call, "call"), draws).local
    return local


def gradient_pair(
    problem: Problem, shared: Params, local: Params, client: int, first_draw: int
) -> tuple[Params, Params]:
    """Return two independent unbiased estimates of ∇_1 f_m(θ, w), float64, each over NUM_BATCHES drawn batches.

    E⟨g, g'⟩ = ‖∇_1 f_m‖², while E‖g‖² = ‖∇_1 f_m‖² + the variance of g. The gradient itself, twice, when data are not
    drawn. Gradients are whole, whatever bounds their norms in training: a bound at θ₀ would make ρ too large.
    """
    if problem.client_data.fixed_data:
        gradient = _gradient(problem, shared, local, client, first_draw)
        return gradient, gradient
    draws = range(first_draw, first_draw + 2 * NUM_BATCHES)
    return (
        _mean_gradient(problem, shared, local, client, draws[:NUM_BATCHES]),
        _mean_gradient(problem, shared, local, client, draws[NUM_BATCHES:]),
    )


def _mean_gradient(problem: Problem, shared: Params, local: Params, client: int, draws: range) -> Params:
    total = _gradient(problem, shared, local, client, draws[0])
    for draw in draws[1:]:
        # in float64 and in the order of draws, whatever the precision of the run
        total = map_params(torch.add, total, _gradient(problem, shared, local, client, draw))
    return map_params(lambda value: value / len(draws), total)


def _gradient(problem: Problem, shared: Params, local: Params, client: int, draw: int) -> Params:
    gradient = problem.objective.unclipped().shared_gradient(shared, local, problem.client_data.data(client, draw))
    return {name: value.to(torch.float64) for name, value in gradient.items()}


def _inner_by_group(groups: list[str], one: Params, other: Params) -> dict[str, float]:
    """⟨g, g'⟩, cut by groups of parameters."""
    found = dict.fromkeys(groups, 0.0)
    for name, value in one.items():
        found[group_of(name)] += float((value * other[name]).sum())
    return found


def _gathered(
    setup: Setup, groups: list[str], names: list[str], rows: list[list[float]], halves: tuple[ExactSum, ...]
) -> Measurement:
    """Put together what the ranks have found. Collective."""
    communicator = setup.communicator
    # a rank whose clients have no training samples has no row, and does not know how long one is
    widths = communicator.allgather_rows(torch.tensor([len(row) for row in rows[:1]], dtype=torch.int64))
    mine = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), int(widths[0]))
    everyone = communicator.allgather_rows(mine).numpy()
    columns = [np.ascontiguousarray(column) for column in everyone.T]
    one, other = (half.reduce(communicator) / len(everyone) for half in halves)
    names = names or _score_names(setup.problem)
    return Measurement(
        squares=dict(zip(groups, columns[: len(groups)], strict=True)),
        common=float((one * other).sum()),
        memorized_gap=setup.problem.scores.memorized_gap,
        scores=dict(zip(names, columns[len(groups) :], strict=True)),
        is_tested=_is_tested(setup),
    )


def _score_names(problem: Problem) -> list[str]:
    """Names of the scores, for a rank whose clients have no training samples."""
    client, objective = problem.client_data.clients.start, problem.objective
    return [_TRAIN_LOSS, *problem.scores.client_metrics(objective.init_shared(), objective.init_local(client), client)]


def _is_tested(setup: Setup) -> np.ndarray:
    """Return whether the clients of a Measurement have test samples, (M,)."""
    num_tested, sizes = setup.problem.scores.metric_weights("test_loss"), setup.problem.client_data.num_train_samples
    measured = (m for m, size in enumerate(sizes) if size > 0 and m not in setup.roles.byzantine)
    return np.array([num_tested[client] > 0 for client in measured], dtype=bool)


def mean_of_tested(found: Measurement, metric: str) -> float:
    """Mean over the clients that have test samples; NaN when none has."""
    if metric not in found.scores or not found.is_tested.any():
        return math.nan
    return float(found.scores[metric][found.is_tested].mean())


def gap(found: Measurement) -> float:
    """Test loss − train loss, mean over the clients that have test samples; NaN where nothing is tested."""
    if "test_loss" not in found.scores or not found.is_tested.any():
        return math.nan
    return float((found.scores["test_loss"] - found.scores[_TRAIN_LOSS])[found.is_tested].mean())
