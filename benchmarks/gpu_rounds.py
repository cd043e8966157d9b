"""Rounds on a card: what is configured, seconds of a round with K clients at once, kernels, memory.

A round is the engine's own (`ppfl.engine.run.play_round`): clients, exact sum, server. Between two rounds the device is
waited for.
"""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import flops
from benchmarks.data import equal_clients, femnist_shaped, tiny_images
from benchmarks.training import FEMNIST_MODEL, HEAD, LOCAL_LR, MNIST20_MODEL, TINY_MODEL
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import validate
from ppfl.engine.run import Run, play_round
from ppfl.runs.assemble import build

Spec = dict[str, Any]
"""What a part is told: device, tiny, folder, seconds."""
Emit = Callable[[dict[str, Any]], None]
"""Takes a row as soon as it is known."""
MOST_ROUNDS, LEAST_ROUNDS = 11, 3
_SECONDS_A_VARIANT = 5.0
ENGINE = ("device", "clients_per_chunk", "deterministic")
"""What of a variant is said in the section `engine`."""
_PROFILED_SECONDS = 0.5
_UNDETERMINED = "does not have a deterministic implementation"


@dataclass(frozen=True)
class Rounds:
    """A workload: its configuration, who takes part, and what is counted in a round."""

    config: dict[str, Any]
    num_clients: int
    samples: int | None = None
    """Images that go into a round, over all clients; None where there are no images."""
    flops: float | None = None
    """Of a round, by benchmarks/flops.py."""
    precisions: tuple[str, ...] = ("float32",)
    """The first one with every K, the others with all clients at once."""
    target: dict[str, float] = field(default_factory=dict)
    on_cpu: bool = False
    """Whether the CPU, one thread, is measured beside the card."""


def image_config(path: Path, model: dict[str, Any], algorithm: dict[str, Any], **sections: Any) -> Spec:
    """Return a configuration of a network on written images; `local` and `batch_size` may be among the sections."""
    local, batch_size = sections.pop("local", []), sections.pop("batch_size", "all")
    return {
        "name": "benchmark",
        "rounds": 1_000_000,
        "problem": {
            "name": "supervised",
            "dataset": {"name": "federated_hdf5", "train": str(path), "test": 0.0, "validation": 0.0},
            "model": model,
            "split": {"local": local},
            "batch_size": batch_size,
        },
        "algorithm": algorithm,
        "evaluate": {"every": 1_000_000, "tuned": {"epochs": 0}},
        **sections,
    }


def mnist20_ffgg(spec: Spec) -> Rounds:
    """FFGG, 20 clients, 64 images of each drawn anew in every round, 10 steps on the output layer."""
    clients, batch, model = (4, 8, TINY_MODEL) if spec["tiny"] else (20, 64, MNIST20_MODEL)
    data = equal_clients(Path(spec["folder"]), clients, 8 * batch, 12 if spec["tiny"] else 28, 10)
    layers = flops.cnn_layers(model, data.side, data.num_classes)
    operations = clients * batch * flops.ffgg(layers, ["head"], 10)
    config = image_config(data.path, model, _ffgg(), local=HEAD, batch_size=batch)
    target = {"most_seconds": 0.003}
    return Rounds(config, clients, clients * batch, operations, ("float32", "tf32", "bfloat16"), target)


def thousand_ffgg(spec: Spec) -> Rounds:
    """FFGG, 1,000 clients with 100 images each, 10 steps on the output layer."""
    clients, samples, model = (6, 5, TINY_MODEL) if spec["tiny"] else (1000, 100, MNIST20_MODEL)
    data = equal_clients(Path(spec["folder"]), clients, samples, 12 if spec["tiny"] else 28, 10)
    layers = flops.cnn_layers(model, data.side, data.num_classes)
    operations = clients * samples * flops.ffgg(layers, ["head"], 10)
    config = image_config(data.path, model, _ffgg(), local=HEAD)
    target = {"least_share_of_ceiling": 0.3}
    return Rounds(config, clients, clients * samples, operations, ("float32", "tf32", "bfloat16"), target)


def femnist_fedavg(spec: Spec) -> Rounds:
    """FedAvg, 1 epoch in batches of 32, 50 clients as large as writers of federated EMNIST."""
    folder, model = Path(spec["folder"]), TINY_MODEL if spec["tiny"] else FEMNIST_MODEL
    data = tiny_images(folder) if spec["tiny"] else femnist_shaped(folder)
    layers = flops.cnn_layers(model, data.side, data.num_classes)
    algorithm = {"name": "fedavg", "lr": LOCAL_LR, "epochs": 1, "batch_size": 8 if spec["tiny"] else 32}
    config = image_config(data.path, model, algorithm, weights="samples")
    total = sum(data.sizes)
    target = {"least_speedup_over_one": 10.0}
    return Rounds(config, len(data.sizes), total, total * flops.fedavg(layers, 1), target=target)


def robust(spec: Spec) -> Rounds:
    """FedAvg with one step on 8 images, 100 vectors of 582,026 numbers under a trimmed mean against 10 attackers."""
    clients, model = (6, TINY_MODEL) if spec["tiny"] else (100, MNIST20_MODEL)
    data = equal_clients(Path(spec["folder"]), clients, 8, 12 if spec["tiny"] else 28, 10)
    byzantine = {"attack": {"name": "sign_flip"}, "clients": clients // 6 if spec["tiny"] else 10}
    rule = {"name": "trimmed_mean", "f": byzantine["clients"]}
    algorithm = {"name": "fedavg", "lr": LOCAL_LR, "local_steps": 1}
    config = image_config(data.path, model, algorithm, aggregator=rule, byzantine=byzantine)
    return Rounds(config, clients, 8 * clients)


def quadratic(spec: Spec) -> Rounds:
    """FFGG on 50 small quadratic losses, where `device: auto` takes the CPU; here the card is forced."""
    from benchmarks.quadratic import config

    clients = 4 if spec["tiny"] else 50
    document = config(clients)
    del document["engine"]
    return Rounds(document, clients, precisions=("float64",), on_cpu=spec["device"] != "cpu")


WORKLOADS: dict[str, Callable[[Spec], Rounds]] = {
    "mnist20-ffgg": mnist20_ffgg,
    "thousand-ffgg": thousand_ffgg,
    "femnist-fedavg": femnist_fedavg,
    "robust": robust,
    "quadratic": quadratic,
}


def _ffgg() -> dict[str, Any]:
    return {"name": "ffgg", "lr": 0.2, "fine_tuner": {"name": "gradient_descent", "steps": 10, "lr": 0.1}}


def variants(rounds: Rounds) -> Iterator[dict[str, Any]]:
    """Return what is varied, what matters most first: K, the number type, deterministic kernels or not."""
    first = rounds.precisions[0]
    every = list(dict.fromkeys([rounds.num_clients, min(32, rounds.num_clients), 1]))
    for precision in rounds.precisions:
        yield {"precision": precision, "clients_per_chunk": every[0], "deterministic": True}
    yield {"precision": first, "clients_per_chunk": every[0], "deterministic": False}
    for k in every[1:]:
        for deterministic in (True, False):
            yield {"precision": first, "clients_per_chunk": k, "deterministic": deterministic}
    if rounds.on_cpu:
        yield {"precision": first, "clients_per_chunk": 1, "deterministic": True, "device": "cpu"}


def measure(name: str, spec: Spec, emit: Emit) -> None:
    """Measure all variants of a workload, each as long as there is time; a variant that fails says so in its row."""
    until = time.perf_counter() + spec["seconds"]
    rounds, longest = WORKLOADS[name](spec), dict[int, float]()
    for variant in variants(rounds):
        started = time.perf_counter()
        row = {"workload": name, "num_clients": rounds.num_clients, **variant}
        if spec["device"] == "cpu" and variant["precision"] == "tf32":
            continue  # a number type of cards
        # one that takes as long as another with as many clients at once would be ended before it is through
        if started + longest.get(variant["clients_per_chunk"], 0.0) > until:
            emit(row | {"not_run": "time"})
            continue
        try:
            emit(row | _measured(rounds, variant, spec))
        except Exception as error:  # noqa: BLE001, the others go on
            emit(row | {"not_run": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        longest[variant["clients_per_chunk"]] = time.perf_counter() - started


def configured(config: Spec, variant: dict[str, Any], device: str) -> Spec:
    """Return the configuration of a variant."""
    engine = {"device": device, **{key: variant[key] for key in ENGINE if key in variant}}
    return {**config, "precision": variant["precision"], "engine": engine}


def _measured(rounds: Rounds, variant: dict[str, Any], spec: Spec) -> dict[str, Any]:
    config = configured(rounds.config, variant, spec["device"])
    gc.collect()  # what the variant before has left
    run = Run(build(validate(config, Path(spec["folder"]), "benchmark"), SoloCommunicator()))
    device = run.setup.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        seconds = [play(run, 0), play(run, 1)][2:]
    began = time.perf_counter()
    most = LEAST_ROUNDS if spec["tiny"] else MOST_ROUNDS
    while len(seconds) < LEAST_ROUNDS or (len(seconds) < most and time.perf_counter() - began < _SECONDS_A_VARIANT):
        seconds.append(play(run, 2 + len(seconds)))
    median = statistics.median(seconds)
    return {
        "seconds_per_round": median,
        "samples_per_second": None if rounds.samples is None else rounds.samples / median,
        "gflop_per_round": None if rounds.flops is None else rounds.flops / 1e9,
        "gflops": None if rounds.flops is None else rounds.flops / median / 1e9,
        **(launches(run, 2 + len(seconds)) if median < _PROFILED_SECONDS else {}),
        "device_peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "undetermined": sorted({str(one.message).split()[0] for one in told if _UNDETERMINED in str(one.message)}),
        "target": {} if spec["tiny"] else rounds.target,
        "repetitions": seconds,
    }


def play(run: Run, round: int) -> float:
    """Do a round; return its seconds, until the device has done everything."""
    wait(run.setup.device)
    started = time.perf_counter()
    is_finite = play_round(run, round)
    wait(run.setup.device)
    if not is_finite:
        raise RuntimeError("the run of the benchmark has diverged")
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    """Wait until a card has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def launches(run: Run, round: int) -> dict[str, int | None]:
    """Return the kernels and the copies to the host of one more round, by torch's profiler; None on a CPU, or where the
    profiler does not work."""
    unknown = {"kernels": None, "copies_to_host": None}
    if run.setup.device.type != "cuda":
        return unknown
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            play(run, round)
    except RuntimeError:
        return unknown
    return counted([event.name for event in profiler.events() if event.device_type.name == "CUDA"])


def counted(names: list[str]) -> dict[str, int | None]:
    """Return how many of the things that a card did are kernels, and how many copies to the host."""
    copies = [name for name in names if name.startswith(("Memcpy", "Memset"))]
    return {"kernels": len(names) - len(copies), "copies_to_host": sum("DtoH" in name for name in copies)}
