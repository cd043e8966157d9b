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
    median,
    panels,
    ratios,
    text,
)
from ppfl.analysis.paper.runs import Floats, Run, grouped, late_mean, spread
from ppfl.analysis.paper.theory import system_of

TITLE = "Figures 1b–d. FFGG against Local GD, Scaffold and L2GD"
SHOWN = (
    "The comparison problem (8 clients, own targets), all clients in every round, τ local steps. FFGG takes them "
    "on w alone; the others on everything that they train. Baselines are shown as published, with θ and w shared, "
    "and with θ shared and w local (FedSim is Local GD with local w). All are scored by the same ‖F(θ)‖, at "
    "w*(θ). L2GD has no rounds: it averages with probability p, k iterations make about p(1 − p)k communications, and "
    "one costs 1/p gradients: p = 1/τ is equal work. For τ = 1 there is no such p; p = 1/2 is shown "
    "there, two gradients a communication. Its axis counts the communications that were made; what it shares it only "
    "pulls together, and the mean is scored. Every method has the step size with the least final ‖F‖ among six, "
    "chosen on another seed. At equal bytes: ‖F‖ at the last evaluation until which a method has sent, up and down, at "
    "most as many bytes as FFGG in all; Scaffold with θ shared, which sends twice as many a round, is half way then."
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
    by_panel = _by_panel(runs)
    figure, grid = panels(1, len(by_panel))
    rows = []
    for axes, ((zeta, steps), in_panel) in zip(grid[0], by_panel.items(), strict=True):
        axes.set_title(f"ζ = {zeta:g}, τ = {steps}")
        axes.set_xlabel("communications")
        groups = grouped(in_panel, lambda run: run.config.algorithm.name)
        ffgg = groups["ffgg"]
        for name, (label, colour, style) in METHODS.items():
            if name not in groups:
                continue
            members = groups[name]
            draw_runs(axes, _communications(members), spread([r.norms for r in members]), colour, label, style)
            expected = [_expected(run) for run in members]
            has_floor = median(expected) > ROUNDING * members[0].norms[0]
            if name != "ffgg" and has_floor:
                draw_floor(axes, median(expected), colour)
            rows.append(
                (f"{zeta:g}", str(steps), _label(members[0], label, steps), *_numbers(members, ffgg, has_floor))
            )
        draw_prediction(axes, ffgg[0].series["round"], spread([_curve(run) for run in ffgg]).median, "FFGG, exact w")
    add_legend(figure, grid[0])
    header = ("ζ", "τ", "method", "step size", "final ‖F‖", "predicted (FFGG) or floor", "run / predicted",
              "‖F‖ at equal bytes")  # fmt: skip
    return Exhibit(figure, Words(TITLE, SHOWN, PREDICTED, header, tuple(rows)))


def _numbers(members: Sequence[Run], ffgg: Sequence[Run], has_floor: bool) -> tuple[str, ...]:
    finals, expected = [run.final for run in members], [_expected(run) for run in members]
    floor = (text(median(expected)), ratios(finals, expected)) if has_floor else ("no floor", "–")
    budget = median([_bytes(run)[-1] for run in ffgg])
    return (
        text(_section(members[0])["lr"]),
        text(median(finals)),
        *floor,
        text(median([_after(budget, r) for r in members])),
    )


def _after(budget: float, run: Run) -> float:
    """Return ‖F‖ at the last evaluation before a run has sent more than so many bytes; inf when it has diverged."""
    affordable = np.flatnonzero(_bytes(run) <= budget)
    return float(run.norms[affordable[-1]]) if run.status == "complete" else np.inf


def _bytes(run: Run) -> Floats:
    return np.asarray(run.series["uplink_bytes"] + run.series["downlink_bytes"])


def _section(run: Run) -> dict[str, float]:
    section: dict[str, float] = run.config.model_dump()["algorithm"]
    return section


def _by_panel(runs: Sequence[Run]) -> dict[tuple[float, int], list[Run]]:
    """Return the runs by heterogeneity and gradients a communication, in ascending order.

    Those of FFGG are on w, those of L2GD the 1/p between two communications on average. Where no other method makes as
    many, which is so for p = 1/2, L2GD stands beside those that make one.
    """
    shown = {(_zeta(run), _steps(run)) for run in runs if not _is_coined(run)}

    def panel(run: Run) -> tuple[float, int]:
        own = _zeta(run), _steps(run)
        return own if own in shown else (_zeta(run), 1)

    return grouped(sorted(runs, key=panel), panel)


def _zeta(run: Run) -> float:
    return float(run.config.model_dump()["problem"]["zeta"])


def _steps(run: Run) -> int:
    """Return gradients a communication."""
    algorithm = run.config.model_dump()["algorithm"]
    steps = algorithm.get("local_steps") or (algorithm.get("fine_tuner") or {}).get("steps")
    return int(steps) if steps else round(1.0 / algorithm["probability"])


def _is_coined(run: Run) -> bool:
    return "probability" in _section(run)


def _label(run: Run, label: str, steps: int) -> str:
    return label if _steps(run) == steps else f"{label} ({_steps(run)} gradients a communication)"


def _communications(members: Sequence[Run]) -> Floats:
    """Return how often vectors were sent, (evaluations,): in every round, or, by coins, as counted; median of seeds."""
    if not _is_coined(members[0]):
        return members[0].series["round"]
    return spread([run.series["uplink_bytes"] / _bytes_of_all(run) for run in members]).median


def _bytes_of_all(run: Run) -> float:
    """Return the size of one vector from every client, float64."""
    problem = run.config.model_dump()["problem"]
    lengths = {"theta": problem["shared_dimension"], "w": problem["local_dimension"]}
    num_shared = sum(length for name, length in lengths.items() if name not in problem["split"]["local"])
    return 8.0 * float(problem["clients"] * num_shared)


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
