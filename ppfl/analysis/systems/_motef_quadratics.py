"""MoTEF on quadratics: what heterogeneity, momentum and the number of nodes do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppfl.analysis.figure import CATEGORICAL
from ppfl.analysis.systems._motef_runs import (
    BEER,
    CHOCO,
    COLOURS,
    DSGD,
    MOTEF,
    NAMES,
    PAPER,
    REPLICA,
    TRACKING,
    by_method,
    draw,
    median_end,
    panels,
    series,
    squared_norms,
    told,
)
from ppfl.analysis.systems.study import Claim, Picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ppfl.analysis.systems.runs import Run

TRACKERS = (TRACKING, BEER, MOTEF)
ZERO = 1e-20
"""Of ‖∇f(x̄)‖², which began between 5 and 700."""
_LEAST_OF_MOMENTUM = 2.0
"""How much less is asked of the momentum than the replica's factor of 10, whose noise had another law."""
_NEAR = 0.25
"""Of the slope of a floor against the number of nodes: medians over three seeds of what varies by a tenth."""


def claims_of_heterogeneity(runs: Sequence[Run]) -> list[Claim]:
    """Return what quadratics without noise say, whose ζ are told apart."""
    by_zeta = _by_zeta(runs)
    low, high = min(by_zeta), max(by_zeta)
    # the worst of all, since each of them is to get there
    last = {
        name: max(float(squared_norms(run)[-1]) for of_zeta in by_zeta.values() for run in of_zeta[name])
        for name in TRACKERS
    }
    floors = {name: {zeta: median_end(of_zeta[name]) for zeta, of_zeta in by_zeta.items()} for name in (DSGD, CHOCO)}
    ratios = {name: of_name[high] / of_name[low] for name, of_name in floors.items()}
    wanted = (high / low) ** 2
    # both numbers are of one recursion that is linear in b, so that the ratio is known to rounding
    off = max(abs(ratio / wanted - 1.0) for ratio in ratios.values())
    worst = max(last.values())
    return [
        Claim(
            "Without noise all that track gradients go to 0, however unlike the nodes are.", PAPER + "; " + REPLICA,
            f"‖∇f(x̄)‖² at most {ZERO:.0e} in the end, for every ζ and seed", f"largest: {told(last)}",
            f"{worst:.1e}", worst <= ZERO,
        ),
        Claim(
            "DSGD and Choco-SGD stop, at ‖∇f(x̄)‖² ∝ ζ².", "derived: both are homogeneous of degree 1 in b",
            f"{wanted:.0f} times as much at ζ = {high:g} as at ζ = {low:g}",
            "; ".join(f"{NAMES[name]} {of_name[low]:.2e} and {of_name[high]:.2e}" for name, of_name in floors.items()),
            f"{off:.1e} of the ratio", off <= 1e-6 and min(floors[DSGD][low], floors[CHOCO][low]) > ZERO,
        ),
    ]  # fmt: skip


def claims_of_noise(runs: Sequence[Run]) -> list[Claim]:
    """Return what the momentum does, and what more nodes do."""
    by_momentum, by_nodes = _by_momentum(runs), _by_nodes(runs)
    levels = {level: median_end(of_level) for level, of_level in sorted(by_momentum.items(), reverse=True)}
    factor = levels[1.0] / min(levels.values())
    ends = {number: median_end(of_number) for number, of_number in sorted(by_nodes.items())}
    # over all four, where the first and the last alone would be two draws
    slope = float(np.polyfit(np.log(list(ends)), np.log(list(ends.values())), 1)[0])
    return [
        Claim(
            "With noise the momentum lowers the floor: λ = 1 is BEER.", f"{PAPER}; {REPLICA}",
            "floor falls with λ; the replica's 3.1e-3, 8.7e-4, 4.1e-4, 3.1e-4 for λ = 1, 0.5, 0.05, 0.005 are of "
            "another law of noise and other steps, so by order, and by a factor of 2 at least",
            ", ".join(f"λ = {level:g}: {value:.1e}" for level, value in levels.items()), f"factor {factor:.1f} for 10",
            factor >= _LEAST_OF_MOMENTUM and levels[1.0] == max(levels.values()),
        ),
        Claim(
            "With n nodes of one problem the floor is 1/n of that of one.", PAPER + ": σ²/(nε⁴)",
            "slope −1 of log ‖∇f(x̄)‖² against log n",
            ", ".join(f"n = {number}: {value:.1e}" for number, value in ends.items()),
            f"slope {slope:.2f}", abs(slope + 1.0) <= _NEAR,
        ),
    ]  # fmt: skip


def pictures(exact: Sequence[Run], noisy: Sequence[Run]) -> list[Picture]:
    """Return the floors and rates in one figure."""
    figure, axes = panels(3)
    by_zeta = _by_zeta(exact)
    for zeta, style in zip(sorted(by_zeta), ("-", "--"), strict=False):
        for name in NAMES:
            label = NAMES[name] if style == "-" else "_"
            draw(axes[0], by_zeta[zeta][name], lambda run: series(run, "round"), squared_norms, label, COLOURS[name],
                 style)  # fmt: skip
    axes[0].set_title(f"no noise, ζ = {', '.join(f'{zeta:g}' for zeta in sorted(by_zeta))} (dashed)")
    axes[0].legend(fontsize=8)
    by_momentum = _by_momentum(noisy)
    for level, colour in zip(sorted(by_momentum, reverse=True), CATEGORICAL, strict=False):
        draw(axes[1], by_momentum[level], lambda run: series(run, "round"), squared_norms, f"λ = {level:g}", colour)
    axes[1].set_title("noisy gradients, ring of 16")
    axes[1].legend(fontsize=8)
    ends = {number: [median_end([run]) for run in of_number] for number, of_number in sorted(_by_nodes(noisy).items())}
    middle = {number: float(np.median(values)) for number, values in ends.items()}
    # three seeds are too few for a band
    for number, values in ends.items():
        axes[2].plot([number] * len(values), values, "o", color=CATEGORICAL[0], markersize=4)
    first = min(middle)
    axes[2].plot(list(middle), [middle[first] * first / number for number in middle], color="0.5", label="∝ 1/n")
    axes[2].set_title("noisy gradients, complete graph of n")
    axes[2].set_xscale("log", base=2)
    axes[2].legend(fontsize=8)
    for one, what in zip(axes, ("round", "round", "nodes n"), strict=True):
        one.set_yscale("log")
        one.set_xlabel(what)
    axes[0].set_ylabel("‖∇f(x̄)‖²")
    caption = (
        "Quadratics, medians of the seeds with the lowest and the highest of them. Left: without noise, who tracks "
        "gradients goes down to rounding, whatever ζ; DSGD and Choco-SGD stop, 100 times as high at ten times the ζ. "
        "Middle: with noise a momentum lowers where MoTEF stops. Right: floors of MoTEF on n nodes, and 1/n."
    )
    return [Picture("motef-quadratics", figure, caption)]


def _by_zeta(runs: Sequence[Run]) -> dict[float, dict[str, list[Run]]]:
    zetas = sorted({float(run.result.config["problem"]["zeta"]) for run in runs})
    return {zeta: by_method([run for run in runs if run.result.config["problem"]["zeta"] == zeta]) for zeta in zetas}


def _by_momentum(runs: Sequence[Run]) -> Mapping[float, list[Run]]:
    return _by(runs, "graded", ("algorithm", "momentum"))


def _by_nodes(runs: Sequence[Run]) -> Mapping[float, list[Run]]:
    return _by(runs, "equal", ("problem", "clients"))


def _by(runs: Sequence[Run], scales: str, key: tuple[str, str]) -> dict[float, list[Run]]:
    """Return the runs with these scales by a number of their configurations."""
    found: dict[float, list[Run]] = {}
    for run in runs:
        if run.result.config["problem"]["scales"] == scales:
            found.setdefault(run.result.config[key[0]][key[1]], []).append(run)
    return found
