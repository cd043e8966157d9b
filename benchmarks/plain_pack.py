"""Many small runs as a loop in NumPy, which knows nothing of ppfl: `python -m benchmarks.plain_pack HANDOVER K N`.

What somebody writes who has the Gram matrices and an afternoon: run after run, round after round, client after client,
a product and a sum a line. Takes every N-th run from the K-th on and prints the seconds of its rounds, some of which
are scored, as in the runs beside it; nothing is written. First it does some rounds with given draws and compares θ.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

Client = dict[str, np.ndarray]
TOLERANCE = 1e-6
"""Of ‖θ‖: conjugate gradients multiply the rounding of products. Against 80-bit numbers this loop is 8e-8 off."""


def main() -> None:
    path, first, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with np.load(path) as file:
        handover = {name: file[name] for name in file.files}
    problems = [list(clients_of(handover, number)) for number in range(int(handover["num_problems"]))]
    settings = {name: int(handover[name]) for name in ("rounds", "every", "steps")}
    check(problems, handover, settings)
    runs = list(zip(handover["problem"], handover["lr"], strict=True))[first::step]
    draw = np.random.default_rng(first)
    started = time.perf_counter()
    for problem, lr in runs:
        clients = problems[int(problem)]
        size = len(clients[0]["local_linear"])
        train(clients, float(lr), lambda _round, _client, size=size: draw.standard_normal(size), **settings)
    print(time.perf_counter() - started)


def clients_of(handover: dict[str, np.ndarray], problem: int) -> Iterator[Client]:
    """Yield the blocks of every client of a problem."""
    for client in range(int(handover["num_clients"])):
        prefix = f"{problem}/{client}/"
        yield {name.removeprefix(prefix): value for name, value in handover.items() if name.startswith(prefix)}


def check(problems: list[list[Client]], handover: dict[str, np.ndarray], settings: dict[str, int]) -> None:
    """Stop unless the first run's θ after some rounds is the one that was handed over."""
    draws, theta = handover["draws"], handover["theta"]
    found = train(
        problems[int(handover["problem"][0])],
        float(handover["lr"][0]),
        lambda number, client: draws[number, client],
        **{**settings, "rounds": len(draws)},
    )
    difference = np.linalg.norm(found - theta) / np.linalg.norm(theta)
    if difference > TOLERANCE:
        sys.exit(f"θ differs by {difference:.1e} of its norm: this loop computes something else")


def train(clients: list[Client], lr: float, draw: Any, rounds: int, every: int, steps: int) -> np.ndarray:
    """FFGG with conjugate gradients on w from a random start; return θ."""
    theta = np.zeros(len(clients[0]["shared_linear"]))
    tuned = [np.zeros(len(client["local_linear"])) for client in clients]
    for round in range(rounds):
        total = np.zeros_like(theta)
        for number, client in enumerate(clients):
            target = client["local_linear"] - client["cross"].T @ theta
            tuned[number] = w = conjugate_gradients(client["local_curvature"], target, draw(round, number), steps)
            total += client["shared_curvature"] @ theta + client["cross"] @ w - client["shared_linear"]
        theta = theta - lr / len(clients) * total
        if (round + 1) % every == 0:
            score(clients, theta, tuned)
    return theta


def conjugate_gradients(matrix: np.ndarray, target: np.ndarray, w: np.ndarray, steps: int) -> np.ndarray:
    residual = target - matrix @ w
    direction, square = residual, residual @ residual
    for _ in range(steps):
        product = matrix @ direction
        step = square / (direction @ product)
        w, residual = w + step * direction, residual - step * product
        old, square = square, residual @ residual
        direction = residual + square / old * direction
    return w


def score(clients: list[Client], theta: np.ndarray, tuned: list[np.ndarray]) -> tuple[float, float]:
    """Return the mean loss and ‖F(θ)‖."""
    loss, operator = 0.0, np.zeros_like(theta)
    for client, w in zip(clients, tuned, strict=True):
        target = client["local_linear"] - client["cross"].T @ theta
        of_theta = client["shared_curvature"] @ theta
        loss += theta @ (of_theta / 2 - client["shared_linear"]) + client["constant"]
        loss += w @ (client["local_curvature"] @ w / 2 - target)
        operator += of_theta + client["cross"] @ (client["local_inverse"] @ target) - client["shared_linear"]
    return loss / len(clients), float(np.linalg.norm(operator)) / len(clients)


if __name__ == "__main__":
    main()
