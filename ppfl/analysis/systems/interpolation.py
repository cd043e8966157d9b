"""Interpolation against adversaries: how much to collaborate, on means and on digits, and beside partition."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ppfl.analysis.figure import CATEGORICAL, MARKERS
from ppfl.analysis.systems.study import Claim, Picture, Study

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from ppfl.analysis.systems.runs import Run

CODE = "released code of Allouah et al., NeurIPS 2024"
RERUN = "a reproduction of the released code, on other data"
EXPECTED = "expected by the same argument"
MEANS, DIGITS, PARTITION = "interpolation-means", "interpolation-digits", "interpolation-partition"
AGREEMENT = 0.01
"""Between the best λ that was measured and the law."""
NOISE = 0.005
"""Of an accuracy, by which one λ has to be better than another to be called so."""

Curve = dict[float, float]
"""{λ: accuracy}."""


@dataclass(frozen=True)
class Setting:
    """One setting of mean estimation, over all seeds."""

    label: str
    variance: float
    """v = σ²/samples."""
    errors: dict[float, float]
    """{λ: E(λ)}, a number a coordinate."""

    @property
    def best(self) -> float:
        """λ at the bottom of the parabola through three E(λ)."""
        square, slope, _ = np.polyfit(list(self.errors), list(self.errors.values()), 2)
        return float(np.clip(-slope / (2 * square), 0.0, 1.0))

    @property
    def law(self) -> float:
        """v/(v + σ_h² + MSE(R)), its last two terms what λ = 1 costs."""
        return self.variance / (self.variance + self.errors[1.0])


def study(runs: Mapping[str, list[Run]]) -> Study:
    """Return what the runs on means, on digits and of partition come to."""
    settings = _settings(runs[MEANS])
    alone = _accuracy([run for run in runs[PARTITION] if _level(run) == 0.0])
    curves = {key: {0.0: alone, **curve} for key, curve in _curves(runs[DIGITS]).items()}
    partition = _by_attackers([run for run in runs[PARTITION] if run.config.algorithm.name == "ffgg"])
    both = _by_attackers([run for run in runs[PARTITION] if (_level(run) or 0.0) > 0.0])
    claims = (*_claims_of_means(settings), *_claims_of_digits(curves), _claim_of_partition(curves, partition, both))
    return Study(
        "Interpolation against adversaries",
        "Every client asks all others for gradients at its own θ_i and moves by (1 − λ) of its own and λ of what a "
        "robust rule makes of theirs. Mean estimation in twelve settings, and digits up to 4 against those above with "
        "f of 20 clients attacking.",
        "The paper's text was not read but for its abstract; algorithm and settings are those of its released code. "
        "The law of the best λ was derived, and so were local parameters beside θ_i, which the method does not have.",
        claims,
        (
            Picture(
                "interpolation_means",
                _draw_means(settings),
                "The best λ in each setting of mean estimation, over the law.",
            ),
            Picture("interpolation_digits", _draw_digits(curves), "Accuracy of the clients that ask, over λ."),
            Picture(
                "interpolation_partition",
                _draw_partition(curves, partition, both),
                "Sign flip: interpolation at its best λ, partition (FFGG with local biases) and both at once.",
            ),
        ),
        _reading(curves, partition, both),
    )


def _level(run: Run) -> float | None:
    level = getattr(run.config.algorithm, "collaboration", None)
    return None if level is None else float(level)


def _attackers(run: Run) -> int:
    return 0 if run.config.byzantine is None else run.config.byzantine.num_attackers


def _attack(run: Run) -> str:
    return "" if run.config.byzantine is None else run.config.byzantine.attack.name


def _settings(runs: Sequence[Run]) -> list[Setting]:
    """Return the settings in the order of the runs, means over seeds."""
    found: dict[tuple[str, float], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        problem, level = run.config.problem.model_dump(), _level(run)
        assert level is not None
        rule = "+".join([*(step.name for step in run.config.aggregator.before), run.config.aggregator.name])
        label = f"{rule}, f = {_attackers(run)} {_attack(run)}".rstrip()
        label += f", σ_h = {problem['spread']:g}, σ = {problem['noise']:g}"
        total = run.result.summary["squared_error"].sel(stage="personal", statistic="mean")
        variance = problem["noise"] ** 2 / problem["samples"]
        found[label, variance][level].append(float(total) / problem["shared_dimension"])
    return [
        Setting(label, variance, {level: float(np.mean(values)) for level, values in sorted(errors.items())})
        for (label, variance), errors in found.items()
    ]


def _accuracy(runs: Sequence[Run]) -> float:
    """Return the mean accuracy of the clients that ask: the same ones of all methods."""
    return float(np.mean([_of_main(run) for run in runs]))


def _of_main(run: Run) -> float:
    clients = run.result.clients
    # methods without query points have no main clients: the first ones, since the last ones attack
    mains = clients["main"].to_numpy() == 1 if "main" in clients else np.arange(clients.sizes["client"]) < 4
    return float(clients["personal_test_accuracy"].to_numpy()[mains].mean())


def _curves(runs: Sequence[Run]) -> dict[tuple[str, int], Curve]:
    grouped: dict[tuple[str, int], dict[float, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        level = _level(run)
        assert level is not None
        grouped[_attack(run), _attackers(run)][level].append(run)
    return {key: {level: _accuracy(same) for level, same in sorted(of.items())} for key, of in grouped.items()}


def _by_attackers(runs: Sequence[Run]) -> dict[int, float]:
    grouped: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        grouped[_attackers(run)].append(run)
    return {number: _accuracy(same) for number, same in sorted(grouped.items())}


def _flips(curves: Mapping[tuple[str, int], Curve]) -> dict[int, Curve]:
    return {number: curve for (attack, number), curve in sorted(curves.items()) if attack in ("", "sign_flip")}


def _best(curve: Curve) -> float:
    return max(curve, key=lambda level: curve[level])


def _claims_of_means(settings: Sequence[Setting]) -> list[Claim]:
    distances = [abs(one.best - one.law) for one in settings]
    worst = settings[int(np.argmax(distances))]
    flips = [
        one for one in settings if "σ_h = 2, σ = 15" in one.label and ("sign_flip" in one.label or "f = 0" in one.label)
    ]
    falling = [one for one in flips if "median" not in one.label]
    best = [one.best for one in falling]
    hurt = falling[-1]
    return [
        Claim(
            f"The error of mean estimation is least at λ* = v/(v + σ_h² + MSE(R)), in {len(settings)} settings.",
            "derived",
            f"distance at most {AGREEMENT:g} in each",
            f"measured {worst.best:.3f} for {worst.law:.3f} where it is farthest ({worst.label})",
            f"{max(distances):.4f} at most, {np.mean(distances):.4f} on average",
            max(distances) <= AGREEMENT,
        ),
        Claim(
            "The more attackers, the less collaboration is best.",
            CODE,
            ".79 → .09 for f = 0 → 250",
            " → ".join(f"{level:.2f}" for level in best),
            "by order alone: the rule is another one",
            all(one >= other for one, other in pairwise(best)),
        ),
        Claim(
            "With the most attackers full collaboration is worse than none.",
            "derived, and measured in a replica",
            "E(1) = 27.98 > E(0) = 11.25",
            f"E(1) = {hurt.errors[1.0]:.2f}, E(0) = {hurt.errors[0.0]:.2f}",
            f"E(1)/E(0) = {hurt.errors[1.0] / hurt.errors[0.0]:.2f} for 2.49",
            hurt.errors[1.0] > hurt.errors[0.0],
        ),
    ]


def _claims_of_digits(curves: Mapping[tuple[str, int], Curve]) -> list[Claim]:
    flips = _flips(curves)
    best = {number: _best(curve) for number, curve in flips.items()}
    most, levels = max(flips), list(best.values())
    inner = {number: curve for number, curve in flips.items() if number > 0}
    above = {number: max(curve.values()) - max(curve[0.0], curve[1.0]) for number, curve in inner.items()}
    # a maximum somewhere in between is nothing by itself: noise has one, too
    strictly = [number for number, gain in above.items() if gain > NOISE]
    return [
        Claim(
            "The best λ does not grow with the number of attackers (sign flip).",
            RERUN,
            "1 → .8–1 → .8 → 0 for f = 0, 3, 6, 9 in a replica",
            _told(flips),
            f"{sum(later > earlier for earlier, later in pairwise(levels))} steps upwards",
            all(later <= earlier for earlier, later in pairwise(levels)),
        ),
        Claim(
            "With attackers and few samples the best λ is strictly between 0 and 1 for some f.",
            RERUN,
            "f = 6: λ = .8 in a replica, 3.6 points above both ends",
            f"by more than {100 * NOISE:g} points at f = {_listed(strictly)}",
            "; ".join(f"f = {number}: {100 * gain:.1f} points above both ends" for number, gain in above.items()),
            bool(strictly),
        ),
        _alone_and_together(flips[most], most),
        Claim(
            f"With f = {most} no collaboration at all is best.",
            "measured in a replica",
            "72.1 % at λ = 0, at most 70.5 % elsewhere",
            f"{100 * flips[most][0.0]:.1f} % at λ = 0, {100 * max(flips[most].values()):.1f} % at λ = {best[most]:g}",
            f"{100 * (max(flips[most].values()) - flips[most][0.0]):.1f} points",
            max(flips[most].values()) - flips[most][0.0] <= NOISE,
        ),
        _claim_of_hiding(curves),
    ]


def _told(curves: Mapping[int, Curve]) -> str:
    """Return the best λ for each number of attackers, and how good it is."""
    best = {number: _best(curve) for number, curve in sorted(curves.items())}
    return ", ".join(
        f"f = {number}: λ = {level:g} ({100 * curves[number][level]:.1f} %)" for number, level in best.items()
    )


def _alone_and_together(curve: Curve, number: int) -> Claim:
    return Claim(
        f"With f = {number} of 20 being alone is better than full collaboration.",
        RERUN,
        "72.1 % > 63.1 % in a replica",
        f"{100 * curve[0.0]:.1f} % and {100 * curve[1.0]:.1f} %",
        f"{100 * (curve[0.0] - curve[1.0]):.1f} points for 9.0",
        curve[0.0] > curve[1.0],
    )


def _claim_of_hiding(curves: Mapping[tuple[str, int], Curve]) -> Claim:
    others = {number: curve for (attack, number), curve in curves.items() if attack == "little_is_enough"}
    steps = [_best(others[later]) - _best(others[earlier]) for earlier, later in pairwise(sorted(others))]
    return Claim(
        "Under little_is_enough as well, the best λ does not grow with f.",
        EXPECTED,
        "no step upwards",
        _told(others),
        f"{sum(step > 0 for step in steps)} steps upwards",
        all(step <= 0 for step in steps),
    )


def _claim_of_partition(
    curves: Mapping[tuple[str, int], Curve], partition: Mapping[int, float], both: Mapping[int, float]
) -> Claim:
    flips = _flips(curves)
    text = []
    for number in sorted(partition):
        three = (max(flips[number].values()), partition[number], both[number])
        text.append(f"f = {number}: " + ", ".join(f"{100 * one:.1f}" for one in three) + " %")
    ahead = {number: max(flips[number].values()) - partition[number] for number in sorted(partition)}
    return Claim(
        "Under the same attack interpolation at its best λ is ahead of partition (biases local).",
        "new here; nobody claims it",
        "interpolation ≥ partition for every f",
        "interpolation, partition, both at once: " + "; ".join(text),
        ", ".join(f"f = {number}: {100 * points:+.1f}" for number, points in ahead.items()) + " points",
        all(points >= -NOISE for points in ahead.values()),
    )


def _reading(curves: Mapping[tuple[str, int], Curve], partition: Mapping[int, float], both: Mapping[int, float]) -> str:
    most = max(partition)
    gain = 100 * (both[most] - partition[most])
    flips = _flips(curves)
    ahead = [number for number in sorted(partition) if partition[number] - max(flips[number].values()) > NOISE]
    return (
        "On means the best λ is where the law has it. On digits eight seeds and four clients a seed tell some points "
        "of accuracy apart and not less: the order of neighbouring λ is not to be trusted. The best λ was chosen on "
        "the test samples themselves, which flatters interpolation beside partition, where nothing is chosen. What a "
        "partition leaves shared, an attack reaches in full; a λ below 1 bounds what it reaches of every parameter, "
        f"for which it gives up as much of the others. Partition is ahead at f = {_listed(ahead)}. "
        f"With f = {most}, both at once are {gain:+.1f} points from partition alone."
    )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def _axes(width: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, 3.2), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def _draw(axes: Axes, values: Mapping[int, float] | Mapping[float, float], label: str, position: int) -> None:
    """Draw accuracies over what they depend on."""
    heights = [100 * value for value in values.values()]
    axes.plot(list(values), heights, color=CATEGORICAL[position], marker=MARKERS[position], label=label)


def _draw_means(settings: Sequence[Setting]) -> Figure:
    figure, (axes,) = _axes(4.2)
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1.0)
    axes.plot([one.law for one in settings], [one.best for one in settings], "o", color=CATEGORICAL[0])
    axes.set_xlabel("v/(v + σ_h² + MSE(R))")
    axes.set_ylabel("best λ, measured")
    return figure


def _draw_digits(curves: Mapping[tuple[str, int], Curve]) -> Figure:
    figure, panels = _axes(8.0, 2)
    for axes, attack in zip(panels, ("sign_flip", "little_is_enough"), strict=True):
        shown = {number: curve for (name, number), curve in sorted(curves.items()) if name in ("", attack)}
        for position, (number, curve) in enumerate(shown.items()):
            _draw(axes, curve, f"f = {number}", position)
        axes.set_title(attack.replace("_", " "))
        axes.set_xlabel("λ")
        axes.set_ylabel("test accuracy, %")
    panels[0].legend()
    return figure


def _draw_partition(
    curves: Mapping[tuple[str, int], Curve], partition: Mapping[int, float], both: Mapping[int, float]
) -> Figure:
    flips = _flips(curves)
    shown = {
        "interpolation, best λ": {number: max(curve.values()) for number, curve in flips.items()},
        "interpolation, λ = 0.6": {number: curve[0.6] for number, curve in flips.items() if 0.6 in curve},
        "nothing personal (λ = 1)": {number: curve[1.0] for number, curve in flips.items()},
        "partition": partition,
        "both, λ = 0.6": both,
    }
    figure, (axes,) = _axes(6.0)
    for position, (label, values) in enumerate(shown.items()):
        _draw(axes, values, label, position)
    axes.set_xlabel("attackers f of 20 clients, sign flip")
    axes.set_ylabel("test accuracy, %")
    axes.legend()
    return figure
