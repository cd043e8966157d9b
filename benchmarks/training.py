"""Workloads that train: what is configured, what is counted, and a row of the report for each variant."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import flops
from benchmarks.data import FFGG_SAMPLES, WrittenData, femnist_shaped, mnist20, tiny_images
from benchmarks.handover import write_handover
from benchmarks.launch import run_ranks
from benchmarks.machine import num_cores
from benchmarks.options import Options, Report

LARGEST_DIFFERENCES = {
    "float32": {"difference_from_plain": 1e-3, "difference_in_steps": 0.05},
    "float64": {"difference_from_plain": 1e-10, "difference_in_steps": 1e-10},
}
"""Of θ after one round; see `benchmarks.handover.difference`. In float32, max pooling breaks near-ties otherwise, and
local steps let that grow: with steps of 0.05 to 1 % of a round on FEMNIST-shaped FedAvg, to 14 % in FedRep."""
MNIST20_MODEL = {"name": "cnn", "channels": [32, 64], "kernel_size": 5, "hidden": 512}
FEMNIST_MODEL = {"name": "cnn", "channels": [32, 64], "kernel_size": 5, "hidden": 59}
TINY_MODEL = {"name": "cnn", "channels": [4, 6], "kernel_size": 3, "hidden": 8}
HEAD = ["head.*"]
LOCAL_LR = 0.002
"""Of local steps; small, so that hundreds of them do not blow rounding up until nothing can be compared."""


@dataclass(frozen=True)
class Variant:
    """One configuration, and the FLOPs that a round of it needs for one sample."""

    name: str
    plain_way: str
    config: dict[str, Any]
    flops_a_sample: float | None
    """None where nothing is compared with the speed of matrix products."""


Layers = list[flops.Layer]


def _config(
    data: WrittenData, model: dict[str, Any], local: list[str], algorithm: dict[str, Any], weights: str
) -> dict[str, Any]:
    return {
        "name": "benchmark",
        "rounds": 1_000_000,
        "problem": {
            "name": "supervised",
            "dataset": {"name": "federated_hdf5", "train": str(data.path), "test": 0.0, "validation": 0.0},
            "model": model,
            "split": {"local": local},
            "batch_size": "all",
        },
        "algorithm": algorithm,
        "weights": weights,
        "evaluate": {"every": 1, "tuned": {"epochs": 0}},
        "engine": {"device": "cpu"},
    }


def _ffgg(data: WrittenData, model: dict[str, Any], layers: Layers) -> Iterator[Variant]:
    descent = {"name": "gradient_descent", "steps": 10, "lr": 0.1}
    yield Variant(
        "10 head steps on all samples",
        "full-batch head steps, each through the whole model, then one gradient of the body",
        _config(data, model, HEAD, {"name": "ffgg", "lr": 0.2, "fine_tuner": descent}, "uniform"),
        flops.ffgg(layers, ["head"], 10),
    )
    sgd = {"name": "sgd", "batch_size": 32, "epochs": 1, "lr": 0.1}
    steps = statistics.mean(-(-size // 32) for size in data.sizes)
    yield Variant(
        f"one epoch of head steps on 32 samples ({steps:.3g} steps)",
        "head steps of 32 samples, each through the whole model, then one gradient of the body",
        _config(data, model, HEAD, {"name": "ffgg", "lr": 0.2, "fine_tuner": sgd}, "uniform"),
        flops.ffgg(layers, ["head"], 1),
    )


def _fedavg(data: WrittenData, model: dict[str, Any], layers: Layers) -> Iterator[Variant]:
    algorithm = {"name": "fedavg", "lr": LOCAL_LR, "epochs": 1, "batch_size": 32}
    yield Variant(
        "1 local epoch, batch 32",
        "the textbook loop over mini-batches",
        _config(data, model, [], algorithm, "samples"),
        flops.fedavg(layers, 1),
    )


def _alternating(name: str, batch: int) -> Callable[[WrittenData, dict[str, Any], Layers], Iterator[Variant]]:
    def variants(data: WrittenData, model: dict[str, Any], layers: Layers) -> Iterator[Variant]:
        tuner = {"name": "sgd", "batch_size": batch, "epochs": 1, "lr": LOCAL_LR}
        algorithm = {"name": name, "lr": LOCAL_LR, "epochs": 1, "batch_size": batch, "fine_tuner": tuner}
        yield Variant(
            f"1 epoch of the head, 1 of the body, batch {batch}",
            "the textbook loop: head steps with the body frozen, each through the whole model, then body steps",
            _config(data, model, HEAD, algorithm, "samples"),
            flops.alternating(layers, ["head"], 1, 1),
        )

    return variants


@dataclass(frozen=True)
class Training:
    """A workload: which data and model, and which variants of which method."""

    data: Callable[[Path], WrittenData]
    model: dict[str, Any]
    variants: Callable[[WrittenData, dict[str, Any], Layers], Iterator[Variant]]

    def __call__(self, options: Options) -> Report:
        """Measure every variant with ranks of its own."""
        data, variants = self.prepare(options)
        rows = [_measure(variant, data, options) for variant in variants]
        model = TINY_MODEL if options.tiny else self.model
        facts = {"data": data.source, "num_clients": len(data.sizes), "num_samples": sum(data.sizes), "model": model}
        return Report(rows, facts)

    def prepare(self, options: Options) -> tuple[WrittenData, list[Variant]]:
        """Write the data; return it with what is to be measured on it."""
        data = tiny_images(options.folder) if options.tiny else self.data(options.folder)
        model = TINY_MODEL if options.tiny else self.model
        return data, list(self.variants(data, model, flops.cnn_layers(model, data.side, data.num_classes)))


def _measure(variant: Variant, data: WrittenData, options: Options) -> dict[str, Any]:
    """Measure one variant beside sgemm and the plain way."""
    precision = "float64" if options.tiny else "float32"
    config = {**variant.config, "precision": precision}
    handover = options.folder / "handover.pt"
    write_handover(config, data.side, data.num_classes, options.repetitions + 1, handover)
    found = run_beside_plain(variant.name, config, handover, options, sgemm_size=256 if options.tiny else 1024)
    return row(variant, found, sum(data.sizes), options.ranks)


def run_beside_plain(
    name: str,
    config: dict[str, Any],
    handover: Path,
    options: Options,
    sgemm_size: int | None,
    program: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """Run ranks and the plain way in turn; end the program when their θ differ.

    program: Python and module of another way than `benchmarks.plain`; it gets a thread for each rank.
    """
    for turn in options.folder.glob("handover.turn*"):
        turn.unlink()
    spec = {
        "config": config,
        "folder": str(options.folder),
        "handover": str(handover),
        "plain_threads": options.ranks if program else 1 if options.tiny else num_cores(),
        "plain_program": program or (sys.executable, "benchmarks.plain"),
        "repetitions": options.repetitions,
        "sgemm_size": sgemm_size,
        "sgemm_seconds": 0.02 if options.tiny else 0.5,
    }
    found = run_ranks(options.ranks, "benchmarks.rank", spec, options.folder)
    for measure, largest in LARGEST_DIFFERENCES[config["precision"]].items():
        if not found[measure] <= largest:
            raise SystemExit(
                f"{name}: θ of the plain way is another one, {measure} is {found[measure]:.1e}, at most {largest:.0e} "
                "is rounding: the two did not compute the same"
            )
    return found


def row(variant: Variant, found: dict[str, Any], num_samples: int | None, ranks: int) -> dict[str, Any]:
    """Return the numbers of one variant; ratios are medians over ratios of the same repetition."""
    repetitions = found["repetitions"]
    operations = None
    if variant.flops_a_sample is not None and num_samples is not None:
        operations = variant.flops_a_sample * num_samples
    for repetition in repetitions:
        repetition["gflops"] = operations / repetition["seconds"] / 1e9 if operations else None
        repetition["fraction_of_sgemm"] = repetition["gflops"] / repetition["sgemm_gflops"] if operations else None
        repetition["plain_ratio"] = repetition["plain_seconds"] / repetition["seconds"]

    def median(name: str) -> float | None:
        values = [repetition[name] for repetition in repetitions]
        return None if None in values else statistics.median(values)

    seconds = statistics.median(repetition["seconds"] for repetition in repetitions)
    plain_seconds = statistics.median(repetition["plain_seconds"] for repetition in repetitions)
    return {
        "variant": variant.name,
        "ranks": ranks,
        "seconds_per_round": seconds,
        "microseconds_per_sample": seconds / num_samples * 1e6 if num_samples else None,
        "gflop_per_round": operations / 1e9 if operations else None,
        "gflops": median("gflops"),
        "sgemm_gflops": median("sgemm_gflops"),
        "fraction_of_sgemm": median("fraction_of_sgemm"),
        "plain_ratio": median("plain_ratio"),
        "plain_seconds": plain_seconds,
        "plain_microseconds_per_sample": plain_seconds / num_samples * 1e6 if num_samples else None,
        "plain_way": variant.plain_way,
        "plain_threads": found["threads_of_plain"],
        "difference_from_plain": found["difference_from_plain"],
        "difference_in_steps": found["difference_in_steps"],
        "communication_share": median("communication_share"),
        "peak_bytes": found["peak_bytes"],
        "repetitions": repetitions,
    }


WORKLOADS = {
    "mnist20-ffgg": Training(lambda folder: mnist20(folder, FFGG_SAMPLES), MNIST20_MODEL, _ffgg),
    "femnist-ffgg": Training(femnist_shaped, FEMNIST_MODEL, _ffgg),
    "femnist-fedavg": Training(femnist_shaped, FEMNIST_MODEL, _fedavg),
    "femnist-fedalt": Training(femnist_shaped, FEMNIST_MODEL, _alternating("fedalt", 32)),
    "mnist20-fedrep": Training(lambda folder: mnist20(folder, None), MNIST20_MODEL, _alternating("fedrep", 10)),
}
