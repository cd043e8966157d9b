"""A backdoor: whether a personal head stops it, beside robust rules and fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ppfl.analysis.figure import CATEGORICAL, STYLE
from ppfl.analysis.systems.study import Claim, Picture, Study
from ppfl.attacks.backdoor import Backdoor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ppfl.analysis.systems.runs import Run

CONFIG = "backdoor"
INSTALLED = 50.0
"""Success, %, from which a backdoor is said to be installed."""
STOPPED = 5.0
"""Points above what the trigger does to a model that nobody has attacked, within which it is said to be stopped."""
TUNED = "fine-tuned"
HEADS = ("fedper", "fedrep", "ffgg")
LABELS = {
    "fedavg": "FedAvg", TUNED: "FedAvg, fine-tuned", "fedper": "FedPer, head local", "fedrep": "FedRep, head local",
    "ffgg": "FFGG, head local", "lg_fedavg": "LG-FedAvg, input local", "local_only": "local_only",
}  # fmt: skip
_RULES = {"mean": "o", "trimmed_mean": "s", "krum": "^"}
_ASKED = "asked here: nobody claims it"


class _Way(NamedTuple):
    """What is compared."""

    method: str
    rule: str
    trigger: str


class _Scores(NamedTuple):
    """Of the honest clients of one run, %."""

    success: float
    accuracy: float
    where_known: float
    """Success with those that have samples of the target class."""


_Found = dict[_Way, list[_Scores]]


def study(runs: Mapping[str, Sequence[Run]]) -> Study:
    """Return what the runs on digits come to."""
    found = _by_way(runs[CONFIG])
    claims = (
        *_claims_of_heads(found),
        *(claim for rule in ("trimmed_mean", "krum") for claim in _claims_of_rule(found, rule)),
        _claim_of_input(found), _claim_of_tuning(found), _claim_of_parts(found),
    )  # fmt: skip
    return Study(
        title="Backdoors and personal heads",
        about="Three of 20 clients of digits with unequal classes (Dirichlet, α = 0.3) put a white square on half of "
        "their samples and call them 0. Success is the share of honest clients' test samples of other classes that are "
        "taken for 0 with the square on them, of what each client deploys; three seeds, which draw attackers, "
        "partition and batches. local_only, which shares nothing, is what the square does by itself.",
        reconstructed="Pattern, place and share of the poisoned samples are ours; the attacks are cited from memory. "
        "Attackers do not scale what they send (no model replacement), and know nothing of the rule.",
        claims=claims,
        figures=(
            Picture("systems-backdoor", _draw(found), "Success of the backdoor against accuracy on clean samples, "
                    "medians of the seeds, and from the lowest to the highest of them. To the lower right is what "
                    "one wants; the dotted line is what the trigger does where nothing is shared."),
        ),
        reading=_reading(found),
    )  # fmt: skip


def _claims_of_heads(found: _Found) -> list[Claim]:
    plain, base = _success(found, "fedavg"), _success(found, "local_only")
    heads = {method: _success(found, method) for method in HEADS}
    known = {method: _known(found, method) for method in ("fedavg", "local_only", *HEADS)}
    said = ", ".join(f"{LABELS[method]} {value:.1f} %" for method, value in heads.items())
    least, most = plain - max(heads.values()), max(heads.values()) - base
    beyond = max(known[method] for method in HEADS) - known["local_only"]
    return [
        Claim(
            "Under the mean a trigger of few clients gets into the model that all share.",
            "Bagdasaryan et al. 2020 (from memory)", f"success with FedAvg at least {INSTALLED:.0f} %",
            f"{plain:.1f} %", f"{plain - INSTALLED:+.1f} points", plain >= INSTALLED,
        ),
        Claim(
            "A personal head lowers its success.", _ASKED, f"each below FedAvg's {plain:.1f} %", said,
            f"at least {least:.1f} points lower", least > 0,
        ),
        Claim(
            "A personal head stops it.", _ASKED, f"each at most {STOPPED:.0f} points above local_only, {base:.1f} %",
            said, f"at most {most:+.1f} points above", most <= STOPPED,
        ),
        Claim(
            "It does so for clients, too, that have the target among their own classes.", _ASKED,
            f"each at most {STOPPED:.0f} points above local_only, {known['local_only']:.1f} % with them",
            ", ".join(f"{LABELS[method]} {known[method]:.1f} %" for method in ("fedavg", *HEADS)),
            f"at most {beyond:+.1f} points above", beyond <= STOPPED,
        ),
    ]  # fmt: skip


def _claims_of_rule(found: _Found, rule: str) -> list[Claim]:
    noise = float(np.ptp(_of_seeds(found, "local_only")))
    wanted = (
        f"lower in every seed by more than local_only, which nobody attacks, differs between seeds, {noise:.1f} points"
    )
    claims = []
    for text, methods in (
        (f"A robust rule, {rule}, lowers it where the head is shared.", ("fedavg",)),
        (f"{rule} lowers what is left of it with personal heads, too.", HEADS),
    ):
        drops = {method: _of_seeds(found, method) - _of_seeds(found, method, rule) for method in methods}
        least = min(float(drop.min()) for drop in drops.values())
        said = ", ".join(
            f"{LABELS[method]} {_success(found, method):.1f} to {_success(found, method, rule):.1f} %, accuracy "
            f"{_accuracy(found, method):.1f} to {_accuracy(found, method, rule):.1f} %"
            for method in methods
        )
        claims.append(Claim(text, _ASKED, wanted, said, f"lower by {least:+.1f} points at least", least > noise))
    return claims


def _claim_of_input(found: _Found) -> Claim:
    plain, own = _success(found, "fedavg"), _success(found, "lg_fedavg")
    return Claim(
        "A personal input layer lowers it as well.", _ASKED, f"below FedAvg's {plain:.1f} %", f"{own:.1f} %",
        f"{own - plain:+.1f} points", own < plain,
    )  # fmt: skip


def _claim_of_tuning(found: _Found) -> Claim:
    plain, tuned = _success(found, "fedavg"), _success(found, TUNED)
    return Claim(
        "Fine-tuning all of the shared model on clean samples lowers it.", _ASKED, f"below FedAvg's {plain:.1f} %",
        f"{tuned:.1f} %", f"{tuned - plain:+.1f} points", tuned < plain,
    )  # fmt: skip


def _claim_of_parts(found: _Found) -> Claim:
    common, parts = _success(found, "fedavg"), _success(found, "fedavg", trigger="parts")
    own, head = _success(found, "fedavg", trigger="own"), _success(found, "fedper", trigger="own")
    return Claim(
        "A trigger dealt among the attackers succeeds more than one that all of them have.",
        "Xie et al. 2020 (from memory)", f"above {common:.1f} %, FedAvg under the mean",
        f"{parts:.1f} % (a trigger of its own for each: {own:.1f} %, with FedPer {head:.1f} %)",
        f"{parts - common:+.1f} points", parts > common,
    )  # fmt: skip


def _reading(found: _Found) -> str:
    plain, head, base = (_success(found, method) for method in ("fedavg", "fedper", "local_only"))
    known = {method: _known(found, method) for method in ("fedavg", "fedper", "local_only")}
    return (
        f"Success under the mean: FedAvg {plain:.0f} %, FedPer {head:.0f} %, nothing shared {base:.0f} %; with clients "
        f"that have 0 among their own classes {known['fedavg']:.0f}, {known['fedper']:.0f} and "
        f"{known['local_only']:.0f} %: the last three are to be looked at, since a head that has never seen the target "
        "hardly says it, attacked or not. With personal heads so little is left that what a rule takes off is within "
        "what seeds differ by, a criterion that was set after a looser one, medians alone, had called it an effect. "
        "Why heads stop it: a reason is likely, and not tested: attackers have a head of their own, too, "
        "and nothing ties what θ makes of the trigger to a class of an honest head. Clean accuracy "
        "is that under attack: nothing was run without attackers, so that no price of any of these is known, only that "
        "Krum with FedAvg ends far below the mean. One share of attackers, one pattern and one small network "
        "were tried, without scaled updates, and no attack that is made for personal heads, whose attackers would "
        "have to make the features of the trigger look like those of the target."
    )


def _draw(found: _Found) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 3.8), layout="constrained")
        axes = figure.subplots()
        methods = [method for method in LABELS if any(way.method == method for way in found)]
        for method, colour in zip(methods, CATEGORICAL, strict=False):
            for rule, marker in _RULES.items():
                if (of_way := found.get(_Way(method, rule, "common"))) is None:
                    continue
                x, y = (np.array([getattr(one, name) for one in of_way]) for name in ("accuracy", "success"))
                label = LABELS[method] if rule == "mean" else None
                axes.errorbar(
                    np.median(x), np.median(y), xerr=_bars(x), yerr=_bars(y), fmt=marker, color=colour, label=label,
                    capsize=2, elinewidth=0.8,
                )  # fmt: skip
        for rule, marker in _RULES.items():
            axes.plot([], [], marker, color="0.4", label=rule.replace("_", " "))
        axes.axhline(_success(found, "local_only"), color="0.4", linestyle=":")
        axes.set_xlabel("test accuracy on clean samples, %")
        axes.set_ylabel("success of the backdoor, %")
        figure.legend(loc="outside right upper", frameon=False)
    return figure


def _bars(values: NDArray[np.float64]) -> NDArray[np.float64]:
    middle = np.median(values)
    return np.array([[middle - values.min()], [values.max() - middle]])


def _by_way(runs: Sequence[Run]) -> _Found:
    found: _Found = {}
    # ways are compared seed by seed
    for run in sorted(runs, key=lambda run: run.config.seed):
        byzantine = run.config.byzantine
        assert byzantine is not None
        assert isinstance(byzantine.attack, Backdoor)
        way = _Way(run.config.algorithm.name, run.config.aggregator.name, byzantine.attack.trigger)
        found.setdefault(way, []).append(_scores(run, "personal"))
        if way.method == "fedavg":
            found.setdefault(way._replace(method=TUNED), []).append(_scores(run, "tuned"))
    return found


def _scores(run: Run, stage: str) -> _Scores:
    clients, summary = run.result.clients, run.result.summary
    assert run.config.byzantine is not None
    assert isinstance(run.config.byzantine.attack, Backdoor)
    success = clients[f"{stage}_test_backdoor_success"].to_numpy()
    target = run.config.byzantine.attack.target
    knows = (clients["label_histogram"].to_numpy()[:, target] > 0) & (clients["byzantine"].to_numpy() == 0)
    of_stage = {
        name: float(summary[f"test_{name}"].sel(stage=stage, statistic="mean"))
        for name in ("backdoor_success", "accuracy")
    }
    return _Scores(
        100.0 * of_stage["backdoor_success"], 100.0 * of_stage["accuracy"], 100.0 * float(np.nanmean(success[knows]))
    )


def _of_seeds(found: _Found, method: str, rule: str = "mean", trigger: str = "common") -> NDArray[np.float64]:
    """Return the success of every seed."""
    return np.array([one.success for one in found[_Way(method, rule, trigger)]])


def _success(found: _Found, method: str, rule: str = "mean", trigger: str = "common") -> float:
    """Return the median of the seeds."""
    return float(np.median(_of_seeds(found, method, rule, trigger)))


def _accuracy(found: _Found, method: str, rule: str = "mean") -> float:
    return float(np.median([one.accuracy for one in found[_Way(method, rule, "common")]]))


def _known(found: _Found, method: str) -> float:
    return float(np.median([one.where_known for one in found[_Way(method, "mean", "common")]]))
