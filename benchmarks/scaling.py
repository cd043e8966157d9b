"""Workload `scaling`: seconds of a round over ranks, clients and parameters, and a cost model fitted to them.

    seconds = clients/P · (per_client + per_parameter · D) + latency · log2 P + (bytes of θ, where P > 1) / bandwidth

D is the number of shared parameters; where it does not vary, its two terms are left to the others. Least squares of
relative errors, no negative coefficient.
"""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import quadratic
from benchmarks.data import equal_clients
from benchmarks.launch import run_ranks
from benchmarks.options import Options, Report

CLIENTS, TINY_CLIENTS = (8, 16, 32), (4, 8)
WIDTHS, TINY_WIDTHS = (64, 256, 1024), (8, 16)
SAMPLES, SIDE, NUM_CLASSES = 32, 28, 10
TERMS = ("per_client", "per_parameter", "latency", "inverse_bandwidth")
_BYTES = 4


@dataclass(frozen=True)
class Cell:
    """One point: which problem, how large, on how many ranks."""

    problem: str
    ranks: int
    clients: int
    width: int | None
    config: dict[str, Any]


@dataclass(frozen=True)
class Model:
    """Coefficients of the cost model for one problem, in seconds."""

    per_client: float
    per_parameter: float
    """Of each client."""
    latency: float
    """Of a doubling of ranks."""
    inverse_bandwidth: float
    """Of a byte of θ."""

    def seconds(self, row: dict[str, Any]) -> float:
        """Return what the model says."""
        return float(terms(row) @ np.array([getattr(self, name) for name in TERMS]))


def measure(options: Options) -> Report:
    """Measure every cell with ranks of its own, then fit."""
    rows = [_measure(cell, options) for cell in cells(options)]
    notes, models = [], {}
    for problem, group in itertools.groupby(rows, key=lambda row: str(row["problem"])):
        members = list(group)
        model = fit(members)
        for row in members:
            row["predicted_seconds"] = model.seconds(row)
            row["residual"] = row["predicted_seconds"] / row["seconds_per_round"] - 1
            row["efficiency"] = _efficiency(row, members)
        models[problem] = {name: getattr(model, name) for name in TERMS}
        notes.append(describe(problem, model, members))
    return Report(rows, {"models": models}, notes)


def cells(options: Options) -> list[Cell]:
    """Return clients ×1, 2, 4 for quadratic and CNN, widths ×1, 4, 16 for the perceptron, each on 1, 2, … ranks."""
    all_ranks = [2**k for k in range(options.ranks.bit_length()) if 2**k <= options.ranks]
    clients = TINY_CLIENTS if options.tiny else CLIENTS
    widths = TINY_WIDTHS if options.tiny else WIDTHS
    found = [Cell("quadratic", ranks, n, None, quadratic.config(n)) for n in clients for ranks in all_ranks]
    cnn = {"name": "cnn", "channels": [4, 8], "hidden": 32}
    found += [Cell("cnn", ranks, n, None, _config(options, n, cnn)) for n in clients for ranks in all_ranks]
    for n, width, ranks in itertools.product(clients[:1] if options.tiny else clients[:2], widths, all_ranks):
        found.append(Cell("mlp", ranks, n, width, _config(options, n, {"name": "mlp", "hidden": [width]})))
    return found


def terms(row: dict[str, Any]) -> np.ndarray:
    """Return what the coefficients are multiplied with."""
    clients, size = row["clients"] / row["ranks"], row["num_shared_parameters"] if row["width"] is not None else 0
    sent = _BYTES * size if row["ranks"] > 1 else 0
    return np.array([clients, clients * size, math.log2(row["ranks"]), sent], dtype=np.float64)


def fit(rows: list[dict[str, Any]]) -> Model:
    """Return the coefficients of least relative squares: of all subsets of terms the best without a negative one."""
    seconds = np.array([row["seconds_per_round"] for row in rows])
    design = np.array([terms(row) for row in rows]) / seconds[:, None]
    usable = [column for column in range(len(TERMS)) if design[:, column].any()]
    best, best_error = np.zeros(len(TERMS)), math.inf
    for chosen in itertools.chain.from_iterable(itertools.combinations(usable, k) for k in range(1, len(usable) + 1)):
        columns = list(chosen)
        scale = np.abs(design[:, columns]).max(axis=0)
        solution = np.linalg.lstsq(design[:, columns] / scale, np.ones(len(rows)), rcond=None)[0] / scale
        error = float(((design[:, columns] @ solution - 1) ** 2).sum())
        if (solution >= 0).all() and error < best_error:
            best, best_error = np.zeros(len(TERMS)), error
            best[columns] = solution
    return Model(*map(float, best))


def describe(problem: str, model: Model, rows: list[dict[str, Any]]) -> str:
    """Return coefficients, residuals and which term is the first to dominate as each size grows."""
    worst = max(abs(row["residual"]) for row in rows)
    last = rows[-1]
    clients, work, _, sent = terms({**last, "ranks": 2})
    compute, moved = 2 * (clients * model.per_client + work * model.per_parameter), sent * model.inverse_bandwidth
    crossing = _crossing(compute, model.latency, moved)
    ranks = (
        f"communication exceeds computing from {crossing} ranks on" if crossing else "computing stays the bottleneck"
    )
    text = (
        f"**{problem}**: {model.per_client:.3g} s a client, latency {model.latency:.3g} s a doubling of "
        f"ranks{_of_parameters(model, rows)}; largest residual {100 * worst:.0f} %. With {last['clients']} clients and "
        f"{last['num_shared_parameters']:,} shared parameters: as *ranks* grow, {ranks}; as *clients* grow, computing "
        "is the bottleneck"
    )
    if last["width"] is None:
        return f"{text}."
    share = moved / (moved + work * model.per_parameter) if moved else 0.0
    return (
        f"{text}; as *parameters* grow, computing and bytes grow alike, and on two ranks bytes take "
        f"{100 * share:.0f} % of a round in the limit."
    )


def _of_parameters(model: Model, rows: list[dict[str, Any]]) -> str:
    if rows[0]["width"] is None:
        return ""
    bandwidth = f"{1 / model.inverse_bandwidth / 1e9:.2g} GB of θ a second" if model.inverse_bandwidth else "not seen"
    return f", {model.per_parameter:.3g} s a client and parameter of θ, bandwidth {bandwidth}"


def _crossing(compute: float, latency: float, moved: float) -> int | None:
    """Return the least power of two of ranks at which latency and bytes take longer than computing."""
    for k in range(1, 21):
        if latency * k + moved > compute / 2**k:
            return int(2**k)
    return None


def _efficiency(row: dict[str, Any], rows: list[dict[str, Any]]) -> float | None:
    """Return T_1/(P · T_P) for the same clients and parameters: 1 is ideal (strong scaling)."""
    alone = [
        other["seconds_per_round"]
        for other in rows
        if other["ranks"] == 1 and (other["clients"], other["width"]) == (row["clients"], row["width"])
    ]
    return float(alone[0] / row["seconds_per_round"] / row["ranks"]) if alone else None


def _measure(cell: Cell, options: Options) -> dict[str, Any]:
    spec = {
        "config": cell.config,
        "folder": str(options.folder),
        "handover": None,
        "repetitions": 4 * options.repetitions,
        "sgemm_size": None,
    }
    found = run_ranks(cell.ranks, "benchmarks.rank", spec, options.folder)
    shared = 100 if cell.problem == "quadratic" else int(found["facts"]["num_shared_parameters"])
    shares = [repetition["communication_share"] for repetition in found["repetitions"]]
    return {
        "problem": cell.problem,
        "ranks": cell.ranks,
        "clients": cell.clients,
        "clients_per_rank": cell.clients / cell.ranks,
        "width": cell.width,
        "num_shared_parameters": shared,
        "seconds_per_round": statistics.median(repetition["seconds"] for repetition in found["repetitions"]),
        "communication_share": None if None in shares else statistics.median(shares),
        "peak_bytes": found["peak_bytes"],
        "repetitions": found["repetitions"],
    }


def _config(options: Options, clients: int, model: dict[str, Any]) -> dict[str, Any]:
    path = options.folder / f"equal-{clients}.h5"
    if not path.exists():
        equal_clients(options.folder, clients, SAMPLES, SIDE, NUM_CLASSES)
    document = quadratic.config(clients)
    tuner = {"name": "gradient_descent", "steps": 5, "lr": 0.1}
    problem = {
        "name": "supervised",
        "dataset": {"name": "federated_hdf5", "train": str(path), "test": 0.0, "validation": 0.0},
        "model": model,
        "split": {"local": ["head.*"]},
        "batch_size": "all",
    }
    algorithm = {"name": "ffgg", "lr": 0.1, "fine_tuner": tuner}
    return {**document, "precision": "float32", "problem": problem, "algorithm": algorithm}


WORKLOADS = {"scaling": measure}
