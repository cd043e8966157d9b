"""Pruning and personalization over wireless: what it costs in accuracy, and what it saves in simulated seconds."""

from __future__ import annotations

import math
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ppfl.analysis.figure import CATEGORICAL, STYLE
from ppfl.analysis.systems.study import Claim, Picture, Study
from ppfl.interfaces.band import SharedBand
from ppfl.interfaces.pruning import Pruned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from ppfl.analysis.systems.runs import Run

MNIST, PERMUTED = "wireless-mnist", "wireless-permuted"
CONFIGS = (MNIST, PERMUTED)
HALF = 0.5
"""Of the latency without pruning, at which the works on it compare."""
REPLICA = {0.0: 83.0, 0.5: 81.0, 0.9: 74.0}
"""Accuracy of FedSim on permuted labels by ratio, %, of a replica in NumPy."""
NEAR = 3.0
"""Points of accuracy: a client has 139 images to be tested on, the network 10 of them, and seeds differ by as much."""
SOURCE = "Liu, Ratnarajah, Sellathurai, Eldar (IEEE TSP 2024), abstract"


class _Way(NamedTuple):
    """What is compared on mnist20."""

    method: str
    share: float | None
    """T over the latency without pruning; None without pruning."""
    bandwidth: str


def study(runs: Mapping[str, Sequence[Run]]) -> Study:
    """Return what the runs on mnist20 and on digits with permuted labels come to."""
    ways = _by_way(runs[MNIST])
    by_ratio = _by_ratio(runs[PERMUTED])
    return Study(
        title="Pruning and personalization over wireless",
        about="Clients on one band keep the largest coordinates of θ, so many that a round meets a target T, and keep "
        "their output layer to themselves. Two tasks: mnist20, where every client has few classes, so that its output "
        "layer does most; and digits whose labels every client permutes in its own way, with 40 samples each, where θ "
        "is needed. Three seeds, which draw rates, seconds of computing, initial values and batches.",
        reconstructed="All formulas: the latency, the closed form of bandwidth and ratios, the masks, the server's "
        "step and what is deployed (θ⊙M_i, w_i) follow the words of abstracts and first pages. Channel constants and "
        "tables of the papers were not at hand. Pruning with FFGG is new.",
        claims=(*_claims_of_latency(ways), *_claims_of_accuracy(ways), *_claims_of_permuted(by_ratio)),
        figures=(
            Picture("wireless-seconds", _draw_seconds(ways), "Test accuracy on mnist20 against simulated seconds, "
                    "medians of the seeds; T is a share of what a round takes with nothing pruned and equal bandwidth. "
                    "To the left of FedSim is what the target saves."),
            Picture("wireless-ratios", _draw_ratios(by_ratio), "Digits with permuted labels: test accuracy against the "
                    "share of θ that is pruned, FedSim and, new, FFGG; bars go from the lowest to the highest seed. "
                    "Below the line of local_only a client is better off alone."),
        ),
        reading="A round waits for its slowest client, so half the latency prunes the slow ones alone, a small part of "
        "θ in all, and costs nothing on mnist20. Most of that saving is not of pruning: the same band, dealt for the "
        "slowest client with nothing pruned, is about as fast, and a saving has to be read against that curve; pruning "
        "goes on where the band ends. A latency target is for tasks whose local part carries most of the accuracy, as "
        "with few classes a client. Where all clients need a good θ, every share that is pruned costs, and beyond "
        "about 0.8 clients that stay alone do better: run local_only before choosing a target.",
    )  # fmt: skip


def _claims_of_latency(ways: Mapping[_Way, Sequence[Run]]) -> list[Claim]:
    targets = [way for way in ways if way.share is not None]
    whole = _by_seed(ways[_Way("fedsim", None, "equal")])
    excess = max(
        _seconds(run) / (way.share * _seconds(whole[run.config.seed])) - 1.0
        for way in targets
        for run in ways[way]
        if way.share is not None
    )
    kept = {way: _by_seed(ways[way]) for way in targets}
    gains = [
        _bytes(kept[way][seed]) - _bytes(kept[way._replace(bandwidth="equal")][seed])
        for way in targets
        if way.bandwidth == "best" and way._replace(bandwidth="equal") in kept
        for seed in kept[way]
    ]
    return [
        Claim(
            "No client is later than the target.", "derived", "slowest client over T at most 1",
            f"at most {1.0 + excess:.6f}", f"{excess:.1e}", excess <= 1e-9,
        ),
        Claim(
            "The best bandwidth never prunes more than an equal one.", "derived",
            "bytes kept, best minus equal, at least 0 for every seed and target",
            f"least {min(gains):.3g} bytes a round, {len(gains)} pairs", f"{min(gains):.3g}", min(gains) >= 0.0,
        ),
        _claim_of_saving(ways),
    ]  # fmt: skip


def _claim_of_saving(ways: Mapping[_Way, Sequence[Run]]) -> Claim:
    whole = ways[_Way("fedsim", None, "equal")]
    goal = _median([_final(run) for run in whole]) - 1.0

    def until(way: _Way) -> float:
        return _median([_seconds_until(run, goal) for run in ways[way]])

    plain, dealt = until(_Way("fedsim", None, "equal")), until(_Way("fedsim", None, "best"))
    pruned = until(_Way("pruned_fedsim", HALF, "best"))
    return Claim(
        "Similar accuracy with about half the latency of personalization without pruning.", SOURCE,
        "simulated seconds until 1 point below FedSim's end, pruned over not, about 0.5",
        f"{pruned / plain:.2f} ({pruned:.0f} s against {plain:.0f} s; without pruning, the band dealt for the slowest: "
        f"{dealt:.0f} s)",
        f"{pruned / plain - HALF:+.2f}", pruned / plain <= HALF + 0.1,
    )  # fmt: skip


def _claims_of_accuracy(ways: Mapping[_Way, Sequence[Run]]) -> list[Claim]:
    plain = _median([_final(run) for run in ways[_Way("fedsim", None, "equal")]])
    found = {}
    for bandwidth in ("equal", "best"):
        found[bandwidth] = _median([_final(run) for run in ways[_Way("pruned_fedsim", HALF, bandwidth)]])
    alike = ", ".join(f"{bandwidth} {value:.1f} %" for bandwidth, value in found.items())
    worst = min(found.values()) - plain
    return [
        Claim(
            "On mnist20 half the latency costs at most a point, after as many rounds.", SOURCE,
            "accuracy within 1 point of FedSim", f"FedSim {plain:.1f} %; at T = 0.5: {alike}", f"{worst:+.1f} points",
            worst >= -1.0,
        )
    ]  # fmt: skip


def _claims_of_permuted(by_ratio: Mapping[tuple[str, float], Sequence[Run]]) -> list[Claim]:
    ends = {key: _median([_final(run) for run in of_key]) for key, of_key in by_ratio.items()}
    simultaneous = {ratio: end for (method, ratio), end in ends.items() if method == "fedsim"}
    alone = _median([end for (method, _), end in ends.items() if method == "local_only"])
    compared = {ratio: wanted for ratio, wanted in REPLICA.items() if ratio in simultaneous}
    off = {ratio: simultaneous[ratio] - wanted for ratio, wanted in compared.items()}
    most = max(abs(value) for value in off.values())
    falls = [
        _falls({ratio: end for (method, ratio), end in ends.items() if method == name}) for name in ("fedsim", "ffgg")
    ]
    last = max(simultaneous)
    return [
        Claim(
            "On permuted labels pruning costs: 83, 81, 74 % at ratios 0, 0.5, 0.9.", "a replica in NumPy",
            ", ".join(f"{wanted:.0f}" for wanted in compared.values()),
            ", ".join(f"{simultaneous[ratio]:.1f}" for ratio in compared), f"at most {most:.1f} points", most <= NEAR,
        ),
        Claim(
            "The more is pruned, the less accurate, FedSim and FFGG alike.", "a replica in NumPy (FedSim); new (FFGG)",
            "no ratio better than a smaller one by a point",
            f"rises of at most {falls[0]:.1f} and {falls[1]:.1f} points", f"{max(falls):.1f}", max(falls) <= 1.0,
        ),
        Claim(
            "Pruned by more than 0.8, a client does better alone.", "a replica in NumPy",
            f"FedSim at {last:g} below local_only", f"{simultaneous[last]:.1f} % against {alone:.1f} %",
            f"{simultaneous[last] - alone:+.1f} points", simultaneous[last] < alone,
        ),
    ]  # fmt: skip


def _falls(ends: Mapping[float, float]) -> float:
    """Return the largest rise from a ratio to a larger one, 0 where there is none."""
    values = [ends[ratio] for ratio in sorted(ends)]
    return max([0.0, *(later - min(values[:number]) for number, later in enumerate(values) if number)])


def _draw_seconds(ways: Mapping[_Way, Sequence[Run]]) -> Figure:
    figure, [axes] = _figure(1)
    ordered = sorted(ways, key=lambda way: (way.method, -(way.share or math.inf), way.bandwidth == "best"))
    # one colour for what is compared, however the band is dealt: with one for each curve they would begin again
    colours = dict(zip(dict.fromkeys((way.method, way.share) for way in ordered), cycle(CATEGORICAL), strict=False))
    for way in ordered:
        # round 0 has no place on a logarithmic axis, on which a saving by a factor is the same distance everywhere
        seconds = np.median([run.result.rounds["virtual_seconds"].to_numpy()[1:] for run in ways[way]], axis=0)
        accuracy = np.median([_accuracies(run)[1:] for run in ways[way]], axis=0)
        style = "-" if way.bandwidth == "equal" else "--"
        # T = 1 prunes nothing with equal bandwidth, and lies on FedSim, which is drawn wider to be seen beneath
        width = 1.2 if way.share is not None else 2.6
        axes.plot(seconds, accuracy, style, color=colours[way.method, way.share], label=_label(way), linewidth=width)
    axes.set_xscale("log")
    axes.set_xlabel("simulated seconds")
    axes.set_ylabel("test accuracy, %")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _draw_ratios(by_ratio: Mapping[tuple[str, float], Sequence[Run]]) -> Figure:
    figure, [axes] = _figure(1)
    for (method, name), colour in zip((("fedsim", "FedSim"), ("ffgg", "FFGG")), CATEGORICAL, strict=False):
        ratios = sorted(ratio for of_method, ratio in by_ratio if of_method == method)
        ends = [[_final(run) for run in by_ratio[method, ratio]] for ratio in ratios]
        middle = np.array([_median(values) for values in ends])
        bars = np.array([middle - [min(values) for values in ends], [max(values) for values in ends] - middle])
        axes.errorbar(ratios, middle, yerr=bars, marker="o", capsize=3, color=colour, label=name)
    alone = [_final(run) for (method, _), of_key in by_ratio.items() if method == "local_only" for run in of_key]
    axes.axhline(_median(alone), color="0.4", linestyle=":", label="local_only")
    axes.set_xlabel("share of θ that is pruned, ρ")
    axes.set_ylabel("test accuracy, %")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _figure(columns: int) -> tuple[Figure, list[Axes]]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * columns + 2.4, 3.2), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)
    return figure, list(axes[0])


def _label(way: _Way) -> str:
    name = {"fedavg": "FedAvg", "fedsim": "FedSim", "pruned_fedsim": "pruned"}[way.method]
    target = "" if way.share is None else f", T = {way.share:g}"
    return f"{name}{target}, {way.bandwidth} bandwidth"


def _by_way(runs: Sequence[Run]) -> dict[_Way, list[Run]]:
    found: dict[_Way, list[Run]] = {}
    for run in runs:
        network = run.config.network
        assert isinstance(network, SharedBand)
        found.setdefault(_Way(run.config.algorithm.name, network.target_share, network.bandwidth), []).append(run)
    return found


def _by_ratio(runs: Sequence[Run]) -> dict[tuple[str, float], list[Run]]:
    """Return the runs by method, without `pruned_`, and ratio."""
    found: dict[tuple[str, float], list[Run]] = {}
    for run in runs:
        method = run.config.algorithm
        ratio = method.ratios if isinstance(method, Pruned) and isinstance(method.ratios, float) else 0.0
        found.setdefault((method.name.removeprefix("pruned_"), ratio), []).append(run)
    return found


def _by_seed(runs: Sequence[Run]) -> dict[int, Run]:
    return {run.config.seed: run for run in runs}


def _accuracies(run: Run) -> NDArray[np.float64]:
    return 100.0 * np.asarray(run.result.rounds["test_accuracy"].to_numpy(), dtype=np.float64)


def _final(run: Run) -> float:
    """Return the mean over clients of the last accuracy, %."""
    return float(_accuracies(run)[-1])


def _seconds(run: Run) -> float:
    """Return the simulated seconds of a round."""
    return float(run.result.rounds["virtual_seconds"].to_numpy()[-1]) / run.config.rounds


def _bytes(run: Run) -> float:
    """Return the bytes that clients send up in a round."""
    return float(run.result.rounds["uplink_bytes"].to_numpy()[-1]) / run.config.rounds


def _seconds_until(run: Run, goal: float) -> float:
    """Return the simulated seconds until an accuracy; inf where it is not reached."""
    there = np.flatnonzero(_accuracies(run) >= goal)
    return float(run.result.rounds["virtual_seconds"].to_numpy()[there[0]]) if len(there) else float("inf")


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
