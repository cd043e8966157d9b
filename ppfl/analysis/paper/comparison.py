"""Figures 1b–d: FFGG against the baselines, for several numbers of local steps and several heterogeneities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppfl.analysis.figure import CATEGORICAL
from ppfl.analysis.paper.exhibit import (
    Exhibit,
    Words,
    add_legend,
    draw_floor,
    draw_prediction,
    draw_runs,
    factor,
    panels,
    text,
)
from ppfl.analysis.paper.runs import Floats, Run, grouped, late_mean, spread
from ppfl.analysis.paper.theory import system_of

TITLE = "Figures 1b–d. FFGG against Local GD, Scaffold and L2GD"
SHOWN = (
    "The comparison problem (8 clients, own targets), all clients in every round, τ local steps. FFGG takes them "
    "on w alone; the others on everything that they train. Baselines are shown as published, with θ and w shared, "
    "and with θ shared and w local (FedSim is Local GD with local w). All are scored by the same ‖F(θ)‖, at "
    "w*(θ). L2GD has no rounds: it averages with probability 1/(τ + 1), and its axis counts averagings; what it shares "
    "it only pulls together, and the mean is scored. Every method has the step size with the least final ‖F‖ among "
    "six, chosen on another seed."
)
PREDICTED = (
    "FFGG with exact w is gradient descent on F (dashed); with warm w and few steps it follows as w tracks w*(θ). "
    "Local GD, with w shared or local, is a linear recursion whose fixed point is not θ* unless all S_m agree: the "
    "dotted floors in the colours of the curves. Scaffold with everything shared and L2GD approach the solutions of"
    " other problems (one w for all; a penalty, on everything or on θ), at which ‖F‖ is known too. Scaffold with "
    "local w has θ* as its fixed point: it removes the drift by remembering one vector more a client, and where it "
    "is stable it profits from local steps."
)
ROUNDING = 1e-12
"""Floors below this fraction of ‖F(θ_0)‖ are none."""
METHODS = {
    "ffgg": ("FFGG", CATEGORICAL[0], "-"),
    "local_gd": ("Local GD, all shared", CATEGORICAL[1], "-"),
    "fedsim": ("Local GD, θ shared", CATEGORICAL[1], "--"),
    "scaffold": ("Scaffold, all shared", CATEGORICAL[2], "-"),
    "scaffold_theta": ("Scaffold, θ shared", CATEGORICAL[2], "--"),
    "l2gd": ("L2GD, all shared", CATEGORICAL[3], "-"),
    "l2gd_theta": ("L2GD, θ shared", CATEGORICAL[3], "--"),
}


def draw(runs: Sequence[Run]) -> Exhibit:
    """Draw a panel for every heterogeneity and number of local steps that there is."""
    by_panel = grouped(sorted(runs, key=_panel), _panel)
    figure, grid = panels(1, len(by_panel))
    rows = []
    for axes, ((zeta, steps), in_panel) in zip(grid[0], by_panel.items(), strict=True):
        axes.set_title(f"ζ = {zeta:g}, τ = {steps}")
        axes.set_xlabel("communications")
        groups = grouped(in_panel, lambda run: run.config.algorithm.name)
        for name, (label, colour, style) in METHODS.items():
            if name not in groups:
                continue
            members = groups[name]
            draw_runs(axes, _communications(members[0]), spread([r.norms for r in members]), colour, label, style)
            final = float(np.median([run.final for run in members]))
            expected = float(np.median([_expected(run) for run in members]))
            has_floor = expected > ROUNDING * members[0].norms[0]
            if name != "ffgg" and has_floor:
                draw_floor(axes, expected, colour)
            row = (f"{zeta:g}", str(steps), label, text(_section(members[0])["lr"]), text(final))
            rows.append(
                (*row, text(expected) if has_floor else "no floor", factor(final, expected if has_floor else 0))
            )
        ffgg = groups["ffgg"]
        draw_prediction(axes, ffgg[0].series["round"], spread([_curve(run) for run in ffgg]).median, "FFGG, exact w")
    add_legend(figure, grid[0])
    header = ("ζ", "τ", "method", "step size", "final ‖F‖", "predicted (FFGG) or floor", "run / predicted")
    return Exhibit(figure, Words(TITLE, SHOWN, PREDICTED, header, tuple(rows)))


def _section(run: Run) -> dict[str, float]:
    section: dict[str, float] = run.config.model_dump()["algorithm"]
    return section


def _panel(run: Run) -> tuple[float, int]:
    """Heterogeneity and local steps; of FFGG those on w, of L2GD those between two averagings on average."""
    section = run.config.model_dump()
    algorithm = section["algorithm"]
    steps = algorithm.get("local_steps") or (algorithm.get("fine_tuner") or {}).get("steps")
    return section["problem"]["zeta"], steps or round(1.0 / algorithm["probability"]) - 1


def _communications(run: Run) -> Floats:
    return run.series["round"] * _section(run).get("probability", 1.0)


def _curve(run: Run) -> Floats:
    clients = system_of(run.config).personalized
    return clients.norms(clients.gradient_descent(_section(run)["lr"]), run.rounds)


def _expected(run: Run) -> float:
    """Return the predicted final ‖F‖ of FFGG, and the ‖F‖ at which the others come to rest."""
    system, section, name = system_of(run.config), _section(run), run.config.algorithm.name
    D = len(system.personalized.mean_linear)
    norm, whole = system.personalized.norm, system.whole
    if name == "ffgg":
        return late_mean(_curve(run), run.rounds)
    if name in ("local_gd", "fedsim"):
        num_shared = D if name == "fedsim" else None
        return norm(whole.local_steps(section["lr"], int(section["local_steps"]), num_shared).fixed_point)
    if name in ("l2gd", "l2gd_theta"):
        penalized = whole if name == "l2gd" else system.personalized
        return norm(penalized.penalized_mean(section["penalty"]))
    return norm(whole.solution) if name == "scaffold" else 0.0
