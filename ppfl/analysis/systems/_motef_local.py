"""New: MoTEF on θ with w local, beside FFGG with a server, at equal bytes on links."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppfl.analysis.figure import CATEGORICAL
from ppfl.analysis.systems._motef_runs import (
    CHOCO,
    COLOURS,
    DSGD,
    MOTEF,
    NEW,
    draw,
    grouped,
    link_megabytes,
    panels,
    series,
    squared_norms,
)
from ppfl.analysis.systems.study import Claim, Picture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from ppfl.analysis.systems.runs import Run

    Curve = Callable[[Run], NDArray[np.float64]]

FFGG, SENT_LESS = "ffgg", "ffgg compressed"
LABELS = {
    FFGG: "FFGG, server",
    SENT_LESS: "FFGG, server, compressed",
    DSGD: "DSGD on θ",
    CHOCO: "Choco-SGD on θ",
    MOTEF: "MoTEF on θ",
}
DEALT = {"iid": "alike", "label_quantity": "three classes a node"}
NEAR = 1.0
"""Points of accuracy: a seed has 530 images to be tested on, of which one is 0.2 points."""
_COLOURS = {**COLOURS, FFGG: CATEGORICAL[6], SENT_LESS: CATEGORICAL[5]}


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Return what holds where images are dealt alike, and where they are not."""
    found = []
    for dealt, of_ways in _by_way(runs).items():
        # what all of them have sent, so that nobody is judged by more
        budget = min(float(link_megabytes(run)[-1]) for of_way in of_ways.values() for run in of_way)
        accuracies = {way: _at(of_way, _accuracies, budget) for way, of_way in of_ways.items()}
        norms = {way: _at(of_way, squared_norms, budget) for way, of_way in of_ways.items()}
        found += [
            _claim_of_accuracy(DEALT[dealt], budget, accuracies),
            _claim_of_norms(DEALT[dealt], budget, norms, DSGD),
            _claim_of_norms(DEALT[dealt], budget, norms, FFGG),
            _claim_of_norms(DEALT[dealt], budget, norms, SENT_LESS),
            _claim_of_norms(DEALT[dealt], budget, norms, CHOCO),
        ]
    return found


def pictures(runs: Sequence[Run]) -> list[Picture]:
    """Return accuracies and squared norms against bytes."""
    by_way = _by_way(runs)
    figure, axes = panels(len(by_way), rows=2)
    curves: tuple[tuple[str, Curve], ...] = (("test accuracy, %", _accuracies), ("‖∇f(x̄, w)‖²", squared_norms))
    places = iter(axes)
    for what, curve in curves:
        for dealt, of_ways in by_way.items():
            one = next(places)
            for way, label in LABELS.items():
                draw(one, of_ways.get(way, []), link_megabytes, curve, label, _COLOURS[way])
            one.set_title(f"dealt {DEALT[dealt]}" if dealt == "iid" else DEALT[dealt])
            one.set_xlabel("10⁶ bytes on links")
            one.set_ylabel(what)
            if curve is squared_norms:
                one.set_yscale("log")
            else:
                one.set_ylim(bottom=60.0)
    axes[0].legend(fontsize=8)
    caption = (
        "Digits over 20 nodes, the output layer local and tuned by 5 steps a round: what each way comes to by the "
        "bytes on all links, up and down, medians of three seeds with the lowest and the highest. A server sends θ "
        "whole to everybody; MoTEF sends two messages of a tenth of the entries to two neighbours on a ring."
    )
    return [Picture("motef-local", figure, caption)]


def _claim_of_accuracy(dealt: str, budget: float, accuracies: Mapping[str, float]) -> Claim:
    behind = max(accuracies[FFGG], accuracies[SENT_LESS]) - accuracies[MOTEF]
    return Claim(
        f"Digits, {dealt}: without a server, at equal bytes, MoTEF on θ is as accurate as FFGG.", NEW,
        f"within {NEAR:g} point of the better FFGG after {budget:.0f}·10⁶ bytes",
        ", ".join(f"{LABELS[way]} {value:.1f} %" for way, value in accuracies.items()), f"{-behind:+.1f} points",
        behind <= NEAR,
    )  # fmt: skip


def _claim_of_norms(dealt: str, budget: float, norms: Mapping[str, float], rival: str) -> Claim:
    others = {way: norms[way] for way in (rival, MOTEF)}
    return Claim(
        f"Digits, {dealt}: at equal bytes it is nearer to a stationary point than {LABELS[rival]}.", NEW,
        f"‖∇f(x̄, w)‖² below that of {LABELS[rival]} after {budget:.0f}·10⁶ bytes",
        ", ".join(f"{LABELS[way]} {value:.1e}" for way, value in others.items()),
        f"{norms[MOTEF] / norms[rival]:.2f} of it", norms[MOTEF] < norms[rival],
    )  # fmt: skip


def _by_way(runs: Sequence[Run]) -> dict[str, dict[str, list[Run]]]:
    """Return the runs by how images are dealt, and by method."""
    dealt = grouped(runs, lambda run: str(run.result.config["problem"]["dataset"]["partition"]["name"]))
    return {name: grouped(of_deal, _way) for name, of_deal in dealt.items()}


def _way(run: Run) -> str:
    method = run.config.algorithm.name
    return SENT_LESS if method == FFGG and run.config.compression is not None else method


def _accuracies(run: Run) -> NDArray[np.float64]:
    return 100.0 * series(run, "test_accuracy")


def _at(runs: Sequence[Run], curve: Curve, budget: float) -> float:
    """Return the median over seeds of what a curve says at the last evaluation within a budget."""
    found = []
    for run in runs:
        # never a later one: between evaluations nobody knows
        within = int(np.flatnonzero(link_megabytes(run) <= budget)[-1])
        found.append(float(curve(run)[within]))
    return float(np.median(found))
