"""FedAvg beside pfl-research, in turn: `python -m benchmarks.against_pfl PYTHON [--ranks 1] [--repetitions 5]`.

PYTHON is that of an environment with pfl and the same torch, made for it:

    python -m venv pfl-environment
    pfl-environment/bin/pip install pfl==0.6.0 torch==VERSION

It gets as many threads as ppfl has ranks. Data, model and settings are those of the workload `femnist-fedavg`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.handover import write_handover
from benchmarks.machine import describe
from benchmarks.options import Options, Report
from benchmarks.report import as_json, as_markdown
from benchmarks.training import WORKLOADS, Variant, row, run_beside_plain


def main() -> None:
    """Measure, and print a report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against_pfl", description=__doc__.splitlines()[0])
    parser.add_argument("python", type=Path, help="of an environment with pfl")
    parser.add_argument("--ranks", type=int, default=1, help="of ppfl, and threads of pfl (default: 1)")
    parser.add_argument("--repetitions", type=int, default=5, help="default: 5; medians are taken")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it works")
    arguments = parser.parse_args()
    machine = describe("benchmarks.against_pfl")
    with tempfile.TemporaryDirectory(prefix="ppfl-benchmark-") as folder:
        options = Options(arguments.ranks, arguments.repetitions, Path(folder), arguments.tiny)
        report = measure(options, arguments.python)
    document = as_json("femnist-fedavg beside pfl-research", arguments.ranks, report, machine)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    print(as_markdown(document))


def measure(options: Options, python: Path) -> Report:
    """Return one row; its plain way is pfl."""
    workload = WORKLOADS["femnist-fedavg"]
    data, found = workload.prepare(options)
    (variant,) = found
    way = "pfl-research: SimulatedBackend, FederatedAveraging, WeightByDatapoints, nothing scored"
    variant = Variant(variant.name, way, variant.config, variant.flops_a_sample)
    config = {**variant.config, "precision": "float32"}  # pfl adds up changes in no other
    handover = options.folder / "handover.pt"
    # it trains in every round in the order of the first
    write_handover(config, data.side, data.num_classes, 1, handover)
    program = (str(python.absolute()), "benchmarks.pfl_way")
    measured = run_beside_plain(variant.name, config, handover, options, 256 if options.tiny else 1024, program)
    facts = {"data": data.source, "num_clients": len(data.sizes), "num_samples": sum(data.sizes)}
    return Report([row(variant, measured, sum(data.sizes), options.ranks)], facts)


if __name__ == "__main__":
    main()
