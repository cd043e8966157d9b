"""MoTEF on logistic regression sorted by label over a ring, against bits."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from ppfl.analysis.systems._motef_runs import (
    BEER,
    CHOCO,
    COLOURS,
    DSGD,
    MOTEF,
    NAMES,
    NEW,
    PAPER,
    REPLICA,
    by_method,
    draw,
    end,
    grouped,
    median_end,
    megabits_of_node,
    panels,
    squared_norms,
    told,
)
from ppfl.analysis.systems.study import Claim, Picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from ppfl.analysis.systems.runs import Run

FULL = {DSGD: 1.6e-4, CHOCO: 4.5e-4, BEER: 8e-9, MOTEF: 3e-14}
"""‖∇f(x̄)‖² after 4,000 full batches with η = 0.05, of the replica."""
BATCH = {DSGD: 2.1e-4, CHOCO: 5.1e-4, BEER: 7.6e-5, MOTEF: 2.7e-5}
"""Medians of the last 1,000 rounds with batches of 5."""
ORDER = (MOTEF, BEER, DSGD, CHOCO)
CALM = "motef, γ = 0.2"
"""With weights at which compressed averaging by itself converges."""
_STEEP = 0.5
_MARGIN = 1e-3
_NEAR = 3.0
"""A factor between two draws of the start, or of batches; what is told apart differs by 2.4 at least."""


def claims_of_breast_cancer(runs: Sequence[Run]) -> list[Claim]:
    """Return what full batches and batches of 5 say."""
    full, batch = _split(runs)
    last = {name: float(squared_norms(of_name[0])[-1]) for name, of_name in full.items()}
    ends = {name: median_end(of_name) for name, of_name in batch.items()}
    # with full batches seeds differ in the start alone, and one is enough
    rivals = min(last[DSGD], last[CHOCO])
    return [
        Claim(
            "Full batches: MoTEF goes on where DSGD and Choco-SGD stop.", REPLICA,
            f"‖∇f(x̄)‖² at most {_MARGIN:.0e} of the smaller one of both", told(last),
            f"{last[MOTEF] / rivals:.1e} of it", last[MOTEF] <= _MARGIN * rivals,
        ),
        _beside_replica("Full batches: as far as the replica", FULL, last),
        _in_order("breast_cancer, batches of 5: MoTEF < BEER < DSGD < Choco-SGD.", REPLICA, ends),
        _beside_replica("Batches of 5: as far as the replica", BATCH, ends),
        _in_each_seed("Batches of 5: with the replica's γ = 0.5 MoTEF is below DSGD in each seed.", batch, MOTEF),
        _in_each_seed("Batches of 5: with γ = 0.2 it is.", batch, CALM),
        _claim_of_bits(full),
    ]  # fmt: skip


def claims_of_a9a(runs: Sequence[Run]) -> list[Claim]:
    """Return whether the order is that of the smaller data set, with steps that were chosen there."""
    ends = {name: median_end(of_name) for name, of_name in by_method(runs).items()}
    return [_in_order("a9a, batches of 5: the same order.", f"{PAPER} (MoTEF < BEER); expected", ends)]


def pictures(cancer: Sequence[Run], a9a: Sequence[Run]) -> list[Picture]:
    """Return ‖∇f(x̄)‖² against bits."""
    figure, axes = panels(3)
    full, batch = _split(cancer)
    titles = ("breast_cancer, full batches", "breast_cancer, batches of 5", "a9a, batches of 5")
    for one, of_methods, title in zip(axes, (full, batch, by_method(a9a)), titles, strict=True):
        _draw(one, of_methods)
        one.set_title(title)
    axes[0].set_ylabel("‖∇f(x̄)‖²")
    axes[0].legend(fontsize=8)
    caption = (
        "Logistic regression with the penalty 0.05 Σ x²/(1 + x²), sorted by label over a ring of 20: the squared norm "
        "of the gradient at the mean of all nodes against what a node has sent to each of its neighbours, values and "
        "positions, in bits as they go over the wire. Medians of the seeds, lowest to highest. With full batches "
        "Choco-SGD and DSGD stop and the others do not; with batches of 5 all stop, and MoTEF lowest, but for a seed "
        "whose nodes come apart with γ = 0.5."
    )
    return [Picture("motef-bits", figure, caption)]


def _draw(axes: Axes, of_methods: Mapping[str, Sequence[Run]]) -> None:
    for name in NAMES:
        if name in of_methods:
            draw(axes, of_methods[name], megabits_of_node, squared_norms, NAMES[name], COLOURS[name])
    # in the colour of MoTEF: the method is the same
    draw(axes, of_methods.get(CALM, []), megabits_of_node, squared_norms, "MoTEF, γ = 0.2", COLOURS[MOTEF], ":")
    axes.set_yscale("log")
    # the start, of no bits, has no place on a logarithmic axis
    axes.set_xscale("log", nonpositive="mask")
    axes.set_xlabel("Mbit sent to a neighbour")


def _split(runs: Sequence[Run]) -> tuple[dict[str, list[Run]], dict[str, list[Run]]]:
    """Return the runs by method: with full batches, and with others."""
    full = [run for run in runs if run.result.config["problem"]["batch_size"] == "all"]
    batch = [run for run in runs if run.result.config["problem"]["batch_size"] != "all"]
    return by_method(full), grouped(batch, _way)


def _way(run: Run) -> str:
    method = run.config.algorithm.name
    return CALM if method == MOTEF and run.result.config["algorithm"]["mixing"] < _STEEP else method


def _in_order(text: str, source: str, ends: Mapping[str, float]) -> Claim:
    values = [ends[name] for name in ORDER]
    factors = [later / earlier for earlier, later in pairwise(values)]
    return Claim(
        text, source, "in this order, medians of the seeds", told({name: ends[name] for name in ORDER}),
        "factors " + ", ".join(f"{factor:.1f}" for factor in factors), all(factor > 1.0 for factor in factors),
    )  # fmt: skip


def _in_each_seed(text: str, batch: Mapping[str, Sequence[Run]], name: str) -> Claim:
    # a median of three hides a run that has come apart
    found, rivals = ([end(run) for run in batch[one]] for one in (name, DSGD))
    worst = max(found) / min(rivals)
    return Claim(
        text, NEW, "largest of the seeds below the smallest of DSGD", " / ".join(f"{value:.1e}" for value in found),
        f"{worst:.1e} of DSGD", worst < 1.0,
    )  # fmt: skip


def _beside_replica(text: str, wanted: Mapping[str, float], found: Mapping[str, float]) -> Claim:
    ratios = {name: found[name] / value for name, value in wanted.items()}
    off = max(max(ratio, 1.0 / ratio) for ratio in ratios.values())
    return Claim(
        f"{text}, to a factor of {_NEAR:g}.", f"{REPLICA}, which began at 0 with 28 samples a node", told(wanted),
        told({name: found[name] for name in wanted}),
        ", ".join(f"{NAMES[name]} {ratio:.2f}" for name, ratio in ratios.items()) + " times", off <= _NEAR,
    )  # fmt: skip


def _claim_of_bits(full: Mapping[str, Sequence[Run]]) -> Claim:
    """Say who needs the fewest bits to get below the floor of DSGD."""
    # the lowest one that DSGD reaches
    goal = float(squared_norms(full[DSGD][0])[-1])
    needed = {name: _until(of_name[0], goal) for name, of_name in full.items()}
    others = min(value for name, value in needed.items() if name != MOTEF)
    return Claim(
        "Full batches: MoTEF needs the fewest bits to get where DSGD ends.", "the paper, by curves against bits",
        f"Mbit to a neighbour until ‖∇f(x̄)‖² ≤ {goal:.1e}",
        ", ".join(f"{NAMES[name]} {value:.2f}" for name, value in needed.items()),
        f"{needed[MOTEF] / others:.2f} of the next", needed[MOTEF] < others,
    )  # fmt: skip


def _until(run: Run, goal: float) -> float:
    """Return the bits until a squared norm; inf where it is not reached."""
    there = squared_norms(run) <= goal
    return float(megabits_of_node(run)[int(there.argmax())]) if there.any() else float("inf")
