"""Compressed uplinks: accuracy against bytes and against simulated seconds, with error feedback and without."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ppfl.analysis.figure import CATEGORICAL, STYLE
from ppfl.analysis.systems.study import Claim, Picture, Study

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from ppfl.analysis.systems.runs import Run

FFGG, FEDAVG = "compressed-ffgg", "compressed-fedavg"
CONFIGS = (FFGG, FEDAVG)
LABELS = {FFGG: "FFGG", FEDAVG: "FedAvg"}
POINT = 1.0
"""Of accuracy, %: who ends within it, or gets there, has lost nothing that seeds would show."""
AXES = {"uplink_bytes": ("bytes that clients sent", 1e-6, "MB"), "virtual_seconds": ("simulated seconds", 1.0, "s")}
SOURCE = "Stich, Cordonnier, Jaggi (NeurIPS 2018); Karimireddy et al. (ICML 2019)"


class _Way(NamedTuple):
    """What is compared."""

    compressor: str
    """Its name and what it keeps, in words; "none"."""
    error_feedback: bool


_NONE = _Way("none", error_feedback=False)

_ByWay = dict[_Way, list["Run"]]


def study(runs: Mapping[str, Sequence[Run]]) -> Study:
    """Return what FFGG and FedAvg come to with compressed uplinks."""
    ways = {name: _by_way(runs[name]) for name in CONFIGS}
    return Study(
        title="Compressed uplinks",
        about="Ten clients send top-k and rand-k messages of 1 % of the entries, or 2 and 4 bits an entry, with a "
        "memory of what was lost and without. FFGG on digits that every client calls otherwise, with the output layer "
        "local; FedAvg on digits, two classes a client. Steps are those without compression, for all alike. Links "
        "carry 100 kbit/s up and 1 Mbit/s down and take 50 ms a message. Three seeds.",
        reconstructed="The compressors are those of their papers but for two things: rand-k is not scaled by D/k, and "
        "the quantizer takes the largest entry for the norm and is divided by 1 + ω, so that all of them are "
        "contractions. Error feedback of uplinks of FFGG is new: it remembers gradients of θ, w knows nothing of it.",
        claims=(
            *_claims_of_bytes(ways), *(claim for name in CONFIGS for claim in _claims_of_method(name, ways[name])),
            _claim_of_heads(ways),
        ),
        figures=(
            Picture("compressed-bytes", _draw(ways, "uplink_bytes"), "Test accuracy against the bytes that all clients "
                    "have sent, medians of the seeds, on a logarithmic axis: FFGG to the left, FedAvg to the right. "
                    "Solid lines with error feedback, dashed ones without; black sends everything."),
            Picture("compressed-seconds", _draw(ways, "virtual_seconds"), "The same against simulated seconds: latency "
                    "and what goes down, which nothing shortens, are most of a round once uplinks are short."),
        ),
        reading="Top-k with a memory is the compressor to begin with: it sends a hundredth of the entries and goes the "
        "way of the plain method, once its memory has filled. The memory is what counts, and the more so the more "
        "clients differ: without it what is large for one client is all that is ever heard of it. A personal head "
        "takes most of that difference away, so that FFGG stands even a compressor without memory where FedAvg does "
        "not. Bytes saved are not seconds saved: with uplinks of some hundred bytes a round lasts as long as its "
        "latency and its downlink, so that shorter messages save nothing more.",
    )  # fmt: skip


def _claims_of_bytes(ways: Mapping[str, _ByWay]) -> list[Claim]:
    found, is_less = [], []
    for name in CONFIGS:
        plain = _bytes(ways[name][_NONE][0])
        shares = {way.compressor: _bytes(runs[0]) / plain for way, runs in ways[name].items() if way != _NONE}
        is_less += [share < 1.0 for share in shares.values()]
        found.append(f"{LABELS[name]}: " + ", ".join(f"{label} 1/{1 / share:.0f}" for label, share in shares.items()))
    alike = {
        (name, way.compressor, _bytes(run)) for name in CONFIGS for way, of in ways[name].items() for run in of
    }  # fmt: skip
    kinds = {(name, way.compressor) for name in CONFIGS for way in ways[name]}
    return [
        Claim(
            "Messages are as long for every seed, with a memory and without.", "derived",
            "one number of bytes for each compressor and method", f"{len(alike)} numbers for {len(kinds)}; "
            + "; ".join(found), f"{len(alike) - len(kinds)}", len(alike) == len(kinds) and all(is_less),
        )
    ]  # fmt: skip


def _claims_of_method(name: str, ways: _ByWay) -> list[Claim]:
    label, ends = LABELS[name], {way: _median(map(_final, runs)) for way, runs in ways.items()}
    top = next(way for way in ways if way.compressor.startswith("top-k") and way.error_feedback)
    pairs = [(way, way._replace(error_feedback=True)) for way in ways if way != _NONE and not way.error_feedback]
    gains = {way.compressor: ends[remembering] - ends[way] for way, remembering in pairs if remembering in ends}
    least = min(gains.values())
    # after as many rounds, and not after as many bytes: what a message loses, and not what it saves
    lost = ends[top] - ends[_NONE]
    return [
        Claim(
            f"{label}: a hundredth of the entries, with a memory, ends where all of them do.", SOURCE,
            "accuracy within 1 point of the plain method, after as many rounds",
            f"{ends[top]:.1f} % against {ends[_NONE]:.1f} %", f"{lost:+.1f} points", lost >= -POINT,
        ),
        Claim(
            f"{label}: a memory is better than none, whatever the compressor.", SOURCE,
            "accuracy with it minus without above 0",
            ", ".join(f"{compressor} {gain:+.1f}" for compressor, gain in gains.items()), f"least {least:+.1f} points",
            least > 0.0,
        ),
        _claim_of_goal(label, ways, top, "uplink_bytes", 10.0),
        _claim_of_goal(label, ways, top, "virtual_seconds", 1.0),
    ]  # fmt: skip


def _claim_of_goal(label: str, ways: _ByWay, top: _Way, axis: str, factor: float) -> Claim:
    # for all seeds one goal: that of a single seed may be met by chance
    goal = _median(map(_final, ways[_NONE])) - POINT
    plain, shorter = (_median([_until(run, goal, axis) for run in ways[way]]) for way in (_NONE, top))
    what, scale, unit = AXES[axis]
    saved = plain / shorter
    return Claim(
        f"{label}: top-k with a memory gets there for fewer {what.split()[-1] if axis != 'uplink_bytes' else 'bytes'}.",
        "asked here", f"until 1 point below the plain method's end: {what}, plain over top-k, above {factor:g}",
        f"{plain * scale:.3g} {unit} against {shorter * scale:.3g} {unit}", f"{saved:.1f} times", saved > factor,
    )  # fmt: skip


def _claim_of_heads(ways: Mapping[str, _ByWay]) -> Claim:
    losses = {}
    for name in CONFIGS:
        ends = {way: _median(map(_final, runs)) for way, runs in ways[name].items()}
        losses[name] = {
            way.compressor: ends[_NONE] - end for way, end in ends.items() if way != _NONE and not way.error_feedback
        }
    margins = [losses[FEDAVG][one] - losses[FFGG][one] for one in losses[FFGG] if one in losses[FEDAVG]]
    found = "; ".join(
        f"{one}: FFGG {losses[FFGG][one]:.1f}, FedAvg {losses[FEDAVG][one]:.1f}"
        for one in losses[FFGG]
        if one in losses[FEDAVG]
    )
    return Claim(
        "With a personal head less is lost without a memory than without such a head.", "asked here: two tasks",
        "points lost of the plain method's accuracy, fewer for FFGG than for FedAvg", found,
        f"least margin {min(margins):+.1f} points", min(margins) > 0.0,
    )  # fmt: skip


def _draw(ways: Mapping[str, _ByWay], axis: str) -> Figure:
    what, scale, unit = AXES[axis]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.4), layout="constrained")
        axes: Sequence[Axes] = list(figure.subplots(1, len(CONFIGS), squeeze=False)[0])
    labels = list(dict.fromkeys(way.compressor for of in ways.values() for way in of if way != _NONE))
    colours = {"none": "black", **dict(zip(labels, CATEGORICAL, strict=False))}
    for name, plot in zip(CONFIGS, axes, strict=True):
        for way, runs in ways[name].items():
            # the beginning has no place on a logarithmic axis
            x = scale * np.median([run.result.rounds[axis].to_numpy()[1:] for run in runs], axis=0)
            y = np.median([_accuracies(run)[1:] for run in runs], axis=0)
            style = "-" if way.error_feedback or way == _NONE else "--"
            # in the legend once, with the style of those that remember
            shown = way.compressor if style == "-" and name == CONFIGS[0] else None
            plot.plot(x, y, style, color=colours[way.compressor], label=shown)
        plot.set_xscale("log")
        plot.set_xlabel(f"{what}, {unit}")
        plot.set_title(LABELS[name])
    axes[0].set_ylabel("test accuracy, %")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _by_way(runs: Sequence[Run]) -> _ByWay:
    found: _ByWay = {}
    for run in runs:
        found.setdefault(_way_of(run), []).append(run)
    return found


def _way_of(run: Run) -> _Way:
    compression = run.config.compression
    if compression is None:
        return _NONE
    # keys that were left out are null, and say nothing
    settings = compression.compressor.model_dump(exclude_none=True)
    kept = f"{100 * settings['share']:g} %" if "share" in settings else f"{settings['bits']} bits"
    return _Way(f"{settings['name'].replace('_', '-')} {kept}", compression.error_feedback)


def _accuracies(run: Run) -> NDArray[np.float64]:
    return 100.0 * np.asarray(run.result.rounds["test_accuracy"].to_numpy(), dtype=np.float64)


def _final(run: Run) -> float:
    """Return the last accuracy, %; that of a run that diverged is 0."""
    return float(_accuracies(run)[-1]) if run.is_complete else 0.0


def _bytes(run: Run) -> float:
    """Return the bytes that clients sent in a round."""
    rounds = run.result.rounds
    return float(rounds["uplink_bytes"].to_numpy()[-1]) / float(rounds["round"].to_numpy()[-1])


def _until(run: Run, goal: float, axis: str) -> float:
    """Return the bytes or seconds until an accuracy; inf where it is not reached."""
    there = np.flatnonzero(_accuracies(run) >= goal)
    return float(run.result.rounds[axis].to_numpy()[there[0]]) if len(there) else math.inf


def _median(values: object) -> float:
    return float(np.median(list(values)))  # type: ignore[call-overload]
