"""Workload `quadratic`: a problem so small that a round costs what the engine costs."""

from __future__ import annotations

from typing import Any

from benchmarks.handover import write_quadratic
from benchmarks.options import Options, Report
from benchmarks.training import Variant, row, run_beside_plain

LOCAL_STEPS = 5
ROUNDS_A_TURN = 20
"""Of both ways, before the other one has its turn: a single round of a millisecond would find its matrices in no cache,
and the processor asleep, as no run does."""


def config(clients: int) -> dict[str, Any]:
    """Return FFGG with five gradient steps on the problem of the paper's comparison, with more clients."""
    tuner = {"name": "gradient_descent", "steps": LOCAL_STEPS, "lr": "theory"}
    return {
        "name": "benchmark",
        "rounds": 1_000_000,
        "precision": "float64",
        "problem": {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": clients, "rows": 200},
        "algorithm": {"name": "ffgg", "lr": "theory", "fine_tuner": tuner},
        "evaluate": {"every": ROUNDS_A_TURN, "tuned": {"epochs": 0}},
        "engine": {"device": "cpu"},
    }


def measure(options: Options) -> Report:
    """Measure rounds beside a plain loop over the same Gram matrices."""
    clients = 4 if options.tiny else 50
    document, handover = config(clients), options.folder / "handover.pt"
    write_quadratic(document, handover)
    variant = Variant(
        f"{clients} clients, d_θ = 100, d_w = 50, {LOCAL_STEPS} steps on w",
        "a loop over clients with the products that the formulas say, float64",
        document,
        None,
    )
    found = run_beside_plain(variant.name, document, handover, options, sgemm_size=None)
    return Report([row(variant, found, None, options.ranks)], {"num_clients": clients})


WORKLOADS = {"quadratic": measure}
