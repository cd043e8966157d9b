"""Workload `networks`: a few rounds of what the studies of partial personalization train, by `ppfl run`.

ResNet-18 with adapters on as many clients of federated EMNIST's sizes as the study of Pillutla et al. has, ten a round,
states of clients in a file; and the Transformer of words with adapters, ten clients a round. FedAlt as published.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import yaml

from benchmarks.data import sentences, study_clients
from benchmarks.launch import launcher, run_watched
from benchmarks.machine import sgemm_gflops
from benchmarks.options import Options, Report

NUM_CLIENTS, COHORT, ROUNDS = 1114, 10, 3
SCORED, SAMPLES_SCORED = 20, 25
WRITERS, SENTENCES, WORDS, LENGTH = 100, 100, 10_000, 20
_ALL_TRAIN = {"test": 0.0, "validation": 0.0}
"""The sizes of the study are those of what is trained on."""
_SGEMM_SIZE, _SGEMM_SECONDS = 1024, 1.0


def measure(options: Options) -> Report:
    """Return a row for each network."""
    rows = [_row(name, problem(options), rounds, options) for name, (problem, rounds) in CASES.items()]
    note = (
        "Seconds of a round: as the run counts them, without scoring, mean over its rounds. Operations: of the clients "
        "that took part, products and convolutions as torch counts them. sgemm: of one process of one thread, before "
        "and after the run, the faster one, times the ranks. Peak: most resident memory of every process since its "
        "start, added up; stored: most that the file of states took of the disk; wall: of the whole `ppfl run`."
    )
    return Report(rows, {"algorithm": "fedalt, 1 epoch of w and 1 of θ, batch 32, lr 0.01"}, [note])


def _row(name: str, problem: dict[str, Any], rounds: int, options: Options) -> dict[str, Any]:
    config, out = options.folder / f"{name}.yaml", options.folder / f"{name}-result.h5"
    document = _document(name, problem, 2 if options.tiny else rounds)
    config.write_text(yaml.safe_dump(document))
    work, flops = _work(document)
    sgemm = [sgemm_gflops(_SGEMM_SIZE, 0.05 if options.tiny else _SGEMM_SECONDS)]
    started = time.perf_counter()
    peaks, stored = run_watched([*launcher(options.ranks), "-m", "ppfl", "run", str(config), "--out", str(out)])
    wall = time.perf_counter() - started
    sgemm.append(sgemm_gflops(_SGEMM_SIZE, 0.05 if options.tiny else _SGEMM_SECONDS))
    with h5py.File(out) as file:
        spent = {key: float(value) for key, value in file["seconds"].attrs.items()}
        seconds = float(file["rounds/seconds"][-1]) / document["rounds"]
        states = str(file["provenance"].attrs["client_state"])
        sent = float(file["rounds/uplink_bytes"][-1] + file["rounds/downlink_bytes"][-1]) / document["rounds"]
    reached = flops / seconds / 1e9
    return {
        "name": name,
        **work,
        "seconds_per_round": seconds,
        "samples_per_second": work["samples_per_round"] / seconds,
        "gflop_per_round": flops / 1e9,
        "gflops": reached,
        "sgemm_gflops": max(sgemm) * options.ranks,
        "fraction_of_sgemm": reached / (max(sgemm) * options.ranks),
        "peak_bytes": sum(peaks.values()),
        "stored_bytes": stored,
        "sent_bytes_per_round": sent,
        "states": states,
        "wall_seconds": wall,
        "repetitions": [{"spent": spent, "sgemm_gflops": sgemm, "peaks": list(peaks.values())}],
    }


def _work(document: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Return the sizes of the problem, and the operations of an average round of those that take part."""
    from ppfl.comm.solo import SoloCommunicator
    from ppfl.config.run import validate
    from ppfl.interfaces.counting import count_flops
    from ppfl.runs.assemble import build

    setup = build(validate(document, Path(), document["name"]), SoloCommunicator())
    data, rounds = setup.problem.client_data, document["rounds"]
    of_sample = setup.problem.objective.flops_of_sample(data.data(0, 0))
    assert of_sample is not None, f"{document['name']}: torch cannot count its operations"
    sizes = [data.num_train_samples[m] for k in range(rounds) for m in sorted(setup.cohort(k))]
    flops = sum(count_flops(setup.algorithm, setup.server_optimizer, of_sample, size)[0] for size in sizes)
    facts = setup.problem.theory.facts()
    found = {
        "clients": data.num_clients,
        "cohort": setup.cohort.size,
        "parameters": int(facts["num_shared_parameters"] + facts["num_local_parameters"]),
        "local_parameters": int(facts["num_local_parameters"]),
        "samples_per_round": sum(sizes) / rounds,
    }
    return found, flops / rounds


def _document(name: str, problem: dict[str, Any], rounds: int) -> dict[str, Any]:
    step = {"lr": 0.01, "batch_size": 32, "epochs": 1}
    return {
        "name": name, "rounds": rounds, "cohort": COHORT, "weights": "samples",
        "problem": {"name": "supervised", "batch_size": "all", **problem},
        "algorithm": {"name": "fedalt", **step, "fine_tuner": {"name": "sgd", **step}},
        "evaluate": {"every": rounds, "clients": SCORED, "samples": SAMPLES_SCORED, "parts": ["train"], "tuned": None},
        "engine": {"device": "cpu", "client_state": "file"},
    }  # fmt: skip


def resnet18(options: Options) -> dict[str, Any]:
    """Adapters local, with the norms of the network but those of its shortcuts."""
    data = study_clients(options.folder, *((25, 12) if options.tiny else (NUM_CLIENTS, 28)))
    return {
        "dataset": {"name": "federated_hdf5", "train": str(data.path), **_ALL_TRAIN},
        "model": {"name": "resnet18", "adapters": True, **({"width": 8} if options.tiny else {})},
        "split": {"local": ["*adapter*", "*bn1.*", "*bn2.*"]},
    }


def transformer(options: Options) -> dict[str, Any]:
    """Adapters of width 16 local, with the norms."""
    clients, texts, words = (25, 12, 50) if options.tiny else (WRITERS, SENTENCES, WORDS)
    path, counts = sentences(options.folder, clients, texts, words, LENGTH)
    small = {"width": 8, "layers": 2, "heads": 2, "feed_forward": 12} if options.tiny else {}
    return {
        "dataset": {
            "name": "text_hdf5", "unit": "words", "train": str(path), "counts": str(counts), "words": words,
            "length": LENGTH, **_ALL_TRAIN,
        },
        "model": {"name": "transformer", "adapters": 16, **small},
        "split": {"local": ["*adapter*", "*norm*"]},
        "task": {"name": "next_token"},
    }  # fmt: skip


CASES: dict[str, tuple[Callable[[Options], dict[str, Any]], int]] = {
    "resnet18-adapters": (resnet18, ROUNDS),
    "transformer-adapters": (transformer, 1),
}
"""Of a problem, and how many rounds."""
WORKLOADS = {"networks": measure}
