"""Figure 3: FFGG under attack, with the mean and with robust rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppfl.analysis.figure import CATEGORICAL
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
from ppfl.analysis.paper.theory import System, system_of

TITLE = "Figure 3. Robust rules are enough when the split is overpersonalized, and only then"
SHOWN = (
    "The byzantine problem (32 honest clients with matrices of their own), exact w, γ = 1/L, beside them 10 "
    "attackers that send −10 times the vector of an honest client. F is over the honest clients."
)
PREDICTED = (
    "With a common θ* all honest gradients vanish together, and a robust rule that finds its way among them "
    "should follow gradient descent without attackers, F(θ_k) = (I − γS̄)^k F(θ_0), the dashed line. Without a "
    "common θ* honest clients disagree at the solution by σ*, attackers hide in this disagreement, and every rule "
    "comes to rest at a floor of that order (σ* is drawn as a dotted line; the floor itself depends on the rule "
    "and is measured). The mean is linear: here its matrix is I − γ(Σ_honest S_m − 10 Σ_flipped S_m)/42, with an "
    "eigenvalue above 1, so that it diverges, by a predicted factor a round."
)
RULES = {
    "none": ("no attackers, mean", CATEGORICAL[6]),
    "mean": ("mean", CATEGORICAL[3]),
    "median": ("median of buckets of 2", CATEGORICAL[1]),
    "geometric_median": ("geometric median", CATEGORICAL[2]),
    "trimmed_mean": ("nnm + trimmed mean", CATEGORICAL[0]),
}
TARGETS = {"common": "common θ*", "own": "own targets"}


def draw(runs: Sequence[Run]) -> Exhibit:
    """Draw a panel for common and one for own targets."""
    figure, [panel] = panels(1, 2)
    rows = []
    by_cell = grouped(runs, lambda run: (str(run.config.model_dump()["problem"]["targets"]), _rule(run)))
    for axes, targets in zip(panel, TARGETS, strict=True):
        axes.set_title(TARGETS[targets])
        axes.set_xlabel("communication round")
        for rule, (label, colour) in RULES.items():
            members = by_cell[targets, rule]
            draw_runs(axes, members[0].series["round"], spread([run.norms for run in members]), colour, label)
            rows.append((TARGETS[targets], label, *_numbers(targets, rule, members)))
        honest = by_cell[targets, "none"]
        draw_prediction(axes, honest[0].series["round"], spread([_curve(run) for run in honest]).median)
        sigma = median([_sigma(run) for run in honest])
        if targets == "own":
            axes.axhline(sigma, color="0.4", linewidth=1.0, linestyle=(0, (1, 1.5)), label="σ*")
        axes.set_ylim(top=1e3)
    add_legend(figure, panel)
    header = ("targets", "rule", "final ‖F‖, or growth a round", "predicted", "run / predicted")
    return Exhibit(figure, Words(TITLE, SHOWN, PREDICTED, header, tuple(rows)))


def _numbers(targets: str, rule: str, members: Sequence[Run]) -> tuple[str, str, str]:
    if rule == "mean":
        growths = [_growth(run) for run in members]
        predicted = [_predicted_growth(run) for run in members]
        return f"grows {text(median(growths))} × a round", f"{text(median(predicted))} ×", ratios(growths, predicted)
    finals = [run.final for run in members]
    if targets == "own" and rule != "none":
        return text(median(finals)), f"of the order of σ* = {text(median([_sigma(run) for run in members]))}", "–"
    expected = [late_mean(_curve(run), run.rounds) for run in members]
    return text(median(finals)), text(median(expected)), ratios(finals, expected)


def _growth(run: Run) -> float:
    """Return the mean factor of ‖F‖ a round over the evaluations at which it was finite."""
    finite = np.flatnonzero(np.isfinite(run.norms))
    first, last = finite[0], finite[-1]
    return float((run.norms[last] / run.norms[first]) ** (1.0 / (run.rounds[last] - run.rounds[first])))


def _predicted_growth(run: Run) -> float:
    """Return the same factor for the linear recursion of the mean, attackers included."""
    clients, attackers = _system(run).personalized, run.config.byzantine
    assert attackers is not None
    flips = attackers.model_dump()["attack"]["factor"]
    votes = np.ones(clients.number)
    votes[: attackers.num_beside] -= flips
    recursion = clients.gradient_descent(1.0 / clients.smoothness, votes / (clients.number + attackers.num_beside))
    finite = [round for round, norm in zip(run.rounds, run.norms, strict=True) if np.isfinite(norm)]
    norms = clients.norms(recursion, [finite[0], finite[-1]])
    return float((norms[1] / norms[0]) ** (1.0 / (finite[-1] - finite[0])))


def _system(run: Run) -> System:
    return system_of(run.config.model_copy(update={"byzantine": None}))  # attackers beside have no part in it


def _curve(run: Run) -> Floats:
    clients = _system(run).personalized
    return clients.norms(clients.gradient_descent(1.0 / clients.smoothness), run.rounds)


def _sigma(run: Run) -> float:
    clients = _system(run).personalized
    gradients = clients.hessians @ clients.solution - clients.linears
    return float(np.sqrt((gradients**2).sum(axis=1).mean()))


def _rule(run: Run) -> str:
    return "none" if run.config.byzantine is None else run.config.aggregator.name
