"""A report as JSON and as a Markdown table."""

from __future__ import annotations

from typing import Any

from benchmarks.options import Report

KEYS = (
    "seconds_per_round",
    "microseconds_per_sample",
    "gflops",
    "sgemm_gflops",
    "fraction_of_sgemm",
    "plain_ratio",
    "communication_share",
    "peak_bytes",
)
"""Of every workload; None where it has no meaning."""
_HIDDEN = {"repetitions", "plain_way", "target", "undetermined"}
_TITLES = {
    "seconds_per_round": "s/round",
    "microseconds_per_sample": "µs/sample",
    "gflop_per_round": "GFLOP/round",
    "gflops": "GFLOP/s",
    "sgemm_gflops": "sgemm GFLOP/s",
    "fraction_of_sgemm": "of sgemm",
    "plain_ratio": "plain/fast",
    "plain_seconds": "plain s/round",
    "plain_microseconds_per_sample": "plain µs/sample",
    "plain_threads": "plain threads",
    "difference_from_plain": "difference",
    "communication_share": "communication",
    "extra_share": "extra",
    "samples_per_second": "samples/s",
    "clients_per_chunk": "K",
    "share_of_ceiling": "of the ceiling",
    "device_peak_bytes": "peak of the card",
    "gigabytes_per_second": "GB/s",
}
_SHARES = {"share_of_ceiling", "fraction_of_sgemm", "communication_share", "extra_share", "residual", "efficiency"}


def as_json(workload: str, ranks: int, report: Report, machine: dict[str, Any]) -> dict[str, Any]:
    """Return the document: the numbers of the first row at the top, then every row with all its repetitions."""
    first = report.rows[0] if report.rows else {}
    top = {key: first.get(key) for key in KEYS}
    extra: dict[str, Any] = {
        key: first[key] for key in ("plain_way", "difference_from_plain", "variant") if key in first
    }
    return {
        "workload": workload,
        "ranks": report.ranks or ranks,
        **top,
        **extra,
        **report.facts,
        **machine,
        "rows": report.rows,
        **({"tables": report.tables} if report.tables else {}),
        "notes": report.notes,
    }


def as_markdown(document: dict[str, Any]) -> str:
    """Return a heading, what was measured and where, and one table."""
    hardware, versions = document["hardware"], document["versions"]
    caches = f"L2 {hardware['l2_bytes'] / 2**20:.3g} MiB, L3 {hardware['l3_bytes'] / 2**20:.3g} MiB"
    processor = f"{hardware['processor']} ({hardware['instruction_set']}, {caches})"
    when = f"{document['date']}, {processor}, {hardware['cores']} cores"
    with_what = f"commit {document['commit']}, torch {versions['torch']}"
    lines = [
        f"## {document['workload']}, {document['ranks']} rank(s)",
        "",
        f"`{document['command']}`",
        "",
        f"{when}, load {hardware['load_at_start']:.1f} at the start, {with_what}",
        "",
    ]
    if "data" in document:
        samples = document.get("num_samples", "")
        lines += [f"Data: {document['data']}; {document['num_clients']} clients, {samples} samples.", ""]
    if "gpu" in document:
        lines += [f"{document['gpu']}, {document['gpu_bytes'] / 2**30:.1f} GiB, CUDA {document['cuda']}.", ""]
    lines += _table(document["rows"], document["ranks"])
    for title, rows in document.get("tables", {}).items():
        lines += ["", f"### {title}", "", *_table(rows, document["ranks"])]
    ways = dict.fromkeys(
        f"Plain way{' of *' + row['variant'] + '*' if 'variant' in row else ''}: {row['plain_way']}."
        for row in document["rows"]
        if "plain_way" in row
    )
    return "\n".join([*lines, "", *_with_gaps([*ways, *document["notes"]])])


def _table(rows: list[dict[str, Any]], ranks: int) -> list[str]:
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in _HIDDEN]
    empty = {"ranks": ranks}  # as the heading says
    keys = [key for key in keys if any(row.get(key) not in (None, empty.get(key)) for row in rows)]
    lines = [
        "| " + " | ".join(_TITLES.get(key, key.replace("_", " ")) for key in keys) + " |",
        "|---" * len(keys) + "|",
    ]
    return lines + ["| " + " | ".join(_cell(key, row.get(key)) for key in keys) + " |" for row in rows]


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith("_bytes"):
        return f"{value / 1e6:,.1f} MB"
    if key in _SHARES:
        return f"{100 * value:.1f} %"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _with_gaps(paragraphs: list[str]) -> list[str]:
    return [line for paragraph in paragraphs for line in (paragraph, "")]
