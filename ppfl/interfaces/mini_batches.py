"""Orders of mini-batches, drawn from a counter, and what fine-tuners that go through them have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt

from ppfl.core.rng import generator
from ppfl.interfaces.client_data import Statistics
from ppfl.interfaces.method import FineTuner
from ppfl.interfaces.schedule import Scheduled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppfl.core.types import Data, Draws
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem

_ORDER = "order of samples"


class NeedsEqualClients(ValueError):
    """Clients of different numbers of samples cannot be computed together; groups of equal ones can."""


def draw_orders(
    objective: Objective, purpose: str, client: int, round: int, num_samples: int, num_epochs: int
) -> torch.Tensor:
    """Return a fresh order of S samples for every epoch, (epochs, S) int64, keyed (seed, purpose, round, client)."""
    draw = generator(objective.seed, purpose, round=round, client=client)
    return torch.from_numpy(np.stack([draw.permutation(num_samples) for _ in range(num_epochs)]))


def cut(data: Data, orders: torch.Tensor, batch_size: int) -> Iterator[Data]:
    """Yield ⌈S/B⌉ mini-batches an epoch, of `data`, which may have been advanced; the last one may be smaller.

    orders: (epochs, S) int64.
    """
    device = next(iter(data.values())).device
    for order in orders.to(device).unbind(0):
        for samples in torch.split(order, batch_size):
            yield {name: value.index_select(0, samples) for name, value in data.items()}


def refuse_without_samples(key: str, batch_size: int | Literal["all"], problem: Problem) -> None:
    """Raise ValueError for mini-batches on a problem that has no samples."""
    if batch_size != "all" and isinstance(problem.client_data, Statistics):
        raise ValueError(
            f"{key}: {batch_size} asks for mini-batches, but this problem is given by sufficient statistics and has "
            "no samples; use 'all'"
        )


class MiniBatchFineTuner(Scheduled, FineTuner):
    """Epochs over the data of one call in mini-batches of B samples, in a freshly drawn order each epoch.

    An epoch has ⌈S/B⌉ steps: the last mini-batch is used also when it is smaller.

    Such a fine-tuner says what a step is:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.interfaces.method import Tuned
    >>> from ppfl.interfaces.mini_batches import MiniBatchFineTuner
    >>> from ppfl.core.params import add_scaled
    >>> class Sgd(MiniBatchFineTuner):
    ...     name: Literal["sgd"]
    ...
    ...     def tune(self, objective, shared, local, data, draws):
    ...         for batch in self.batches(data, draws):
    ...             local = add_scaled(local, objective.local_gradient(shared, local, batch), -self.lr)
    ...         return Tuned(local, float(self.epochs))
    >>> class Mean:  # all of an objective that this one asks for
    ...     seed = 0
    ...
    ...     def local_gradient(self, shared, local, data):
    ...         return {"w": local["w"] - data["x"].mean()}
    >>> tuner, data = Sgd(name="sgd", lr=1.0, batch_size=3), {"x": torch.full((4,), 2.0)}
    >>> tuner.tune(Mean(), {}, {"w": torch.zeros(())}, data, tuner.draws(Mean(), client=0, round=0, num_samples=4))
    Tuned(local={'w': tensor(2.)}, num_gradients=1.0)
    """

    lr: PositiveFloat
    """Step size."""
    batch_size: PositiveInt | Literal["all"]
    """B, or `all` samples in each step."""
    epochs: PositiveInt = 1
    """Passes over the data."""

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return what `start` needs, and the order of the samples in every epoch, (epochs, S)."""
        start = super().draws(objective, client, round, num_samples)
        if self.batch_size == "all":
            return start
        return {**start, _ORDER: draw_orders(objective, _ORDER, client, round, num_samples, self.epochs)}

    def batches(self, data: Data, draws: Draws) -> Iterator[Data]:
        """Yield the data of every step: ⌈S/B⌉ mini-batches an epoch."""
        if self.batch_size == "all":
            for _ in range(self.epochs):
                yield data
            return
        yield from cut(data, draws[_ORDER], self.batch_size)

    def resolve(self, problem: Problem) -> FineTuner:
        """Refuse mini-batches on problems that have no samples."""
        refuse_without_samples("fine_tuner.batch_size", self.batch_size, problem)
        return self
