"""Splits × methods: `python -m benchmarks.splits FOLDER [JSON…]` prints Markdown from the results of configs/networks.

FOLDER has the results of `ppfl pack`. Each JSON was written by `ppfl diagnose FOLDER/<digest>.h5 --json JSON`: a second
table then sets ρ beside accuracies. Accuracies are means over clients, and over the worst tenth of clients.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.diagnose_mnist20 import rank_correlation
from ppfl.results.reader import Result, open_result

PARTS = ("output", "adapters", "LoRA", "input")
METHODS = ("ffgg", "local_ffgg", "fedalt", "local_only")
_OUTPUT = ("head.", "decoder.", "fc.")


def main(folder: Path, diagnoses: list[Path]) -> None:
    results = {(method_of(result), part_of(result)): result for result in map(open_result, sorted(folder.glob("*.h5")))}
    print("| local part | local parameters | " + " | ".join(METHODS) + " |")
    print("|---" * (len(METHODS) + 2) + "|")
    for part in PARTS:
        there = {method: results[method, part] for method in METHODS if (method, part) in results}
        if there:
            sizes = {int(result.problem["num_local_parameters"]) for result in there.values()}
            cells = [scores(there[method]) if method in there else "—" for method in METHODS]
            print(f"| {part} | {', '.join(f'{size:,}' for size in sorted(sizes))} | {' | '.join(cells)} |")
    if diagnoses:
        print_diagnoses(results, [json.loads(path.read_text()) for path in diagnoses])


def method_of(result: Result) -> str:
    name: str = result.config["algorithm"]["name"]
    return name


def part_of(result: Result) -> str:
    """Tell by its globs which part of the network is local."""
    globs = result.config["problem"]["split"]["local"]
    if any("lora" in glob for glob in globs):
        return "LoRA"
    if any("adapter" in glob for glob in globs):
        return "adapters"
    return "output" if globs[0].startswith(_OUTPUT) else "input"


def scores(result: Result) -> str:
    """Return `personal (worst tenth)`, and behind an arrow the same after the final stage where there is one."""
    stages, cells = ["personal"], []
    if "tuned" in result.stages.stage and float(result.stages.local_gradients.sel(stage="tuned")) > 0:
        stages.append("tuned")
    for stage in stages:
        accuracy = np.sort(result.clients[f"{stage}_test_accuracy"].to_numpy())
        worst = accuracy[: max(1, round(len(accuracy) / 10))]
        cells.append(f"{100 * accuracy.mean():.1f} ({100 * worst.mean():.1f})")
    status = str(result.attrs["status"])
    return " → ".join(cells) + (f" {status}" if status != "complete" else "")


def print_diagnoses(results: dict[tuple[str, str], Result], documents: list[dict[str, Any]]) -> None:
    found = {Path(document["source"]).stem: document["splits"][0] for document in documents}
    heads = ("method", "local part", "ρ", "σ²(θ₀)", "σ²(θ̂)", "of it ‖F‖²", "verdict", "personal", "diagnosed, w tuned")
    print(f"\n| {' | '.join(heads)} |")
    print("|---" * 9 + "|")
    lines: list[str] = []
    for method in METHODS:
        rows = [(part, results[method, part]) for part in PARTS if (method, part) in results]
        diagnosed = [
            (part, result, found[digest]) for part, result in rows if (digest := str(result.attrs["digest"])) in found
        ]
        for part, result, one in diagnosed:
            rho = f"{one['rho']['value']:.2g} ± {one['rho']['standard_error']:.1g}"
            squares = " | ".join(f"{one['rho'][key]:.3g}" for key in ("at_start", "at_end"))
            accuracies = f"{100 * personal(result):.1f} | {100 * one['test_accuracy']:.1f}"
            print(
                f"| {method} | {part} | {rho} | {squares} | {one['common_share']:.2f} | {one['level']} | {accuracies} |"
            )
        if len(diagnosed) > 1:
            measures = {
                "ρ": [one["rho"]["value"] for _, _, one in diagnosed],
                "σ²(θ̂)": [one["rho"]["at_end"] for _, _, one in diagnosed],
            }
            accuracies_of = {
                "personal": [personal(result) for _, result, _ in diagnosed],
                "tuned": [one["test_accuracy"] for _, _, one in diagnosed],
            }
            for measure, values in measures.items():
                said = ", ".join(f"{kind} {rank_correlation(values, y):+.1f}" for kind, y in accuracies_of.items())
                lines.append(f"Rank correlation of {measure} with accuracy, {method}, {len(diagnosed)} splits: {said}")
    print("\n" + "\n".join(lines))


def personal(result: Result) -> float:
    return float(result.summary.test_accuracy.sel(stage="personal", statistic="mean"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
