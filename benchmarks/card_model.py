"""What a round on many cards should take: `python -m benchmarks.card_model` prints the table of docs/scaling.md.

    seconds = max(launches, computing) + link + network

    launches = operations · OPERATION_SECONDS        of the slowest rank: chunks and pieces of its clients
    computing = FLOPs of its samples / (SHARE · FLOPS)
    link = 2 · slices / LINK                         the slices of the exact sum to the host, and what comes back
    network = 2 (P − 1)/P · slices / NETWORK + 2 log2(P) · LATENCY

A prediction of nominal figures and of operations that tests count, not a measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from benchmarks import flops
from ppfl.interfaces.placement import ChunkMemory
from ppfl.models.cnn import CNN
from ppfl.networks.memory import bytes_of_client
from ppfl.networks.pieces import GPU_ROWS, GPU_SHARE

FLOPS, MEMORY_BYTES = 67e12, 141e9
"""Float32 without TF32, and memory, of an H200 SXM (NVIDIA's data sheet)."""
SHARE = 0.3
"""Of them that a round is wanted to reach."""
OPERATIONS_OF_CHUNK, OPERATIONS_OF_PIECE = 300, 60
"""Of an FFGG round with 10 head steps: limits that tests/engine/test_batched.py holds."""
OPERATION_SECONDS = 10e-6
"""Of Python and torch for one operation; assumed."""
LINK = 64e9
"""Bytes a second between card and host, each way: PCIe 5.0 with 16 lanes."""
NODE_CARDS = 8
IN_NODE, BETWEEN_NODES = 5e9, 50e9 / NODE_CARDS
"""Bytes a second of a rank: MPI in the memory of a node, assumed; one network card of 400 Gbit/s for a node."""
LATENCY = 10e-6
"""Seconds of a message; assumed."""
SLICE_BYTES = 16
"""Of a coordinate: two bins, since the third is empty in most sums of float32."""
SIDE, NUM_CLASSES, HEAD_STEPS = 28, 10, 10


@dataclass(frozen=True)
class Round:
    """Predicted seconds of a round of FFGG with the CNN of mnist20 on P cards."""

    launches: float
    computing: float
    link: float
    network: float

    @property
    def seconds(self) -> float:
        """Launches go on while the card computes."""
        return max(self.launches, self.computing) + self.link + self.network

    @property
    def bottleneck(self) -> str:
        """The largest of its parts."""
        parts = {name: getattr(self, name) for name in ("launches", "computing", "link", "network")}
        return max(parts, key=lambda name: parts[name])


def predict(num_clients: int, num_samples: int, num_cards: int) -> Round:
    """Predict a round of clients with so many images each."""
    model = CNN(name="cnn")
    stages = model.stages((1, SIDE, SIDE), NUM_CLASSES)
    sizes = {name: math.prod(one.shape) for stage in stages for name, one in stage.parameters.items()}
    num_shared = sum(size for name, size in sizes.items() if not name.startswith("head"))
    mine = -(-num_clients // num_cards)
    memory = ChunkMemory(int(MEMORY_BYTES) // GPU_SHARE)
    needed = bytes_of_client(stages, (1, SIDE, SIDE), torch.float32, num_samples)
    size = memory.chunk_size(num_clients, num_cards, needed)
    chunks = -(-mine // size)
    pieces = chunks * -(-size * num_samples // GPU_ROWS)
    layers = flops.cnn_layers(model.model_dump(), SIDE, NUM_CLASSES)
    of_sample = flops.ffgg(layers, ["head"], HEAD_STEPS)
    sent = SLICE_BYTES * num_shared
    speed = IN_NODE if num_cards <= NODE_CARDS else BETWEEN_NODES
    alone = num_cards == 1
    return Round(
        launches=(OPERATIONS_OF_CHUNK * chunks + OPERATIONS_OF_PIECE * (pieces - chunks)) * OPERATION_SECONDS,
        computing=mine * num_samples * of_sample / (SHARE * FLOPS),
        # one rank alone rounds its sums on the card
        link=0.0 if alone else 2 * sent / LINK,
        network=0.0 if alone else 2 * (1 - 1 / num_cards) * sent / speed + 2 * math.log2(num_cards) * LATENCY,
    )


def table() -> str:
    """Return the predictions as a table of milliseconds."""
    lines = [
        "| clients a round | cards | launches | computing | link | network | a round | of P times one card | first |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for num_clients, of_cards in ((10_240, None), (1_000, 1_000)):
        one = predict(num_clients, 100, 1)
        for num_cards in (1, 8, 64, 1024):
            clients = num_clients if of_cards is None else of_cards * num_cards
            found = predict(clients, 100, num_cards)
            ideal = one.seconds * clients / num_clients / num_cards
            parts = [found.launches, found.computing, found.link, found.network, found.seconds]
            numbers = " | ".join(f"{1e3 * part:.3g}" for part in parts)
            lines.append(
                f"| {clients:,} | {num_cards:,} | {numbers} | {ideal / found.seconds:.0%} | {found.bottleneck} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
