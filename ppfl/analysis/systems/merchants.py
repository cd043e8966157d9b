"""Glocal language models of merchants: which layers to share, where some words are a merchant's own."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from ppfl.analysis.figure import CATEGORICAL, STYLE
from ppfl.analysis.systems.study import Claim, Picture, Study
from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ppfl.analysis.systems.runs import Run
    from ppfl.config.run import Config

HEAD = {"merchants-heterogeneous": 20, "merchants-homogeneous": 20, "merchants-shakespeare": 5}
"""K of the hit rate that share sets are compared by: a part of the vocabulary, 76 words and more, or 86 characters."""
GROUPS = {"E": "word_embedding.weight", "B": "layers.0.linear1.weight", "D": "decoder.weight"}
"""Embedding, body and decoder, each told by one of its parameters."""
NOTHING, UNION = "–", "all, one vocabulary"
_EXPECTED = "expected of the experiment, derived"


def share_set(config: Config) -> str:
    """Return which layers a run shares, e.g. "E+D"."""
    section = config.problem.model_dump()
    local = section["split"]["local"]
    shared = [group for group, name in GROUPS.items() if not any(fnmatchcase(name, glob) for glob in local)]
    has_union = len(shared) == len(GROUPS) and section["dataset"].get("own", 0.0) and section["own_tokens"] is None
    return UNION if has_union else "+".join(shared) or NOTHING


def is_diagnosed(config: Config) -> bool:
    """Say whether the study asks for ρ of a run: those that sweep share sets and share something."""
    return config.algorithm.name == "fedsim" and share_set(config) != NOTHING


def diagnosis_path(result: Path) -> Path:
    """Return where what `ppfl diagnose` says of a result is."""
    return result.with_suffix(".rho.json")


class Sweep:
    """The runs of one configuration, by share sets, and its two baselines; a number a seed, in the order of seeds."""

    def __init__(self, stem: str, runs: Sequence[Run]) -> None:
        self.name, self.k = stem.partition("-")[2], HEAD[stem]
        ordered = sorted(runs, key=lambda run: run.config.seed)
        self.runs = ordered
        self.baselines = {
            name: [run for run in ordered if run.config.algorithm.name == name] for name in ("local_only", "fedavg")
        }
        self.sets: dict[str, list[Run]] = {}
        for run in ordered:
            if run.config.algorithm.name == "fedsim":
                self.sets.setdefault(share_set(run.config), []).append(run)

    def rates(self, share_set: str, part: str = "test") -> np.ndarray:
        """HR@K of the last round, a mean over merchants; NaN where a run diverged."""
        metric = f"{part}_hit_rate_at_{self.k}"
        return np.array([
            run.result.rounds[metric].to_numpy()[-1] if run.is_complete else np.nan for run in self.sets[share_set]
        ])  # fmt: skip

    def best(self, sets: Sequence[str]) -> str:
        """Return the set that validation samples choose, by means over seeds."""
        return max(sets, key=lambda name: float(self.rates(name, "validation").mean()))

    @property
    def all_shared(self) -> str:
        """The set that shares the whole model."""
        return UNION if UNION in self.sets else "+".join(GROUPS)

    @property
    def sharing(self) -> list[str]:
        """Sets that share something and have one ρ, of clients with their own words where there are some."""
        return [name for name in self.sets if name not in (NOTHING, UNION)]

    def rho(self, share_set: str) -> np.ndarray:
        """ρ of every seed. Raises UserError where nobody has asked for it."""
        return np.array([_rho(run.result.path) for run in self.sets[share_set]])


def _rho(result: Path) -> float:
    path = diagnosis_path(result)
    if not path.is_file():
        raise UserError(f"{path}: no such file; `ppfl diagnose {result.name} --json {path.name}` writes it")
    value = json.loads(path.read_text(encoding="utf-8"))["splits"][0]["rho"]["value"]
    return float("nan") if value is None else float(value)


def study(runs: Mapping[str, Sequence[Run]]) -> Study:
    """Return what the sweeps over share sets come to."""
    sweeps = [Sweep(stem, of_stem) for stem, of_stem in runs.items()]
    claims = [claim for sweep in sweeps for claim in _claims(sweep)]
    return Study(
        title="Merchants: glocal language models",
        about=(
            "Eight merchants sell products whose names are words of one grammar, category, brand and size; in a basket "
            "categories follow each other as a Markov chain. A Transformer of one layer says the next word, and HR@K "
            "is how often it is among the K first. Homogeneous merchants have one chain; heterogeneous ones each a "
            "permutation of it, and a quarter of the words for categories and brands are on average a merchant's own: "
            "their rows of the embedding and of the decoder are local parameters, with as many rows as the merchant "
            "has such words. Embedding (E), body (B) and decoder (D) are shared in all 2^3 sets, by FedSim. Third are "
            "ten roles of Shakespeare's plays, with the next character."
        ),
        reconstructed=(
            "The paper could not be found under its title, authors or company; experiment and inequalities are those "
            "of a brief that was made of its neighbours. Grammar, sizes, probabilities and the Transformer are our "
            "choice, and so is that words which one merchant alone uses are its own. Next is the next word of a "
            "basket, not a product. Sets are chosen by validation samples and compared on test samples."
        ),
        claims=tuple(claims),
        figures=(_rates(sweeps), _rhos(sweeps)),
        reading=_reading(claims),
    )


def _claims(sweep: Sweep) -> list[Claim]:
    expected = _partial_is_best(sweep) if sweep.name == "heterogeneous" else _sharing_helps(sweep)
    return [
        _is_same(sweep, NOTHING, "local_only"), _is_same(sweep, sweep.all_shared, "fedavg"), _is_ordered(sweep),
        expected, _rho_chooses(sweep),
    ]  # fmt: skip


def _is_same(sweep: Sweep, share_set: str, baseline: str) -> Claim:
    differ = compared = 0
    for one, other in zip(sweep.sets[share_set], sweep.baselines[baseline], strict=True):
        for name, found in _scores(one).items():
            compared += 1
            differ += not np.array_equal(found, _scores(other)[name], equal_nan=True)
    return Claim(
        text=f"{sweep.name}: sharing {'nothing' if share_set == NOTHING else 'everything'} is {baseline}, bit for bit",
        source="derived",
        wanted="0 arrays of scores differ",
        found=f"{differ} of {compared} differ",
        distance=str(differ),
        holds=not differ and compared > 0,
    )


def _scores(run: Run) -> dict[str, np.ndarray]:
    """Return the scores of rounds and of merchants."""
    tables = {"rounds": run.result.rounds, "clients": run.result.clients}
    return {
        f"{table}/{name}": values.to_numpy()
        for table, of_table in tables.items()
        for name, values in of_table.items()
        if "hit_rate" in str(name) or "ndcg" in str(name) or "loss" in str(name)
    }


def _is_ordered(sweep: Sweep) -> Claim:
    """HR@K rises with K up to 1, and NDCG@K is at most HR@K, of every merchant, in every run."""
    worst = 0.0
    for run in sweep.runs:
        ranks = sorted(run.config.problem.model_dump()["task"]["at"])
        clients = run.result.clients
        for stage in ("global", "personal"):
            rates, gains = (
                np.stack([clients[f"{stage}_test_{score}_at_{k}"].to_numpy() for k in ranks])
                for score in ("hit_rate", "ndcg")
            )
            worst = max(worst, float(-np.diff(rates, axis=0).min()), float((gains - rates).max()))
            worst = max(worst, float(np.abs(rates[-1] - 1).max()))
    return Claim(
        text=f"{sweep.name}: HR@K does not fall with K, HR@|V| is 1, NDCG@K is at most HR@K",
        source="derived",
        wanted="largest violation over all merchants, stages and runs: 0",
        found=f"{worst:.2g}",
        distance=f"{worst:.2g}",
        holds=worst == 0.0,
    )


def _sharing_helps(sweep: Sweep) -> Claim:
    best = sweep.best(sweep.sharing)
    return _gap(sweep, NOTHING, best, f"{sweep.name}: the best share set is at least as good as each alone", least=True)


def _partial_is_best(sweep: Sweep) -> Claim:
    partial = [name for name in sweep.sharing if name != "+".join(GROUPS)]
    text = f"{sweep.name}: one model for all is worse than the best that shares a part"
    return _gap(sweep, sweep.all_shared, sweep.best(partial), text, least=False)


def _gap(sweep: Sweep, low: str, high: str, text: str, *, least: bool) -> Claim:
    gaps = sweep.rates(high) - sweep.rates(low)
    others = [name for name in dict.fromkeys((low, high, NOTHING, sweep.all_shared)) if name in sweep.sets]
    return Claim(
        text=text,
        source=_EXPECTED,
        wanted=f"HR@{sweep.k} of {_called(high)} {'≥' if least else '>'} that of {_called(low)}, mean of the seeds",
        found="; ".join(f"{_called(name)} {_percent(sweep.rates(name))}" for name in others),
        distance=f"{100 * float(gaps.mean()):+.1f} points; {', '.join(f'{100 * gap:+.1f}' for gap in gaps)}",
        holds=bool(gaps.mean() >= 0 if least else gaps.mean() > 0),
    )


def _rho_chooses(sweep: Sweep) -> Claim:
    rho = {name: float(sweep.rho(name).mean()) for name in sweep.sharing}
    rates = {name: float(sweep.rates(name).mean()) for name in sweep.sharing}
    chosen, best = min(rho, key=rho.__getitem__), max(rates, key=rates.__getitem__)
    return Claim(
        text=f"{sweep.name}: the set with the smallest ρ of `ppfl diagnose` is the best one",
        source="asked of the experiment; docs/diagnose.md warns of it",
        wanted=f"the set with the largest HR@{sweep.k}, {best} (ρ {rho[best]:.2g})",
        found=f"{chosen} (ρ {rho[chosen]:.2g})",
        distance=f"{100 * (rates[best] - rates[chosen]):.1f} points",
        holds=chosen == best,
    )


def _called(share_set: str) -> str:
    return {NOTHING: "nothing shared", UNION: "all shared over one vocabulary"}.get(share_set, f"{share_set} shared")


def _percent(values: np.ndarray) -> str:
    return f"{100 * float(values.mean()):.1f} %"


def _rates(sweeps: Sequence[Sweep]) -> Picture:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.3 * len(sweeps), 3.4), layout="constrained")
        for ax, sweep in zip(figure.subplots(1, len(sweeps), squeeze=False)[0], sweeps, strict=True):
            names = sorted(sweep.sets, key=lambda name: (name == UNION, name.count("+") + (name != NOTHING), name))
            for place, name in enumerate(names):
                rates = sweep.rates(name)
                ax.plot([place] * len(rates), rates, "o", color=CATEGORICAL[0], ms=3.5, alpha=0.6)
                ax.plot([place - 0.3, place + 0.3], [rates.mean()] * 2, color=CATEGORICAL[1], lw=2)
            labels = ["all, one\nvocab." if name == UNION else name for name in names]
            ax.set_xticks(range(len(names)), labels, rotation=45, fontsize=8)
            ax.set(title=sweep.name, xlabel="shared layers", ylabel=f"test HR@{sweep.k}, mean over clients")
    caption = (
        "Hit rate of the last round by what is shared: E embedding, B body, D decoder, – nothing. Points are seeds, "
        "bars their means. Rows of own words are local in every set but the last one of heterogeneous merchants."
    )
    return Picture("merchants-rates", figure, caption)


def _rhos(sweeps: Sequence[Sweep]) -> Picture:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.3 * len(sweeps), 3.4), layout="constrained")
        for ax, sweep in zip(figure.subplots(1, len(sweeps), squeeze=False)[0], sweeps, strict=True):
            for number, name in enumerate(sweep.sharing):
                colour = CATEGORICAL[number % len(CATEGORICAL)]
                ax.plot(sweep.rho(name), sweep.rates(name), "o", color=colour, ms=5, label=name)
            ax.set(title=sweep.name, xlabel=r"$\rho$ of ppfl diagnose", ylabel=f"test HR@{sweep.k}", xscale="log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            ax.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.legend(fontsize=7, ncols=2, title="shared")
    caption = (
        "Does ρ order share sets as the hit rate does? A point a seed. Where it did, points would fall from the upper "
        "left to the lower right."
    )
    return Picture("merchants-rho", figure, caption)


def _reading(claims: Sequence[Claim]) -> str:
    failed = "; ".join(claim.text for claim in claims if not claim.holds)
    verdict = f"Not found: {failed}." if failed else "All of it holds."
    return (
        f"{verdict} The model that shares everything over one vocabulary ranks the words of all merchants, with own "
        "words those of one, so that its task is a harder one: what is compared is what a merchant gets, and not "
        "parameters alone. Why one set is better than another the hit rates do not say."
    )
