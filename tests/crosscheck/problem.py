"""A network of two layers on a few clients, its losses and gradients written out in NumPy: no ppfl, no torch.

z = (hidden, head) = (W₁, b₁, W₂, b₂) is one vector; θ and w are two pieces of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Samples = tuple[NDArray[np.float64], NDArray[np.int64]]
"""x (S, features), y (S,)."""

NUM_FEATURES, WIDTH, NUM_CLASSES = 5, 4, 3
NUM_HIDDEN = WIDTH * (NUM_FEATURES + 1)
NUM_PARAMETERS = NUM_HIDDEN + NUM_CLASSES * (WIDTH + 1)
SPLITS = {
    "nothing": np.zeros(NUM_PARAMETERS, bool),
    "head": np.arange(NUM_PARAMETERS) >= NUM_HIDDEN,
    "hidden1": np.arange(NUM_PARAMETERS) < NUM_HIDDEN,
}
"""Which coordinates of z are w."""
_NUM_TRAIN, _NUM_TEST = (6, 15, 9, 21, 4, 12, 8), (3, 7, 4, 5, 2, 6, 3)


def draw_samples(sizes: Iterable[int], seed: int) -> list[Samples]:
    """Draw samples of clients that differ in what they have and in how much."""
    draw = np.random.default_rng(seed)
    clients = []
    for size in sizes:
        x = draw.standard_normal((size, NUM_FEATURES)) + draw.standard_normal(NUM_FEATURES)
        clients.append((x, draw.permutation(np.arange(size) % NUM_CLASSES).astype(np.int64)))
    return clients


TRAIN, TEST = draw_samples(_NUM_TRAIN, 1), draw_samples(_NUM_TEST, 2)


def write_samples(path: Path, clients: list[Samples]) -> Path:
    with h5py.File(path, "w") as file:
        for number, (x, y) in enumerate(clients):
            file[f"examples/{number}/pixels"] = x
            file[f"examples/{number}/label"] = y
    return path


@dataclass(frozen=True)
class Problem:
    """f_m(θ, w) = mean over samples of ℓ(W₂ relu(W₁x + b₁) + b₂, y) + (ridge/2)‖w‖²."""

    is_local: NDArray[np.bool_]
    squared: bool = False
    """ℓ = ½‖z − e_y‖² instead of −log softmax(z)[y]."""
    ridge: float = 0.0

    def join(self, theta: Vector, w: Vector) -> Vector:
        z = np.empty(NUM_PARAMETERS)
        z[self.is_local], z[~self.is_local] = w, theta
        return z

    def loss(self, samples: Samples, theta: Vector, w: Vector) -> float:
        return self.data_loss(samples, theta, w) + self.ridge / 2 * float(w @ w)

    def data_loss(self, samples: Samples, theta: Vector, w: Vector) -> float:
        """f_m without the ridge."""
        _, logits = self._layers(samples[0], self.join(theta, w))
        if self.squared:
            return float(((logits - np.eye(NUM_CLASSES)[samples[1]]) ** 2).sum() / 2 / len(logits))
        return float(-np.log(softmax(logits)[np.arange(len(logits)), samples[1]]).mean())

    def accuracy(self, samples: Samples, theta: Vector, w: Vector) -> float:
        _, logits = self._layers(samples[0], self.join(theta, w))
        return float((logits.argmax(axis=1) == samples[1]).mean())

    def gradients(self, samples: Samples, theta: Vector, w: Vector) -> tuple[Vector, Vector]:
        """(∇_1 f_m, ∇_2 f_m), by the chain rule."""
        x, y = samples
        z = self.join(theta, w)
        features, logits = self._layers(x, z)
        of_logits = ((logits if self.squared else softmax(logits)) - np.eye(NUM_CLASSES)[y]) / len(y)
        head = z[NUM_HIDDEN : NUM_HIDDEN + NUM_CLASSES * WIDTH].reshape(NUM_CLASSES, WIDTH)
        of_features = (of_logits @ head) * (features > 0)
        parts = (of_features.T @ x, of_features.sum(axis=0), of_logits.T @ features, of_logits.sum(axis=0))
        whole = np.concatenate([part.ravel() for part in parts])
        return whole[~self.is_local], whole[self.is_local] + self.ridge * w

    def of_theta(self, m: int, theta: Vector, w: Vector) -> Vector:
        """∇_1 f_m(θ, w) on all that client m has."""
        return self.gradients(TRAIN[m], theta, w)[0]

    def of_both(self, m: int, theta: Vector, w: Vector) -> tuple[Vector, Vector]:
        return self.gradients(TRAIN[m], theta, w)

    def _layers(self, x: Vector, z: Vector) -> tuple[Vector, Vector]:
        """Return features (S, width) and logits (S, classes)."""
        cuts = np.cumsum([WIDTH * NUM_FEATURES, WIDTH, NUM_CLASSES * WIDTH])
        W1, b1, W2, b2 = np.split(z, cuts)
        features = np.maximum(x @ W1.reshape(WIDTH, NUM_FEATURES).T + b1, 0.0)
        return features, features @ W2.reshape(NUM_CLASSES, WIDTH).T + b2


def softmax(logits: Vector) -> Vector:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class World:
    """What a method is given: the problem, where it begins, who takes part in which round, what the server is."""

    f: Problem
    theta: Vector
    w: Vector
    cohorts: list[list[int]]
    weights: Vector
    """n_m of every client: its samples, or 1."""
    direction: Callable[[Vector], Vector]
    """From the aggregate to the direction of the server, with a memory of its own."""
    averages: Callable[[int], bool]
    """Whether the coin of iteration k says that L2GD averages."""

    @property
    def clients(self) -> range:
        return range(len(self.weights))

    @property
    def is_full(self) -> bool:
        return all(len(cohort) == len(self.weights) for cohort in self.cohorts)

    def mean(self, of_client: dict[int, Vector]) -> Vector:
        """Σ_S n_m x_m / Σ_S n_m."""
        total: Vector = sum((self.weights[m] * x for m, x in of_client.items()), np.zeros(1))
        return total / sum(self.weights[m] for m in of_client)


@dataclass(frozen=True)
class Round:
    """What stands after a round, and what it cost."""

    theta: Vector
    deployed: list[tuple[Vector, Vector]]
    """(θ_m, w_m) of every client."""
    of_theta: float = 0.0
    """Gradients of θ, each over all samples of one client."""
    of_w: float = 0.0
    sent: float = 0
    """Vectors as long as θ, from clients to the server; less than whole ones where coordinates are left out."""
    received: int = 0

    @property
    def costs(self) -> tuple[float, float, float, int]:
        """Return gradients of θ and of w, and vectors that were sent and received."""
        return self.of_theta, self.of_w, self.sent, self.received


Rounds = Iterator[Round]
