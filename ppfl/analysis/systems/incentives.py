"""Truthful collaboration: what lying gains, with payments and with parameters of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ppfl.analysis.figure import CATEGORICAL, STYLE
from ppfl.analysis.payments import Played, gains, honest_of, payments_of, played
from ppfl.analysis.systems.study import Claim, Picture, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ppfl.analysis.systems.runs import Run

CONFIGS = ("incentives", "incentives-personalized")
PRICES = (0.0, 1e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 1e-2)
_ENOUGH = 5e-4
"""The price from which the replica found the truth best over a ≥ 1."""
_SMALL = 1e-3
"""The price at which it found the second motive gone."""
_LEAST = 2.8e-16
"""Gains below this are shown as it: rounding of a loss."""
_PAPER = "arXiv 2412.00980 (the game); squared-norm payment reconstructed"
_REPLICA = "measured in an independent replica"
TARGETS = {"own": ("not overpersonalized", CATEGORICAL[1]), "common": ("overpersonalized", CATEGORICAL[0])}


@dataclass(frozen=True)
class Game:
    """Runs of one seed, counterfactuals of one another, with one client that may lie."""

    by_scale: Mapping[float, Played]
    """Ascending."""

    def gain(self, scale: float, price: float) -> float:
        """Return U_i(a) − U_i(1) of the client that may lie."""
        honest = self.by_scale[1.0]
        # marked in the run with scale 1, too, where it tells the truth
        who = int(np.flatnonzero(honest.strategic)[0])
        return float(gains(self.by_scale[scale], honest, price)[who])

    def best(self, price: float, least: float) -> float:
        """Return the a ≥ least that gains most; of equal ones the smallest."""
        # max keeps the first of equal ones, and scales ascend
        return max((scale for scale in self.by_scale if scale >= least), key=lambda scale: self.gain(scale, price))

    def most(self, price: float, least: float) -> float:
        """Return what it gains."""
        return self.gain(self.best(price, least), price)


def games_of(runs: Sequence[Run]) -> dict[str, list[Game]]:
    """Return {targets: a game a seed} of the complete runs; problems without targets are under ""."""
    found = [played(run.result.path) for run in runs if run.is_complete]
    honest, apart = honest_of(found), dict[tuple[str, int], dict[float, Played]]()
    for game in sorted(found, key=lambda game: game.scale):
        if game.digest in honest:
            key = str(game.settings.get("problem.targets") or ""), int(game.settings["seed"])
            apart.setdefault(key, {})[game.scale] = game
    games: dict[str, list[Game]] = {}
    for (targets, _), by_scale in sorted(apart.items()):
        games.setdefault(targets, []).append(Game(by_scale))
    return games


def study(runs: Mapping[str, Sequence[Run]]) -> Study:
    """Return what the game without and the one with local parameters come to."""
    means = games_of(runs[CONFIGS[0]])[""]
    personalized = games_of(runs[CONFIGS[1]])
    return Study(
        title="Truthful collaboration",
        about=(
            f"{len(means)} games of ten clients with f_i = ½‖θ − μ_i‖²; and the same lie in FFGG with exact w_i on "
            f"quadratics, {len(personalized['own'])} with own and {len(personalized['common'])} with common targets. "
            "One client, drawn by the seed, sends a times its gradient. It wants a small loss of its own and pays "
            "C(‖m_i‖² − mean of the others' ‖m_j‖²) each round; what it gains is measured against the run in which a "
            "is 1 and all else is the same. Payments are made afterwards: one run serves every price."
        ),
        reconstructed=(
            "The payment rule. The paper's abstract promises payments that add up to 0 and bounds on them; the rule is "
            "neither there nor in the published code. The squared-norm payment is the simplest one that adds up to 0 "
            "and makes large messages dear, and nothing here is a result of the paper about its own rule."
        ),
        claims=(*_claims_of_payments(means), *_claims_of_split(personalized)),
        figures=(
            Picture("incentives-game", _draw_game(means), _OF_GAME),
            Picture("incentives-personalized", _draw_personalized(personalized), _OF_PERSONALIZED),
        ),
        reading=_READING,
    )


def _claims_of_payments(games: Sequence[Game]) -> tuple[Claim, ...]:
    largest = max(games[0].by_scale)
    free = [game.best(0.0, 1.0) for game in games]
    enough = [price for price in PRICES if price >= _ENOUGH]
    at_enough = [game.best(price, 1.0) for game in games for price in enough]
    bests = [_range([game.best(price, 1.0) for game in games]) for price in PRICES]
    steps = [game.best(after, 1.0) - game.best(before, 1.0) for game in games for before, after in pairwise(PRICES)]
    rises = [game.most(after, 1.0) - game.most(before, 1.0) for game in games for before, after in pairwise(PRICES)]
    below = [game.best(PRICES[-1], 0.0) for game in games]
    sums = max(_imbalance(one) for game in games for one in game.by_scale.values())
    told = "; ".join(f"C = {price:g}: {text}" for price, text in zip(PRICES, bests, strict=True))
    return (
        Claim(
            "Without payments it pays to exaggerate as much as one can.", "arXiv 2412.00980 (the game)",
            f"best a at C = 0: {largest:g}, the largest", f"{_range(free)}, gain {_range(_most(games, 0.0))}",
            f"{max(abs(one - largest) for one in free):g}", set(free) == {largest},
        ),
        Claim(
            "Over a ≥ 1 the best a goes to 1 as C grows.", f"{_PAPER}; {_REPLICA}: 2.8, 1.45 and 1 at 1e-4, 2e-4, 5e-4",
            f"never rises, and is 1 from C = {_ENOUGH:g} on", told,
            f"{max(at_enough) - 1:g} from C = {_ENOUGH:g} on; largest rise {max(0.0, *steps):g}",
            max(at_enough) == 1.0 and max(steps) <= 0,
        ),
        Claim(
            "Over a ≥ 1 the gain of lying never rises with C.", "derived", "largest rise 0",
            f"largest rise {max(rises):.2g}", f"{max(0.0, *rises):.2g}", max(rises) <= 0,
        ),
        Claim(
            "Over a ≥ 0 the same rule rewards saying less, down to nothing: it is not truthful there.",
            f"derived; {_REPLICA}: 0.6, 0.1 and 0 at 5e-4, 2e-3, 1e-2", f"best a at C = {PRICES[-1]:g}: 0",
            "; ".join(f"C = {price:g}: {_range([game.best(price, 0.0) for game in games])}" for price in enough),
            f"{max(below):g}", set(below) == {0.0},
        ),
        Claim(
            "Payments of a round add up to 0.", "derived", "0 to rounding, of the largest payment of a run",
            f"{sums:.1e}", f"{sums:.1e}", sums < 1e-12,
        ),
    )  # fmt: skip


def _claims_of_split(games: Mapping[str, Sequence[Game]]) -> tuple[Claim, ...]:
    common, own = (
        [max(abs(game.gain(scale, 0.0)) for scale in game.by_scale) for game in games["common"]],
        _most(games["own"], 0.0),
    )
    priced = [game.best(_SMALL, 1.0) for game in games["own"]]
    under = [game.best(_SMALL, 0.0) for game in games["common"]]
    size, without = (float(np.median(_most(games[targets], _SMALL, 0.0))) for targets in ("common", "own"))
    return (
        Claim(
            "Where the split is overpersonalized, lying gains nothing, without any payment.",
            f"derived: all are at their best there; {_REPLICA}: 5e-18", "gain 0 to rounding for every a at C = 0",
            f"at most {max(common):.1e}", f"{max(common):.1e}", max(common) < 1e-12,
        ),
        Claim(
            "Where it is not, lying gains.", f"{_REPLICA}: 0.1", "gain above 0 at C = 0 in every seed",
            _range(own), f"smallest gain {min(own):.2g}", min(own) > 0,
        ),
        Claim(
            "A small price removes that motive over a ≥ 1.", f"{_REPLICA}, at C = 1e-3", f"best a at C = {_SMALL:g}: 1",
            _range(priced), f"{max(priced) - 1:g}", set(priced) == {1.0},
        ),
        Claim(
            "With an overpersonalized split payments leave no motive to lie at all, free riding included.",
            "asked here: nobody claims it",
            f"best a ≥ 0 at C = {_SMALL:g}: 1",
            f"{_range(under)}, gain {size:.2g} (median), against {without:.2g} where it is not overpersonalized",
            f"{max(abs(one - 1) for one in under):g}", set(under) == {1.0},
        ),
    )  # fmt: skip


def _most(games: Sequence[Game], price: float, least: float = 1.0) -> list[float]:
    return [game.most(price, least) for game in games]


def _imbalance(game: Played) -> float:
    """Return max_k |Σ_i p_i| over the largest payment of the run."""
    # of price 1: a price is a factor, which the ratio does not see
    paid = payments_of(game.squared_norms, 1.0)
    return float(np.abs(paid.sum(axis=1)).max() / max(np.abs(paid).max(), np.finfo(float).tiny))


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _draw_game(games: Sequence[Game]) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, len(PRICES)))
        scales = np.array(list(games[0].by_scale))
        for price, colour in zip(PRICES, colours, strict=True):
            gained = np.array([[game.gain(scale, price) for scale in scales] for game in games])
            left.plot(scales, np.median(gained, axis=0), color=colour, label=f"C = {price:g}")
            left.fill_between(scales, gained.min(axis=0), gained.max(axis=0), color=colour, alpha=0.12, linewidth=0)
        left.axvline(1.0, color="0.4", linewidth=0.8)
        left.axhline(0.0, color="0.4", linewidth=0.8)
        left.set(xscale="symlog", yscale="symlog", xlabel="a, scale of what is sent", ylabel="gain of lying")
        left.set_xlim(left=-0.1)
        left.set_xticks([0, 1, 2, 5, 10, 20], ["0", "1", "2", "5", "10", "20"])
        left.legend(fontsize=7.5)
        positions = range(len(PRICES))
        for least, marker, colour in ((1.0, "o", CATEGORICAL[0]), (0.0, "s", CATEGORICAL[1])):
            best = [np.median([game.best(price, least) for game in games]) for price in PRICES]
            right.plot(positions, best, marker=marker, color=colour, label=f"over a ≥ {least:g}")
        right.set_xticks(list(positions), [f"{price:g}" for price in PRICES], rotation=45)
        right.set(yscale="symlog", xlabel="C, price of a squared norm", ylabel="best a, median over seeds")
        right.set_ylim(-0.15, 30)
        right.set_yticks([0, 1, 3, 10, 20], ["0", "1", "3", "10", "20"])
        right.legend()
    return figure


def _draw_personalized(games: Mapping[str, Sequence[Game]]) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_lies(left, games)
        for targets, (label, colour) in TARGETS.items():
            for least, style in ((1.0, "-"), (0.0, "--")):
                most = np.array([_most(games[targets], price, least) for price in PRICES]).clip(min=_LEAST)
                right.plot(
                    range(len(PRICES)), np.median(most, axis=1), color=colour, linestyle=style, marker="o",
                    label=f"{label}, a ≥ {least:g}",
                )  # fmt: skip
        right.set_xticks(range(len(PRICES)), [f"{price:g}" for price in PRICES], rotation=45)
        right.set(yscale="log", xlabel="C, price of a squared norm", ylabel="gain of the best lie")
        right.legend(fontsize=7.5, handlelength=4)
    return figure


def _draw_lies(axes: Axes, games: Mapping[str, Sequence[Game]]) -> None:
    """Draw |gain| over a without payments."""
    for targets, (label, colour) in TARGETS.items():
        scales = np.array([scale for scale in games[targets][0].by_scale if scale != 1.0])
        gained = np.array([[game.gain(scale, 0.0) for scale in scales] for game in games[targets]])
        sizes = np.abs(gained).clip(min=_LEAST)
        axes.plot(scales, np.median(sizes, axis=0), color=colour, marker="o", label=label)
        axes.fill_between(scales, sizes.min(axis=0), sizes.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    axes.axvline(1.0, color="0.4", linewidth=0.8)
    axes.set(yscale="log", xlabel="a, scale of what is sent", ylabel="|gain of lying|, C = 0")
    axes.legend()


_OF_GAME = (
    "Left: what a client gains by sending a times its gradient, median and range over seeds; right: the lie that gains "
    "most. Over a ≥ 1 a price makes the truth best; over a ≥ 0 the same price makes it best to say less, in the end "
    "nothing."
)
_OF_PERSONALIZED = (
    "Left: how much a lie changes the liar's own loss without payments: up or, for a < 1, down by a fraction of it "
    "where clients disagree about θ, and nothing but rounding (values below 2.8e-16 are drawn there) where one θ suits "
    "all with their own w. Right: the gain of the best lie with payments, over exaggerations alone and over all scales."
)
_READING = (
    "The price does what it is for against exaggeration, and its scale is that of squared gradients: it has to be "
    "chosen for a problem, and one that is too high is paid for nothing. It is no rule that makes the truth best: who "
    "says less pays less and is paid by the others, and the free rider gains most where C is large. The right split "
    "removes the motive, not only the damage: overpersonalized clients gain nothing by lying, with no payment at all. "
    "That holds as long as nothing has a price. With one, who sends nothing is paid by those who send something, there "
    "too: free riding is the best lie, and what the split had removed is back. It is small, since gradients vanish and "
    "payments with them, while without the split it grows with every round. Clients who share only what suits all of "
    "them need no payments, and should not be given any."
)
