"""`python -m benchmarks WORKLOAD [--ranks N] [--json FILE] [--repetitions 5]`; see docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, num_cores
from benchmarks.options import Options, Report
from benchmarks.report import as_json, as_markdown
from benchmarks.workloads import SUMMARIES, load
from ppfl.core.files import write_whole


def main() -> None:
    arguments = parse()
    machine = describe()

    def document_of(report: Report) -> dict[str, Any]:
        return as_json(arguments.workload, arguments.ranks, report, machine)

    def save(report: Report) -> None:
        if arguments.json is not None:
            write_whole(arguments.json, (json.dumps(document_of(report), indent=1) + "\n").encode())

    with tempfile.TemporaryDirectory(prefix="ppfl-benchmark-") as folder:
        options = Options(
            ranks=arguments.ranks,
            repetitions=arguments.repetitions,
            folder=Path(folder),
            tiny=arguments.tiny,
            clients=arguments.clients,
            device=arguments.device,
            save=save,
        )
        report = load(arguments.workload)(options)
    save(report)
    print(as_markdown(document_of(report)))


def parse() -> argparse.Namespace:
    names = "\n".join(f"  {name:16} {summary}" for name, summary in SUMMARIES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure one workload; print a Markdown table and, if asked, write all numbers as JSON.",
        epilog=f"workloads:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workload", choices=SUMMARIES, metavar="WORKLOAD", help="one of those below")
    parser.add_argument("--ranks", type=_positive, default=num_cores(), metavar="N", help="default: one a core")
    parser.add_argument("--repetitions", type=_positive, default=5, metavar="N", help="default: 5; medians are taken")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all numbers")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="of gpu; cpu with --tiny tries it")
    parser.add_argument("--clients", type=_positive, help=argparse.SUPPRESS)
    return parser.parse_args()


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


if __name__ == "__main__":
    main()
