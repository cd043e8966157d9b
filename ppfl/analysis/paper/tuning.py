"""The rule that tunes every method of Figures 1b–d alike, and the experiment that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppfl.analysis.paper.runs import Run, grouped, load_runs
from ppfl.core.files import write_whole
from ppfl.core.yaml_text import dump_text


def choose(runs: Sequence[Run]) -> list[Run]:
    """Of every method, the run whose step size gave the least final ‖F‖ (the smaller one of two that are equal)."""
    methods = grouped(runs, lambda run: dump_text(_without_step(run)))
    return [min(group, key=lambda run: (run.final, _section(run)["lr"])) for group in methods.values()]


def write_comparison(tuning: Sequence[tuple[Path, Path]], seeds: Sequence[int], out: Path) -> None:
    """Write the experiment with the chosen steps on other seeds; `tuning` has configuration files and result folders.

    Raises ValueError when a method was tuned on a seed that is to be shown.
    """
    cases: list[dict[str, Any]] = []
    base: dict[str, Any] = {}
    for config, folder in tuning:
        for run in choose(load_runs(config, folder)):
            if run.config.seed in seeds:
                raise ValueError(f"{config}: seed {run.config.seed} is to be shown, so that nothing may be tuned on it")
            document = run.config.model_dump(mode="json", exclude_none=True)
            problem = {key: value for key, value in document["problem"].items() if key != "seed"}
            base = {"precision": document["precision"], "engine": document["engine"]}
            parts = {key: document[key] for key in ("rounds", "evaluate", "algorithm")}
            cases.append({**parts, "problem": problem})
    document = {"name": "comparison", **base, "grid": {"seed": list(seeds), "cases": cases}}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, dump_text(document).encode())


def _section(run: Run) -> dict[str, Any]:
    section: dict[str, Any] = run.config.model_dump(mode="json")["algorithm"]
    return section


def _without_step(run: Run) -> dict[str, Any]:
    document = run.config.model_dump(mode="json", exclude={"seed"})
    del document["algorithm"]["lr"], document["problem"]["seed"]
    return document
