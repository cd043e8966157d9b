"""Figure 4: the abstract of the paper in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ppfl.analysis.figure import CATEGORICAL
from ppfl.analysis.paper.exhibit import OPERATOR, Exhibit, Words, add_legend, median, panels, ratios, text
from ppfl.analysis.paper.runs import Run, grouped, late_mean, spread
from ppfl.analysis.paper.theory import system_of

TITLE = "Figure 4. What breaks under heterogeneity, and what overpersonalization mends"
SHOWN = (
    "Final ‖F(θ)‖ in units of ‖F(θ_0)‖ on the comparison problem (8 clients, exact w, γ = 1/L) for four troubles: "
    "2 of 8 clients a round, 5 local steps, asynchronous arrivals, 2 attackers that flip signs tenfold (nnm and "
    "trimmed mean). Filled: own targets. Open: a common θ* exists, that is, the split is overpersonalized. "
    "Markers are medians, bars go from the lowest to the highest of the seeds."
)
PREDICTED = (
    "Own targets: each trouble has a floor. That of 2 of 8 clients is sqrt(γ(M − n)/(n(M − 1)) Σ λ_i c_i/(2 − "
    "γλ_i)), c the variance of the clients' gradients at θ*; that of local steps and of arrivals in turn is ‖F‖ "
    "at the fixed point of a linear recursion (no floor for local steps at ζ = 0, where all S_m agree: there "
    "rounds are the limit); that of attackers depends on the rule and is measured. With a common θ* all these "
    "floors are 0, and what is left is the rate: (I − γS̄)^k F(θ_0) with k rounds (for 5 local steps the product "
    "of the clients' own, for asynchronous runs one round is 8 arrivals). Predictions are short black lines."
)
TROUBLES = {
    "sampling": "2 of 8 clients",
    "local": "5 local steps",
    "asynchronous": "asynchronous",
    "byzantine": "2 attackers",
}
TARGETS = {"own": ("own targets", -0.15, True), "common": ("common θ*", 0.15, False)}
"""Name, place beside the tick, filled marker."""


def draw(runs: Sequence[Run]) -> Exhibit:
    """Draw a panel for every trouble, heterogeneity to the right."""
    figure, [panel] = panels(1, len(TROUBLES), legend_width=1.6)
    by_cell = grouped(runs, lambda run: (_trouble(run), _targets(run), _zeta(run)))
    zetas = sorted({_zeta(run) for run in runs})
    rows = []
    for axes, (trouble, title), colour in zip(panel, TROUBLES.items(), CATEGORICAL, strict=False):
        axes.set_title(title)
        axes.set_xlabel("heterogeneity ζ")
        axes.set_xticks(range(len(zetas)), [f"{zeta:g}" for zeta in zetas])
        for targets, (label, shift, _) in TARGETS.items():
            for number, zeta in enumerate(zetas):
                members = by_cell[trouble, targets, zeta]
                expectations = [_expected(run) for run in members]
                _draw_cell(axes, number + shift, members, expectations, colour)
                finals = [run.final for run in members]
                expected = text(median(expectations)) if np.isfinite(expectations).all() else "measured"
                row = (title, label, f"{zeta:g}", text(median(finals)), expected)
                rows.append((*row, ratios(finals, expectations)))
    panel[0].set_ylabel(f"final {OPERATOR}, relative")
    for label, _, filled in TARGETS.values():
        panel[0].plot([], [], label=label, linestyle="", **_marker("0.3", filled))
    panel[0].plot([], [], color="black", linewidth=1.2, label="predicted")
    add_legend(figure, [panel[0]])
    header = ("trouble", "targets", "ζ", "final ‖F‖", "predicted", "run / predicted")
    return Exhibit(figure, Words(TITLE, SHOWN, PREDICTED, header, tuple(rows)))


def _draw_cell(axes: Axes, position: float, members: Sequence[Run], expected: Sequence[float], colour: str) -> None:
    finals = spread([run.final / run.norms[0] for run in members])
    bars = np.array([finals.median - finals.lowest, finals.highest - finals.median])
    marker = _marker(colour, TARGETS[_targets(members[0])][2])
    axes.errorbar([position], finals.median, yerr=bars, capsize=3, linestyle="", **marker)
    if np.isfinite(expected).all():
        height = np.median([value / run.norms[0] for value, run in zip(expected, members, strict=True)])
        axes.hlines(height, position - 0.13, position + 0.13, color="black", linewidth=1.2, zorder=5)


def _marker(colour: str, filled: bool) -> dict[str, Any]:
    return {"color": colour, "marker": "o" if filled else "s", "markerfacecolor": colour if filled else "white"}


def _expected(run: Run) -> float:
    """Return the predicted final ‖F‖: the rate or the floor, whichever is larger; NaN when it is only measured."""
    config = run.config.model_copy(update={"byzantine": None})
    clients, trouble = system_of(config).personalized, _trouble(run)
    lr = 1.0 / clients.smoothness
    if trouble == "local":
        recursion = clients.local_steps(lr, run.config.model_dump()["algorithm"]["local_steps"])
        return late_mean(clients.norms(recursion, run.rounds), run.rounds)
    per_round = clients.number if trouble == "asynchronous" else 1
    curve = clients.norms(clients.gradient_descent(lr), [round // per_round for round in run.rounds])
    rate = late_mean(curve, run.rounds)
    if _targets(run) == "common":
        return rate
    if trouble == "byzantine":
        return np.nan
    if trouble == "sampling":
        assert isinstance(run.config.cohort, int)
        return float(np.hypot(rate, clients.sampling_floor(lr, run.config.cohort)))
    return max(rate, clients.norm(clients.cyclic_arrivals(lr / clients.number).fixed_point))


def _trouble(run: Run) -> str:
    config = run.config
    if config.byzantine is not None:
        return "byzantine"
    if config.asynchronous is not None:
        return "asynchronous"
    return "local" if config.algorithm.name == "local_ffgg" else "sampling"


def _targets(run: Run) -> str:
    return str(run.config.model_dump()["problem"]["targets"])


def _zeta(run: Run) -> float:
    return float(run.config.model_dump()["problem"]["zeta"])
