"""Who is hurt: clients that one run serves worse than others do, compared client by client on the same samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ppfl.config.samples import settings_of_samples
from ppfl.core.errors import UserError
from ppfl.results.client_scores import Worst, larger_is_better, worst_tenth
from ppfl.results.layout import SAMPLES
from ppfl.results.reader import open_result

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ppfl.results.reader import Result

Scores = npt.NDArray[np.float64]
_SIZES = ("num_train_samples", "num_validation_samples", "num_test_samples")


@dataclass(frozen=True)
class Than:
    """The run that is judged beside another one; clients are those that count in both."""

    path: Path
    method: str
    scores: Scores
    """Of the other run, (M,)."""
    num_hurt: int
    """Clients with a worse score in the run that is judged; one that is no number is worse than any that is."""
    num_tied: int

    @property
    def share_hurt(self) -> float:
        """Part of the clients that are hurt."""
        return self.num_hurt / len(self.scores)


@dataclass(frozen=True)
class Hurt:
    """How a run serves its clients, and how others serve the same ones."""

    path: Path
    method: str
    metric: str
    clients: tuple[str, ...]
    """Names of those that count, M."""
    scores: Scores
    """(M,)."""
    others: tuple[Than, ...]
    num_unscored: int
    """Clients that have no score in any of the runs: without such samples, or not scored."""
    num_byzantine: int
    num_answering: int
    """Honest clients that only answer at the query points of others in any of the runs."""

    def worst(self, scores: Scores) -> Worst:
        """Return how the worst tenth fares."""
        return worst_tenth(self.metric, scores)


def hurt(
    path: Path, than: Sequence[Path], metric: str = "test_accuracy", stage: str = "personal", than_stage: str = ""
) -> Hurt:
    """Compare the clients of a finished run with the same clients in others, by name.

    metric: of the final scores; stage: of the run, and of the others where `than_stage` says nothing else.

    Raises UserError for what is no finished result, has no such score of anybody, or was scored on other samples.
    """
    if not than:
        raise UserError("--than: a comparison needs at least one other result")
    judged, others = open_result(path), [open_result(other) for other in than]
    for other in others:
        _refuse_other_samples(judged, other)
    mine = _scores(judged, metric, stage, "--stage")
    names = list(map(str, judged.clients["client"].to_numpy()))
    option = "--than-stage" if than_stage else "--stage"
    theirs = [_by_name(other, names, _scores(other, metric, than_stage or stage, option)) for other in others]
    attackers, answering = (
        np.logical_or.reduce([_by_name(result, names, of(result)) for result in (judged, *others)])
        for of in (_attacking, _answering)
    )
    scored = np.logical_or.reduce([~np.isnan(scores) for scores in (mine, *theirs)])
    there = scored & ~attackers & ~answering
    if not there.any():
        raise UserError(
            f"--metric {metric}: no honest client of {path} has such a score, nor of what it is compared with"
        )
    found = tuple(
        _than(other, metric, mine[there], scores[there]) for other, scores in zip(others, theirs, strict=True)
    )
    return Hurt(
        judged.path, _method(judged), metric, tuple(np.array(names, dtype=object)[there]), mine[there], found,
        num_unscored=int((~scored & ~attackers & ~answering).sum()), num_byzantine=int(attackers.sum()),
        num_answering=int((answering & ~attackers).sum()),
    )  # fmt: skip


def _than(other: Result, metric: str, mine: Scores, theirs: Scores) -> Than:
    sign = 1.0 if larger_is_better(metric) else -1.0
    # a logit that is not finite leaves a client without a score where others have one: nothing serves it worse
    better, worse = (np.where(np.isnan(scores), -np.inf, sign * scores) for scores in (theirs, mine))
    return Than(other.path, _method(other), theirs, int((worse < better).sum()), int((worse == better).sum()))


def _method(result: Result) -> str:
    return str(result.config.get("algorithm", {}).get("name", ""))


def _scores(result: Result, metric: str, stage: str, option: str) -> Scores:
    stages = [str(name) for name in result.summary["stage"].to_numpy()] if "stage" in result.summary else []
    if not stages:
        raise UserError(f"{result.path}: has no final scores yet (status {result.attrs['status']}); wait for its end")
    # newcomers are stages of the summary, and none of the clients that are compared
    stages = [name for name in stages if any(f"{name}_{metric}" in result.clients for metric in result.summary)]
    if stage not in stages:
        raise UserError(f"{option} {stage}: {result.path} has no such stage; allowed: {', '.join(stages)}")
    name = f"{stage}_{metric}"
    if name not in result.clients:
        known = [str(key) for key in result.summary.data_vars]
        raise UserError(f"--metric {metric}: {result.path} has no such final score; allowed: {', '.join(known)}")
    return np.asarray(result.clients[name].to_numpy(), dtype=np.float64)


def _attacking(result: Result) -> npt.NDArray[np.bool_]:
    return _marked(result, "byzantine", otherwise=False)


def _answering(result: Result) -> npt.NDArray[np.bool_]:
    # where nobody asks everybody is served
    return ~_marked(result, "main", otherwise=True)


def _marked(result: Result, role: str, otherwise: bool) -> npt.NDArray[np.bool_]:
    if role not in result.clients:
        return np.full(result.clients.sizes["client"], otherwise)
    return np.asarray(result.clients[role].to_numpy() == 1)


def _by_name(result: Result, names: Sequence[str], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    places = {str(name): place for place, name in enumerate(result.clients["client"].to_numpy())}
    return values[[places[name] for name in names]]


def _refuse_other_samples(one: Result, other: Result) -> None:
    """Raise UserError unless both were scored on the same samples of the same clients."""
    where = f"{other.path}: is of other data than {one.path}"
    settings = [settings_of_samples(result.config) for result in (one, other)]
    digests = [result.provenance.get(SAMPLES) for result in (one, other)]
    # results of before they had it are told apart by their settings alone
    if None in digests or digests[0] != digests[1]:
        for key in sorted(settings[0].keys() | settings[1].keys()):
            mine, theirs = (of.get(key) for of in settings)
            if mine != theirs:
                raise UserError(f"{where}: {key} is {theirs} and not {mine}; compare runs on the same samples")
    if digests[0] != digests[1] and None not in digests:
        raise UserError(
            f"{where}: files or plug-ins that it names had another content; compare runs on the same samples"
        )
    names = [{str(name) for name in result.clients["client"].to_numpy()} for result in (one, other)]
    if names[0] != names[1]:
        odd = sorted(names[0] ^ names[1])
        raise UserError(f"{where}: client {odd[0]} is in one of them alone ({len(odd)} are)")
    order = list(map(str, one.clients["client"].to_numpy()))
    for key in _SIZES:
        if key not in one.clients or key not in other.clients:
            continue
        mine = one.clients[key].to_numpy()
        theirs = _by_name(other, order, other.clients[key].to_numpy())
        if (unlike := np.flatnonzero(mine != theirs)).size:
            at = unlike[0]
            raise UserError(f"{where}: client {order[at]} has {theirs[at]} and not {mine[at]} as {key}")
