"""Kills runs at random moments until they are complete, and compares what they leave with undisturbed ones.

    python -m tests.drill [--kills 15] [--seed 0] [--only NAME]     kills of each scenario; make drill

Prints how many kills of each kind there were, and how much time was lost beyond a checkpoint every half second. Ends
with 1 when a result has other bytes, when anything is left beside one, or when a job that was told to stop did not end
with everything saved.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.drill.drill import KINDS, Drill
from tests.drill.scenarios import SCENARIOS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=15, help="at least so many of each scenario")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[scenario.name for scenario in SCENARIOS])
    parser.add_argument("--rounds", type=int, default=60, help="of each run: seconds of work")
    given = parser.parse_args()
    total: Counter[str] = Counter()
    worst, completed, complaints = 0.0, 0, list[str]()
    for scenario in SCENARIOS:
        if given.only not in (None, scenario.name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            drill = Drill(scenario, Path(folder), given.rounds, random.Random(f"{given.seed} {scenario.name}"))
            drill.repeat(given.kills, lambda line, name=scenario.name: print(f"  {name}: {line}", file=sys.stderr))  # type: ignore[misc]
        print(f"{scenario.name}: {drill.summary()}", flush=True)
        total += drill.kills
        worst, completed = max(worst, drill.longest_loss), completed + drill.completed
        complaints += drill.complaints
    by_kind = ", ".join(f"{total[kind]} {kind}" for kind in KINDS)
    print(f"all: {total.total()} kills ({by_kind}), {completed} times to the end, at most {worst:.1f} s lost")
    print(*complaints, sep="\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
