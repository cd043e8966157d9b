"""Figure 2: synchronous against asynchronous, at equal gradients and at equal virtual seconds."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

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

TITLE = "Figure 2. Asynchronous FFGG does not wait for the slowest client"
SHOWN = (
    "The asynchronous problem (40 clients, d_θ = 400, ζ = 10), exact w, γ = 1/L. Clients take one virtual second "
    "a gradient; with a straggler one of them takes 100. A round lasts as long as its slowest client; "
    "asynchronous clients never wait. Steps of an arrival: constant γ/40, or γ/max(delay, 1). Left: against "
    "gradients, where waiting costs nothing. Right: against virtual seconds, the axis that counts."
)
PREDICTED = (
    "Synchronous: F(θ_k) = (I − γS̄)^k F(θ_0). Asynchronous with steps γ/M: M arrivals make about one such step, "
    "so the same dashed line, which is followed as long as a common θ* exists. Without one, equal times lead to "
    "the fixed point of proximal steps in turn (dotted; exact): every client's last arrival leaves a trace that "
    "the next M − 1 have yet to undo. A straggler arrives once in 100 times, so that in between θ leans towards "
    "the fast clients: measured. So is how much delay-adaptive steps gain, which are larger where delays are "
    "short. In virtual seconds a synchronous round with a straggler is 100 times as long."
)
KINDS = {
    "sync": ("synchronous", CATEGORICAL[0]),
    "constant": ("asynchronous, constant step", CATEGORICAL[1]),
    "delay_adaptive": ("asynchronous, delay-adaptive", CATEGORICAL[2]),
}
TARGETS = {"own": "own targets", "common": "common θ*"}


def draw(runs: Sequence[Run]) -> Exhibit:
    """Draw rows for own and common targets, columns for gradients and seconds; dashed with a straggler."""
    figure, grid = panels(len(TARGETS), 2, legend_width=2.9)
    rows = []
    by_cell = grouped(runs, lambda run: (_targets(run), _stragglers(run), _kind(run)))
    for row, targets in zip(grid, TARGETS, strict=True):
        for axes, axis in zip(row, ("shared_gradients", "virtual_seconds"), strict=True):
            axes.set_title(TARGETS[targets])
            axes.set_xlabel(axis.replace("shared_", "").replace("_", " "))
            for (of, stragglers, kind), members in by_cell.items():
                if of == targets:
                    label, colour = KINDS[kind]
                    label += ", straggler" if stragglers else ""
                    style = "--" if stragglers else "-"
                    values = spread([run.norms for run in members])
                    draw_runs(axes, members[0].series[axis], values, colour, label, style)
        row[1].set_xscale("symlog", linthresh=10.0)
        _predict(row, by_cell[targets, 0, "sync"], by_cell[targets, 0, "constant"])
        rows += [_row(targets, key[1], key[2], members) for key, members in by_cell.items() if key[0] == targets]
    add_legend(figure, grid[0])
    header = ("targets", "straggler", "method", "virtual seconds", "final ‖F‖", "predicted", "run / predicted")
    return Exhibit(figure, Words(TITLE, SHOWN, PREDICTED, header, tuple(rows)))


def _predict(row: Sequence[Axes], synchronous: Sequence[Run], constant: Sequence[Run]) -> None:
    curve = spread([_curve(run, 1) for run in synchronous]).median
    for axes, axis in zip(row, ("shared_gradients", "virtual_seconds"), strict=True):
        draw_prediction(axes, synchronous[0].series[axis], curve)
        if _targets(constant[0]) == "own":
            draw_floor(axes, median([_floor(run) for run in constant]), KINDS["constant"][1])


def _row(targets: str, stragglers: int, kind: str, members: Sequence[Run]) -> tuple[str, ...]:
    finals = [run.final for run in members]
    seconds = text(float(members[0].series["virtual_seconds"][-1]))
    name = (TARGETS[targets], "yes" if stragglers else "no", KINDS[kind][0], seconds, text(median(finals)))
    is_floor = kind != "sync" and targets == "own"
    if (is_floor and stragglers) or (kind == "delay_adaptive" and not is_floor):
        return (*name, "measured", "–")
    per_round = 1 if kind == "sync" else system_of(members[0].config).personalized.number
    expected = [_floor(r) if is_floor else late_mean(_curve(r, per_round), r.rounds) for r in members]
    return (*name, text(median(expected)), ratios(finals, expected))


def _curve(run: Run, arrivals_per_round: int) -> Floats:
    clients = system_of(run.config).personalized
    rounds = [round // arrivals_per_round for round in run.rounds]
    return clients.norms(clients.gradient_descent(1.0 / clients.smoothness), rounds)


def _floor(run: Run) -> float:
    """Return ‖F‖ at the fixed point of arrivals in turn; a delay-adaptive step is γ/(M − 1) then."""
    clients = system_of(run.config).personalized
    in_step = clients.number - (1 if _kind(run) == "delay_adaptive" else 0)
    return clients.norm(clients.cyclic_arrivals(1.0 / clients.smoothness / in_step).fixed_point)


def _targets(run: Run) -> str:
    return str(run.config.model_dump()["problem"]["targets"])


def _stragglers(run: Run) -> int:
    return int((run.config.model_dump()["compute_times"] or {}).get("stragglers", 0))


def _kind(run: Run) -> str:
    return "sync" if run.config.asynchronous is None else run.config.asynchronous.step
