"""Workload `neighbours`: what nodes of a graph send over ranks, as counted and as handed to MPI, and what a rank holds.

Ranks run `python -m benchmarks.neighbours QUESTION ANSWER`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.launch import run_ranks
from benchmarks.machine import peak_bytes, reset_peak
from benchmarks.options import Options, Report
from ppfl.config.run import validate
from ppfl.core.params import num_bytes
from ppfl.engine.run import play_round
from ppfl.engine.synchronous import Synchronous
from ppfl.interfaces.graph import Weights
from ppfl.jobs.launcher import open_communicator
from ppfl.runs.assemble import build

NODES, HIDDEN = 32, 4096
TINY_NODES, TINY_HIDDEN = 8, 32
GRAPHS: tuple[dict[str, Any], ...] = (
    {"name": "ring"}, {"name": "erdos_renyi", "probability": 0.2}, {"name": "complete"},
)  # fmt: skip
COMPRESSORS: tuple[dict[str, Any], ...] = ({"name": "none"}, {"name": "top_k", "share": 0.01})


def measure(options: Options) -> Report:
    """Return a row for each graph, compressor and number of ranks: 1, 2, 4, … up to the one asked for."""
    nodes, hidden = (TINY_NODES, TINY_HIDDEN) if options.tiny else (NODES, HIDDEN)
    counts = [count for count in (2**power for power in range(nodes.bit_length())) if count <= options.ranks]
    cases = [(graph, compressor) for graph in GRAPHS for compressor in COMPRESSORS]
    documents = [_document(nodes, hidden, *case) for case in cases]
    rows = []
    for ranks in counts:
        spec = {"documents": documents, "repetitions": options.repetitions}
        found = run_ranks(ranks, "benchmarks.neighbours", spec, options.folder)["found"]
        for (graph, compressor), row in zip(cases, found, strict=True):
            rows.append({"graph": graph["name"], "compressor": compressor["name"], "ranks": ranks, **row})
    note = (
        "Choco-SGD, one message a node and round. counted: over all edges; by hand: a message for each node and each "
        "other rank that has a neighbour of it; handed: bytes given to Neighbor_alltoallv, of the rank that gives "
        "most, as the by-hand ones are; held: nodes of a rank and messages that come to it, of the rank that has most."
    )
    return Report(rows, {"nodes": nodes}, [note], ranks=max(counts))


def _document(nodes: int, hidden: int, graph: dict[str, Any], compressor: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "neighbours", "rounds": 1_000_000,
        "problem": {
            "name": "supervised", "dataset": {"name": "digits", "partition": {"name": "iid", "clients": nodes}},
            "model": {"name": "mlp", "hidden": [hidden]}, "split": {"local": []}, "batch_size": 4,
        },
        "algorithm": {"name": "choco_sgd", "lr": 0.01, "mixing": 0.1, "compressor": compressor},
        "gossip": {"graph": graph},
    }  # fmt: skip


class Counting:
    """A communicator that counts the bytes that are handed to neighbours, and those that come from them."""

    def __init__(self) -> None:
        self._inner = open_communicator()
        self.handed = self.came = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def neighbourhood(self, ranks: Sequence[int]) -> Callable[..., torch.Tensor]:
        """Return what counts and exchanges."""
        exchange = self._inner.neighbourhood(ranks)

        def counted(tensor: torch.Tensor, counts: Sequence[int], expected: Sequence[int]) -> torch.Tensor:
            self.handed += tensor.numel()
            received = exchange(tensor, counts, expected)
            self.came += received.numel()
            return received

        return counted


def main(question: str, answer: str) -> None:
    """Play rounds, and tell what was counted."""
    spec = json.loads(Path(question).read_text())
    torch.set_num_threads(1)
    communicator: Any = Counting()
    found = [_played(communicator, document, spec["repetitions"]) for document in spec["documents"]]
    if communicator.rank == 0:
        Path(answer).write_text(json.dumps({"found": found}))


def _played(communicator: Any, document: dict[str, Any], rounds: int) -> dict[str, Any]:
    run = Synchronous(build(validate(document, Path(), "benchmark"), communicator))
    play_round(run, 0)
    run.ledger.costs.uplink_bytes = communicator.handed = communicator.came = 0
    reset_peak()
    seconds = [_seconds(run, 1 + number) for number in range(rounds)]
    nodes, weights = run.setup.problem.client_data.clients, run.setup.weights_of_graph
    assert weights is not None
    size = num_bytes(run.setup.algorithm.uplink_like(run.server))
    counts = torch.tensor([
        communicator.handed // rounds, _by_hand(weights, _owners(communicator, len(nodes)), communicator.rank) * size,
        len(nodes) + communicator.came // rounds // size, peak_bytes(),
    ])  # fmt: skip
    handed, by_hand, held, peak = communicator.allreduce(counts, "max").tolist()
    counted = int(communicator.allreduce(torch.tensor([run.ledger.costs.uplink_bytes // rounds]), "sum"))
    return {
        "message_bytes": size, "counted_bytes": counted, "handed_bytes": handed, "by_hand_bytes": by_hand,
        "held": held, "of": weights.num_nodes, "seconds_per_round": statistics.median(seconds), "peak_bytes": peak,
        "repetitions": seconds,
    }  # fmt: skip


def _seconds(run: Synchronous, round: int) -> float:
    """Return those of the slowest rank. Collective."""
    run.setup.communicator.barrier()
    started = time.perf_counter()
    play_round(run, round)
    mine = torch.tensor([time.perf_counter() - started], dtype=torch.float64)
    return float(run.setup.communicator.allreduce(mine, "max"))


def _owners(communicator: Any, num_nodes: int) -> list[int]:
    counts = communicator.allgather_rows(torch.tensor([num_nodes])).tolist()
    return [rank for rank, count in enumerate(counts) for _ in range(count)]


def _by_hand(weights: Weights, owners: list[int], rank: int) -> int:
    """Return how many messages a rank has to give away: one for each of its nodes and each rank that needs it."""
    return len({
        (node, owners[other])
        for node, owner in enumerate(owners)
        for other in weights.neighbours(node)
        if owner == rank != owners[other]
    })  # fmt: skip


WORKLOADS = {"neighbours": measure}

if __name__ == "__main__":
    main(*sys.argv[1:])
