"""Does ρ predict the damage of local steps and attackers? `python benchmarks/diagnose_mnist20.py OUT`.

Diagnoses five splits of configs/diagnose/mlp.yaml, the same with local steps, and the same with attackers; prints a
table in Markdown. OUT is a folder for the JSON files; those that are there already are not computed again. The
environment variable PPFL_DATA names the folder of the data.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SPLITS = ("head.*", "hidden2.*,head.*", "hidden1.*", "head.bias", "")
ROOT = Path(__file__).parent.parent


def diagnose(name: str, folder: Path) -> list[dict[str, Any]]:
    """Run `ppfl diagnose` over all splits unless that was done; return what it found of each."""
    out = folder / f"{name}.json"
    if not out.exists():
        splits = [word for split in SPLITS for word in ("--split", split)]
        config = ROOT / "configs" / "diagnose" / f"{name}.yaml"
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ppfl", "diagnose", config, *splits, "--json", out], cwd=ROOT, check=True)
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    found: list[dict[str, Any]] = json.loads(out.read_text())["splits"]
    return found


def rank_correlation(x: list[float], y: list[float]) -> float:
    """Spearman's: the correlation of the ranks."""
    ranks = [np.argsort(np.argsort(values)) for values in (x, y)]
    return float(np.corrcoef(*ranks)[0, 1])


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    base, steps, attacked = (diagnose(f"mlp{variant}", folder) for variant in ("", "_local_steps", "_attackers"))
    rho = [split["rho"]["value"] for split in base]
    print("| local | ρ | verdict | accuracy | with 5 local steps | damage | with attackers | damage |")
    print("|---|---|---|---|---|---|---|---|")
    damages: tuple[list[float], list[float]] = ([], [])
    for one, *others in zip(base, steps, attacked, strict=True):
        cells = [
            ", ".join(one["local"]) or "nothing",
            f"{one['rho']['value']:.2g} ± {one['rho']['standard_error']:.1g}",
        ]
        cells += [one["level"], f"{one['test_accuracy']:.1%}"]
        for other, damage in zip(others, damages, strict=True):
            damage.append(one["test_accuracy"] - other["test_accuracy"])
            cells += [f"{other['test_accuracy']:.1%}", f"{100 * damage[-1]:.1f} points"]
        print(f"| {' | '.join(cells)} |")
    for name, damage in zip(("local steps", "attackers"), damages, strict=True):
        print(f"\nRank correlation of ρ and the damage of {name}: {rank_correlation(rho, damage):.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
