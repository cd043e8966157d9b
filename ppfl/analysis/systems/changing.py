"""Classes that come in phases: what is forgotten without replay, and with normal laws of classes replayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from ppfl.analysis.figure import CATEGORICAL, STYLE
from ppfl.analysis.systems.study import Claim, Picture, Study
from ppfl.problems.supervised import SupervisedSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from ppfl.analysis.systems.runs import Run

_CONFIG = "changing"
_FROM_START = "all classes from the start"
_ONE_VARIANCE = "one variance"
_NEAR = 0.02
"""Difference of accuracies that counts as none."""
_PAPER = "arXiv 2410.01502 (the setting; its numbers were not at hand)"
_ASKED = "asked here: nobody claims it"


@dataclass(frozen=True)
class Found:
    """What the runs of one method with one rehearsal come to."""

    final: np.ndarray
    """Accuracy over all classes after the last phase, (seeds,)."""
    of_phases: np.ndarray
    """Accuracy on the classes of every phase after every phase, (seeds, phases, phases)."""
    seen: np.ndarray
    """Accuracy over the classes seen so far, after every phase, (seeds, phases)."""

    @property
    def forgetting(self) -> np.ndarray:
        """Best earlier accuracy minus the final one, mean over the phases but the last, (seeds,)."""
        last = self.of_phases.shape[1] - 1
        lost = [self.of_phases[:, p, p:].max(axis=1) - self.of_phases[:, p, -1] for p in range(last)]
        mean: np.ndarray = np.mean(lost, axis=0)
        return mean

    @property
    def newest(self) -> np.ndarray:
        """Accuracy on the classes of the last phase after it, (seeds,)."""
        of_last: np.ndarray = self.of_phases[:, -1, -1]
        return of_last


Key = tuple[str, str]
"""Method, and what is replayed: "0" or a number of samples a class, or one of the names above."""


def study(runs: Mapping[str, Sequence[Run]]) -> Study:
    """Return what the runs of configs/systems/changing.yaml come to."""
    found = _found(runs[_CONFIG])
    sizes = _sizes(found)
    return Study(
        title="Data that change: replay against forgetting",
        about=_ABOUT,
        reconstructed=_RECONSTRUCTED,
        claims=(*_of_fedavg(found, sizes), *_of_laws(found, sizes[-1]), *_of_methods(found, sizes[-1])),
        figures=(Picture("changing_forgetting", _figure(found, sizes), _CAPTION),),
        reading=_reading(found, sizes[-1]),
    )


_ABOUT = (
    "Ten clients with digits get two new classes in every phase of ten rounds, and those before are gone. Replay: "
    "when a phase ends each client fits a normal law to each class that it had, as a part of its own state that it "
    "never sends, and trains from then on beside new samples on some drawn from these laws, anew in every round. "
    "Forgetting is the best earlier accuracy on the classes of a phase minus the final one, mean over the phases "
    "but the last."
)
_RECONSTRUCTED = (
    "The setting is that of pFedGRP, of which no code was found. Its generators are small networks; here they are "
    "normal laws with a shrunk covariance of eight components, in pixels. Its server learns the weights W of a "
    "mixture for each client on replayed samples; that is left out: clients here are alike, and pFedGraph's mixing "
    "is what there is for others."
)
_CAPTION = (
    "Left: accuracy over all classes seen so far after each phase of FedAvg, by samples replayed a class and round. "
    "Middle: on the two classes of the first phase alone. Median and range over seeds. Right: accuracy over all "
    "classes at the end, a point a seed, without replay and with it."
)


def _of_fedavg(found: Mapping[Key, Found], sizes: Sequence[str]) -> tuple[Claim, ...]:
    none, most = found["fedavg", "0"], found["fedavg", sizes[-1]]
    of_sizes = [found["fedavg", size] for size in sizes]
    lost, gained = ([float(of.mean()) for of in kind] for kind in (
        [of.forgetting for of in of_sizes], [of.final for of in of_sizes],
    ))  # fmt: skip
    told = ", ".join(f"{size}: {100 * value:.1f}" for size, value in zip(sizes, lost, strict=True))
    return (
        Claim(
            "FedAvg: after the last phase replay is better over all classes", _PAPER, "higher in every seed",
            f"{_percent(most.final)} with {sizes[-1]} samples a class, {_percent(none.final)} without",
            _points(most.final, none.final), bool((most.final > none.final).all()),
        ),
        Claim(
            "FedAvg: replay forgets less", _PAPER, "lower in every seed",
            f"{_percent(most.forgetting)} with {sizes[-1]} samples a class, {_percent(none.forgetting)} without",
            _points(most.forgetting, none.forgetting), bool((most.forgetting < none.forgetting).all()),
        ),
        Claim(
            "FedAvg: the more is replayed, the less is forgotten", "expected of replay",
            "forgetting falls, accuracy rises with samples a class", f"forgetting in points, {told}",
            f"largest rise {100 * max(0.0, float(np.diff(lost).max())):.1f} points",
            bool((np.diff(lost) < 0).all() and (np.diff(gained) > 0).all()),
        ),
        Claim(
            "FedAvg: nothing is lost by replay instead of all classes from the start", _ASKED,
            f"within {100 * _NEAR:.0f} points",
            f"{_percent(most.final)}; {_percent(found['fedavg', _FROM_START].final)} from the start",
            _points(most.final, found["fedavg", _FROM_START].final),
            float(found["fedavg", _FROM_START].final.mean() - most.final.mean()) <= _NEAR,
        ),
        Claim(
            "FedAvg: replay costs nothing on the newest classes", _ASKED, f"within {100 * _NEAR:.0f} points",
            f"{_percent(most.newest)} with replay, {_percent(none.newest)} without",
            _points(most.newest, none.newest), float(none.newest.mean() - most.newest.mean()) <= _NEAR,
        ),
    )  # fmt: skip


def _of_laws(found: Mapping[Key, Found], most: str) -> tuple[Claim, ...]:
    laws, round_ones = found["fedavg", most], found["fedavg", _ONE_VARIANCE]
    return (
        Claim(
            "FedAvg: the covariance of a class matters: better than one variance for all directions", "expected",
            "higher accuracy in every seed",
            f"{_percent(laws.final)}; {_percent(round_ones.final)} with one variance a class",
            _points(laws.final, round_ones.final), bool((laws.final > round_ones.final).all()),
        ),
    )  # fmt: skip


def _of_methods(found: Mapping[Key, Found], most: str) -> tuple[Claim, ...]:
    claims = []
    for method in dict.fromkeys(method for method, _ in found if method != "fedavg"):
        none, replay = found[method, "0"], found[method, most]
        better = (replay.final > none.final) & (replay.forgetting < none.forgetting)
        claims.append(
            Claim(
                f"{method}: replay is better over all classes and forgets less", "expected of replay, new here",
                "in every seed",
                f"{_percent(replay.final)} and {_percent(none.final)}; forgetting {_percent(replay.forgetting)} and "
                f"{_percent(none.forgetting)}",
                f"{_points(replay.final, none.final)}; {_points(replay.forgetting, none.forgetting)}",
                bool(better.all()),
            )
        )  # fmt: skip
    return tuple(claims)


def _reading(found: Mapping[Key, Found], most: str) -> str:
    none, replay, local = (found[key] for key in (("fedavg", "0"), ("fedavg", most), ("local_only", most)))
    head = {name: found[f"{name}, head", "0"].forgetting for name in ("fedsim", "ffgg")}
    return (
        f"Without replay every method knows the last two classes and nothing else ({_percent(none.final)} of all): a "
        "head of one's own does not help, since it is retrained like all else (forgetting "
        f"{_percent(head['fedsim'])} with FedSim, {_percent(head['ffgg'])} with FFGG). Normal laws in pixels are "
        f"enough to bring it to {_percent(replay.final)}; alone, with the laws of its own samples, a client comes to "
        f"{_percent(local.final)}. What is left to learning everything at once is lost on the newest classes above all "
        f"({_percent(replay.newest)} on these), which have had ten rounds among about four times as many replayed "
        "samples. Replay is not free: rounds take longer, since there are more samples in them; bytes stay what they "
        "were. And in a data set as small as this the laws of a client, 10 classes of 9 × 64 numbers, are not much "
        "fewer numbers than its 134 or so images: laws save memory where a class has many more images than "
        "components, as on a stream; here they show the mechanism."
    )


def _figure(found: Mapping[Key, Found], sizes: Sequence[str]) -> Figure:
    with rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.2), layout="constrained")
        seen, first, methods = figure.subplots(1, 3)
        for colour, size in zip(CATEGORICAL, sizes, strict=False):
            of = found["fedavg", size]
            label = "no replay" if size == "0" else f"{size} a class"
            _draw(seen, of.seen, colour, label)
            _draw(first, of.of_phases[:, 0], colour, label)
        seen.axhline(
            float(np.median(found["fedavg", _FROM_START].final)),
            color="0.4",
            linestyle="--",
            label="all from the start",
        )
        for axes, title in ((seen, "FedAvg: classes seen so far"), (first, "FedAvg: classes of phase 1")):
            axes.set_title(title)
            axes.set_xlabel("phases done")
            axes.set_xticks(range(1, found["fedavg", "0"].seen.shape[1] + 1))
            axes.set_ylim(-0.03, 1.03)
        seen.set_ylabel("test accuracy, mean over clients")
        seen.legend(fontsize="small")
        names = list(dict.fromkeys(method for method, _ in found))
        for row, name in enumerate(names):
            for colour, size in ((CATEGORICAL[0], "0"), (CATEGORICAL[len(sizes) - 1], sizes[-1])):
                methods.plot(found[name, size].final, [row] * len(found[name, size].final), "o", color=colour)
        methods.set_yticks(range(len(names)), names)
        methods.set_xlim(-0.03, 1.03)
        methods.set_title("all classes, at the end")
        methods.set_xlabel("test accuracy")
        methods.invert_yaxis()
    return figure


def _draw(axes: Axes, values: np.ndarray, colour: str, label: str) -> None:
    along = np.arange(1, values.shape[1] + 1)
    axes.fill_between(along, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    axes.plot(along, np.median(values, axis=0), "o-", color=colour, label=label)


def _found(runs: Sequence[Run]) -> dict[Key, Found]:
    gathered: dict[Key, list[tuple[float, np.ndarray, np.ndarray]]] = {}
    for run in sorted(runs, key=lambda run: run.config.seed):
        problem, rounds = run.config.problem, run.result.rounds
        assert isinstance(problem, SupervisedSettings)
        of_phases, seen = np.zeros((0, 0)), np.zeros(0)
        if (phases := problem.phases) is not None:
            ends = np.cumsum(phases.lengths)
            names = [f"test_phase_{number + 1}_accuracy" for number in range(len(ends))]
            of_phases = np.stack([rounds[name].sel(round=ends).to_numpy() for name in names])
            seen = rounds.test_seen_accuracy.sel(round=ends).to_numpy()
        row = float(rounds.test_accuracy[-1]), of_phases, seen
        gathered.setdefault((_method(run), _replayed(problem)), []).append(row)
    return {key: Found(*(np.array(column) for column in zip(*rows, strict=True))) for key, rows in gathered.items()}


def _method(run: Run) -> str:
    has_head = isinstance(run.config.problem, SupervisedSettings) and run.config.problem.split.local
    return f"{run.config.algorithm.name}, head" if has_head else run.config.algorithm.name


def _replayed(problem: SupervisedSettings) -> str:
    if problem.phases is None:
        return _FROM_START
    if problem.rehearsal is None:
        return "0"
    return _ONE_VARIANCE if problem.rehearsal.shrinkage == 1 else str(problem.rehearsal.samples)


def _sizes(found: Mapping[Key, Found]) -> list[str]:
    return sorted((size for method, size in found if method == "fedavg" and size.isdigit()), key=int)


def _percent(values: np.ndarray) -> str:
    return f"{100 * float(values.mean()):.1f} %"


def _points(one: np.ndarray, other: np.ndarray) -> str:
    return f"{100 * float(one.mean() - other.mean()):+.1f} points"
