"""Table of all methods: `python -m benchmarks.methods FOLDER…` prints Markdown, one row a method, from result files.

Accuracies are means over clients (and the 10 % quantile over clients), then means over seeds with the standard
deviation; seconds and bytes are those of all rounds.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from ppfl.results.reader import Result, open_result

STAGES = ("global", "personal", "tuned")


def main(folders: list[str]) -> None:
    for folder in folders:
        runs: dict[str, list[Result]] = defaultdict(list)
        for path in sorted(Path(folder).glob("*.h5")):
            result = open_result(path)
            runs[result.config["algorithm"]["name"]].append(result)
        print(f"\n## {folder}\n")
        head = [f"{stage}, {what}" for stage in STAGES for what in ("mean", "10 %")]
        print("| method | runs | " + " | ".join(head) + " | seconds | MB up | MB down |")
        print("|---" * (len(head) + 5) + "|")
        rows = sorted(((row(results), name, len(results)) for name, results in runs.items()), reverse=True)
        for (_, cells), name, count in rows:
            print(f"| {name} | {count} | " + " | ".join(cells) + " |")


def row(results: list[Result]) -> tuple[float, list[str]]:
    cells, personal = [], 0.0
    for stage in STAGES:
        for statistic in ("mean", "q10"):
            values = [
                float(r.summary.test_accuracy.sel(stage=stage, statistic=statistic)) for r in results if there(r, stage)
            ]
            if statistic == "mean" and stage == "personal":
                personal = float(np.mean(values))
            cells.append(f"{100 * np.mean(values):.1f} ± {100 * np.std(values):.1f}" if values else "—")
    last = [
        {name: float(r.rounds[name][-1]) for name in ("seconds", "uplink_bytes", "downlink_bytes")} for r in results
    ]
    cells.append(f"{np.mean([entry['seconds'] for entry in last]):.1f}")
    cells += [f"{np.mean([entry[name] for entry in last]) / 1e6:.1f}" for name in ("uplink_bytes", "downlink_bytes")]
    statuses = {str(r.attrs["status"]) for r in results} - {"complete"}
    return personal, [*cells[:-1], cells[-1] + (f" ({', '.join(sorted(statuses))})" if statuses else "")]


def there(result: Result, stage: str) -> bool:
    return stage in list(result.summary.stage.values)


if __name__ == "__main__":
    main(sys.argv[1:])
