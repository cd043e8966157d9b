"""What fine-tuners that go through mini-batches of a client's samples have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt

from ppfl.core.method import FineTuner
from ppfl.core.rng import generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppfl.core.problem import Problem
    from ppfl.core.types import Data, Draws

_ORDER = "order of samples"


class MiniBatchFineTuner(FineTuner):
    """Epochs over the data of one call in mini-batches of B samples, in a freshly drawn order each epoch.

    An epoch has ⌈S/B⌉ steps: the last mini-batch is used also when it is smaller.
    """

    lr: PositiveFloat
    """Step size."""
    batch_size: PositiveInt | Literal["all"]
    """B, or `all` samples in each step."""
    epochs: PositiveInt = 1
    """Passes over the data."""

    def draws(self, problem: Problem, client: int, round: int, num_samples: int) -> Draws:
        """Return what `start` needs, and the order of the samples in every epoch, (epochs, S)."""
        start = super().draws(problem, client, round, num_samples)
        if self.batch_size == "all":
            return start
        draw = generator(problem.seed, _ORDER, round=round, client=client)
        orders = np.stack([draw.permutation(num_samples) for _ in range(self.epochs)])
        return {**start, _ORDER: torch.from_numpy(orders)}

    def batches(self, problem: Problem, data: Data, draws: Draws) -> Iterator[Data]:
        """Yield the data of every step: ⌈S/B⌉ mini-batches an epoch."""
        if self.batch_size == "all":
            for _ in range(self.epochs):
                yield data
            return
        device = next(iter(data.values())).device
        for order in draws[_ORDER].to(device).unbind(0):
            for samples in torch.split(order, self.batch_size):
                yield problem.select(data, samples)

    def num_gradients(self, num_samples: int) -> float:
        """One an epoch: the mini-batches of an epoch cover every sample once."""
        return float(self.epochs)

    def resolve(self, problem: Problem) -> FineTuner:
        """Refuse mini-batches on problems that have no samples."""
        if self.batch_size != "all" and not problem.has_samples:
            raise ValueError(
                f"fine_tuner.batch_size: {self.batch_size} asks for mini-batches, but this problem is given by "
                "sufficient statistics and has no samples; use 'all'"
            )
        return self
