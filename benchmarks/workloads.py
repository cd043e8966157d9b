"""The workloads by name; what measures them is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from benchmarks.options import Options, Report

SUMMARIES = {
    "quadratic": "FFGG on small quadratic losses: what a round costs beside arithmetic",
    "mnist20-ffgg": "FFGG, output layer local, 10 head steps, 5,120 samples of mnist20",
    "femnist-ffgg": "the same, FEMNIST-shaped: 50 clients, 62 classes",
    "femnist-fedavg": "FedAvg, 1 epoch, batch 32, FEMNIST-shaped",
    "femnist-fedalt": "FedAlt, 1 local and 1 shared epoch, batch 32, FEMNIST-shaped",
    "mnist20-fedrep": "FedRep, 1 head and 1 body epoch, batch 10, all of mnist20",
    "mnist20-accuracy": "seconds of FFGG to 98 % of mnist20, with bodies in float32 and in bfloat16",
    "aggregators": "every robust rule on 50 vectors of a million coordinates, against torch.sort",
    "reductions": "exact sums over ranks, against a float32 allreduce",
    "neighbours": "nodes of a graph without a server: bytes as counted and as handed to MPI, and what a rank holds",
    "startup": "commands, and a run from its start to its first round",
    "scaling": "seconds a round over ranks, clients and parameters, and a cost model",
    "data": "opening 3,400 clients of the sizes of federated EMNIST, out of the page cache",
    "million": "a million clients in the flat layout, 100 a round: hashing, opening, rounds, memory",
    "networks": "networks of the literature: ResNet-18 with adapters, 1,114 clients; a Transformer of words",
    "gpu": "on a card: equality with the CPU, determinism, ceilings, rounds with K clients at once; 8 minutes at most",
    "memory": "100,000 clients with 10,000 local parameters each, 100 a round",
}


def load(name: str) -> Callable[[Options], Report]:
    """Return the function that measures a workload."""
    others = {"mnist20-accuracy": "accuracy", "data": "opening"}
    module = others.get(name) or ("training" if name.startswith(("mnist20", "femnist")) else name)
    workloads: dict[str, Callable[[Options], Report]] = import_module(f"benchmarks.{module}").WORKLOADS
    return workloads[name]
