"""What has to hold on a card before its speed means anything: the CPU's numbers, and the same bits again; ceilings.

Small networks on clients of unlike sizes, so that chunks are ragged.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.data import tiny_images
from benchmarks.gpu_rounds import Emit, Spec, configured, image_config, play, wait
from benchmarks.launch import run_ranks
from benchmarks.training import HEAD, LOCAL_LR, TINY_MODEL
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import validate
from ppfl.core.communicator import Communicator
from ppfl.core.types import Params
from ppfl.engine.run import Run
from ppfl.jobs.launcher import open_communicator
from ppfl.runs.assemble import build

LARGEST = {"float64": 1e-10, "float32": 1e-4}
"""Of ‖θ − θ_cpu‖/‖θ_cpu‖ of any tensor after three rounds."""
NUM_ROUNDS, NUM_CLIENTS = 3, 5
_DATA = "ragged.h5"
_SGD = {"name": "sgd", "batch_size": 8, "epochs": 1, "lr": LOCAL_LR}
_STEPS = {"lr": LOCAL_LR, "epochs": 1, "batch_size": 8}
METHODS: dict[str, dict[str, Any]] = {
    "ffgg": {"lr": 0.2, "fine_tuner": {"name": "gradient_descent", "steps": 3, "lr": 0.1}},
    "fedavg": _STEPS,
    "fedalt": {**_STEPS, "fine_tuner": _SGD},
    "ditto": {**_STEPS, "penalty": 0.3},
}
_SHARED = ("fedavg", "ditto")
"""Methods for which everything is shared."""


def ceilings(spec: Spec, emit: Emit) -> None:
    """Products of square matrices and a copy, in each number type that runs compute in: what a card can do at most."""
    device = torch.device(spec["device"])
    size, numbers = (128, 1 << 16) if spec["tiny"] else (8192, 1 << 29)
    if device.type == "cuda":
        emit({"facts": card_facts(device)})
    types = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
    for name, dtype in types.items():
        if device.type == "cpu" and name == "tf32":
            continue
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        # random: products of zeros are faster than those of numbers
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        product = torch.empty_like(left)
        seconds = _seconds(lambda a=left, b=right, out=product: torch.mm(a, b, out=out), device)
        emit({"what": "matmul", "precision": name, "size": size, "gflops": 2 * size**3 / seconds / 1e9})
    torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    seconds = _seconds(lambda: target.copy_(source), device)
    emit({"what": "copy", "precision": "float32", "size": numbers, "gigabytes_per_second": 8 * numbers / seconds / 1e9})


def card_facts(device: torch.device) -> dict[str, Any]:
    """Return what the card is, and what torch computes with on it."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "gpu_bytes": properties.total_memory,
        "gpu_multiprocessors": properties.multi_processor_count,
        "gpu_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _seconds(work: Any, device: torch.device, repetitions: int = 10) -> float:
    """Return the median of some times, after three for warming up."""
    taken = []
    for _ in range(3 + repetitions):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[3:])


def equality(spec: Spec, emit: Emit) -> None:
    """θ after three rounds on the card against the CPU with one client at a time, with K = 1, 2 and all clients."""
    write_data(spec)
    for precision in LARGEST:
        for method in METHODS:
            expected: Params = {}
            compared = [(spec["device"], k) for k in (1, 2, NUM_CLIENTS)]
            for number, (device, k) in enumerate([("cpu", 1), *compared]):
                variant = {"precision": precision, "clients_per_chunk": k, "deterministic": True}
                row = {"algorithm": method, **variant, "largest_allowed": LARGEST[precision]}
                try:
                    found = _shared(_config(method, spec), variant, device, spec)
                except Exception as error:  # noqa: BLE001, the others go on
                    emit(row | {"not_run": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
                    continue
                if number == 0:
                    expected = found
                elif expected:
                    emit(row | {"difference": difference(found, expected)})


def difference(found: Params, expected: Params) -> float:
    """Return the largest ‖θ − θ'‖/‖θ'‖ of any tensor."""
    pairs = [(found[name].cpu().double(), value.cpu().double()) for name, value in expected.items()]
    return max(float((value - like).norm() / like.norm()) for value, like in pairs)


def determinism(spec: Spec, emit: Emit) -> None:
    """The bytes of θ after three rounds: twice on one rank, and on two ranks of the same card, each time anew."""
    write_data(spec)
    found = [_on_ranks(ranks, spec) for ranks in (1, 1, 2)]
    for method in METHODS:
        for k in (1, 2):
            first, again, on_two = (answer.get(f"{method} {k}", answer.get("")) for answer in found)
            emit({"algorithm": method, "precision": "float32", "clients_per_chunk": k, **same(first, again, on_two)})


def same(first: str, again: str, on_two: str) -> dict[str, Any]:
    """Say whether hashes are equal, as far as there are any, and what came in the place of one."""
    row: dict[str, Any] = {}
    for name, other in (("same_again", again), ("same_on_two_ranks", on_two)):
        if _is_hash(first) and _is_hash(other):
            row[name] = first == other
    missing = [text for text in (first, again, on_two) if not _is_hash(text)]
    return row | ({"not_run": missing[0]} if missing else {})


def _is_hash(text: str) -> bool:
    return text.startswith("sha256")


def _on_ranks(ranks: int, spec: Spec) -> dict[str, str]:
    """Return the hashes that ranks find; why there are none, under "", where they cannot be started."""
    try:
        return run_ranks(ranks, "benchmarks.gpu_checks", spec, Path(spec["folder"]))
    except SystemExit as end:
        return {"": str(end)}


def write_data(spec: Spec) -> None:
    """Write clients of 18 to 38 images, once for all ranks."""
    written = tiny_images(Path(spec["folder"]), NUM_CLIENTS)
    written.path.replace(Path(spec["folder"], _DATA))


def _config(method: str, spec: Spec) -> Spec:
    local = [] if method in _SHARED else HEAD
    return image_config(Path(spec["folder"], _DATA), TINY_MODEL, {"name": method, **METHODS[method]}, local=local)


def _shared(
    config: Spec, variant: dict[str, Any], device: str, spec: Spec, communicator: Communicator | None = None
) -> Params:
    """Return θ after some rounds. Collective."""
    document = configured(config, variant, device)
    setup = build(validate(document, Path(spec["folder"]), "benchmark"), communicator or SoloCommunicator())
    run = Run(setup)
    for round in range(NUM_ROUNDS):
        play(run, round)
    shared: Params = run.server["shared"]
    return shared


def main(question: str, answer: str) -> None:
    """Write the hash of θ of every method, computed by the ranks that were started."""
    spec, communicator = json.loads(Path(question).read_text()), open_communicator()
    found = {}
    for method in METHODS:
        for k in (1, 2):
            variant = {"precision": "float32", "clients_per_chunk": k, "deterministic": True}
            try:
                shared = _shared(_config(method, spec), variant, spec["device"], spec, communicator)
            except Exception as error:  # noqa: BLE001, met by all ranks or by none: what cannot be computed is refused
                found[f"{method} {k}"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                continue
            content = b"".join(value.cpu().numpy().tobytes() for value in shared.values())
            found[f"{method} {k}"] = f"sha256 {hashlib.sha256(content).hexdigest()}"
    if communicator.rank == 0:
        Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
