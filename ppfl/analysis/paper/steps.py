"""Figure 1a: how many steps of conjugate gradients it takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppfl.analysis.factors import Factor
from ppfl.analysis.figure import colours_of
from ppfl.analysis.paper.exhibit import (
    Exhibit,
    Words,
    add_legend,
    draw_prediction,
    draw_runs,
    median,
    panels,
    ratios,
    text,
)
from ppfl.analysis.paper.runs import Floats, Run, grouped, late_mean, spread
from ppfl.analysis.paper.theory import system_of

TITLE = "Figure 1a. A few steps of conjugate gradients are as good as exact w"
SHOWN = (
    "FFGG on the comparison problem (8 clients, d_θ = 100, d_w = 50, ζ = 1, own targets), all clients in every "
    "round, w drawn anew in every round and improved by so many steps of conjugate gradients before the gradient "
    "of θ is taken."
)
PREDICTED = (
    "With exact w the rounds are gradient descent on F: F(θ_k) = (I − γS̄)^k F(θ_0), S̄ the mean Hessian of F_m, "
    "drawn as the dashed line. Each step of conjugate gradients brings w closer to w*(θ) by a factor that the "
    "spectrum of BᵀB bounds, so that too few steps leave an error in the gradient that does not fade (a floor, "
    "measured here), and enough of them give the exact curve. To the right: |run/predicted − 1|."
)
TINY = 1e-16
"""Added to relative distances, so that none of them is missing from a logarithmic axis."""


def draw(runs: Sequence[Run]) -> Exhibit:
    """Draw ‖F‖ against rounds, and how far it is from the prediction; a colour for each number of steps."""
    figure, [[left, right]] = panels(1, 2, same_y=False)
    groups = grouped(runs, _label)
    numbers = tuple(float(level) if level.isdigit() else np.inf for level in groups)
    colours = colours_of(Factor(("steps",), tuple(groups), numbers))
    rounds = runs[0].series["round"]
    predictions = {run.config.seed: _curve(run) for run in groups["exact"]}
    rows = []
    for label, members in groups.items():
        curves = [predictions[run.config.seed] for run in members]
        name = f"{label} step{'s' if label != '1' else ''}" if label.isdigit() else label
        draw_runs(left, rounds, spread([run.norms for run in members]), colours[label], name)
        away = [np.abs(run.norms / curve - 1.0) + TINY for run, curve in zip(members, curves, strict=True)]
        draw_runs(right, rounds, spread(away), colours[label], name)
        finals = [run.final for run in members]
        expected = [late_mean(c, r.rounds) for c, r in zip(curves, members, strict=True)]
        largest = text(float(max(distance.max() for distance in away)))
        rows.append((label, text(median(finals)), text(median(expected)), ratios(finals, expected), largest))
    draw_prediction(left, rounds, spread(list(predictions.values())).median, "predicted, exact w")
    right.set_ylabel("relative distance from prediction")
    for axes in (left, right):
        axes.set_xlabel("communication round")
    add_legend(figure, [left])
    header = ("CG steps", "final ‖F‖", "predicted", "run / predicted", "largest distance")
    return Exhibit(figure, Words(TITLE, SHOWN, PREDICTED, header, tuple(rows)))


def _label(run: Run) -> str:
    tuner = run.config.algorithm.fine_tuner_of_clients
    return str(getattr(tuner, "steps", "exact"))


def _curve(run: Run) -> Floats:
    clients = system_of(run.config).personalized
    return clients.norms(clients.gradient_descent(_lr(run)), run.rounds)


def _lr(run: Run) -> float:
    lr = run.config.model_dump()["algorithm"]["lr"]
    assert not isinstance(lr, str), "the figure needs the same step for exact and inexact w, hence a number"
    return float(lr)
