"""One part of the workload `gpu`: `python -m benchmarks.gpu_part SPEC ANSWER`; a line of JSON for each row."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import gpu_checks, gpu_rounds
from benchmarks.gpu_rounds import Emit

CHECKS = {"ceilings": gpu_checks.ceilings, "equality": gpu_checks.equality, "determinism": gpu_checks.determinism}


def do(spec: dict[str, Any], emit: Emit) -> None:
    """Do a check, or measure a workload."""
    if spec["part"] in CHECKS:
        CHECKS[spec["part"]](spec, emit)
    else:
        gpu_rounds.measure(spec["part"], spec, emit)


def main(spec: str, answer: str) -> None:
    with Path(answer).open("w", buffering=1) as file:  # line by line: whoever is killed has kept the others
        do(json.loads(spec), lambda row: print(json.dumps(row), file=file))


if __name__ == "__main__":
    main(*sys.argv[1:])
