"""Mini-batches: which samples are in them, drawn from a counter, and steps through them; what fine-tuners share that
take such steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt

from ppfl.core.rng import generator
from ppfl.core.transforms import is_transformed
from ppfl.interfaces.client_data import Statistics, at_step
from ppfl.interfaces.method import FineTuner
from ppfl.interfaces.schedule import Scheduled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ppfl.core.types import Data, Draws
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem

ORDER_OF_TUNING = "order of samples"
# another one than the fine-tuners', so that the steps on θ and those on w do not see the same mini-batches
ORDER_OF_TRAINING = "order of samples for training"
PADDED_DRAWS = frozenset({ORDER_OF_TUNING, ORDER_OF_TRAINING})
"""What `draw_rows` draws under these names, `mini_batches` alone reads: −1 may stand in it for what is not there."""

X = TypeVar("X")
"""What steps change: Params, a tensor, a number of Python, or a tuple of these."""


class UnequalClientsError(Exception):
    """Clients of different sizes cannot be computed side by side; says of them, in words, what they do."""


def steps_an_epoch(num_samples: int, batch_size: int) -> int:
    """⌈S/B⌉, at least 1."""
    return max(1, -(-num_samples // batch_size))


def draw_rows(
    objective: Objective, purpose: str, client: int, round: int, num_samples: int, batch_size: int, num_steps: int
) -> torch.Tensor:
    """Return the samples of every step, (steps, B) int64, B no larger than S; keyed (seed, purpose, round, client).

    Every epoch goes through the samples in a fresh order. −1 fills the last mini-batch of an epoch where it is smaller.
    """
    draw = generator(objective.seed, purpose, round=round, client=client)
    width, an_epoch = min(batch_size, num_samples), steps_an_epoch(num_samples, batch_size)
    rows = np.full((-(-num_steps // an_epoch), an_epoch * width), -1, dtype=np.int64)
    for order in rows:
        order[:num_samples] = draw.permutation(num_samples)
    return torch.from_numpy(rows.reshape(len(rows) * an_epoch, width)[:num_steps])


def mini_batches(
    data: Data, rows: torch.Tensor, batch_size: int, may_wait: bool
) -> Iterator[tuple[Data, torch.Tensor | None]]:
    """Yield the mini-batch of every step, and which clients take it, () bool; None: all of them.

    data: it may have been advanced; with `weight` where it is padded to the longest of several clients. rows: what
    `draw_rows` returns, padded with −1 to the most steps and the largest mini-batch where data are. may_wait: whether
    some of these clients may have fewer steps than others.
    """
    rows = rows.to(next(iter(data.values())).device)
    if "weight" in data:
        yield from _padded(data, rows, may_wait)
        return
    # clients of one size, or a single one: sizes of mini-batches are known without a look at values
    num_samples = len(next(iter(data.values())))
    an_epoch = steps_an_epoch(num_samples, batch_size)
    for number, of_step in enumerate(rows.unbind(0)):
        left = num_samples - number % an_epoch * batch_size
        samples = of_step[:left] if left < len(of_step) else of_step
        yield _of(data, samples), None


def _padded(data: Data, rows: torch.Tensor, may_wait: bool) -> Iterator[tuple[Data, torch.Tensor | None]]:
    is_there = rows >= 0
    weights = is_there.to(data["weight"].dtype).unbind(0)
    takers: Iterable[torch.Tensor | None] = is_there.any(dim=1).unbind(0) if may_wait else [None] * len(rows)
    values = {name: value for name, value in data.items() if name != "weight"}
    # sample 0 in the place of those that are not there: finite, whatever is done with it, and of weight 0
    for samples, weight, takes in zip(rows.clamp(min=0).unbind(0), weights, takers, strict=True):
        yield {**_of(values, samples), "weight": weight}, takes


def _of(data: Data, samples: torch.Tensor) -> Data:
    if is_transformed():  # index_select vectorized gathers number by number, not row by row
        return {name: value[samples] for name, value in data.items()}
    return {name: value.index_select(0, samples) for name, value in data.items()}


def numbered(batches: Iterable[tuple[Data, torch.Tensor | None]]) -> Iterator[tuple[Data, torch.Tensor | None]]:
    """Give the samples of every step other keys, where they have some: dropout has another mask in each."""
    for number, (batch, takes) in enumerate(batches):
        yield at_step(batch, number), takes


def iterate(step: Callable[[X, Data], X], start: X, batches: Iterable[tuple[Data, torch.Tensor | None]]) -> X:
    """x ← step(x, B) for every mini-batch B; where a client does not take a step, its x stays as it is."""
    x = start
    for batch, takes in batches:
        new = step(x, batch)
        x = new if takes is None else _where(takes, new, x)
    return x


def _where(takes: torch.Tensor, new: Any, old: Any) -> Any:
    if isinstance(new, dict):
        return {name: _where(takes, value, old[name]) for name, value in new.items()}
    if isinstance(new, tuple):
        return tuple(_where(takes, *pair) for pair in zip(new, old, strict=True))
    # clients wait at the end alone, so that a number of the step is the same for all that take it
    return torch.where(takes, new, old) if isinstance(new, torch.Tensor) else new


def refuse_padded(data: Data) -> None:
    """Raise UnequalClientsError where mini-batches of clients have different sizes, which a loop cannot be given."""
    if "weight" in data:
        raise UnequalClientsError("loop over mini-batches of different sizes")


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

    Such a fine-tuner says what a step is, as a function of what it changes and of a mini-batch:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.interfaces.method import Tuned
    >>> from ppfl.interfaces.mini_batches import MiniBatchFineTuner
    >>> from ppfl.core.params import add_scaled
    >>> class Sgd(MiniBatchFineTuner):
    ...     name: Literal["sgd"]
    ...
    ...     def tune(self, objective, shared, local, data, draws):
    ...         def step(w, batch):
    ...             return add_scaled(w, objective.local_gradient(shared, w, batch), -self.lr)
    ...
    ...         return Tuned(self.iterate(step, local, data, draws), float(self.epochs))
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
        """Return what `start` needs, and the samples of every step, (steps, B)."""
        start = super().draws(objective, client, round, num_samples)
        if self.batch_size == "all":
            return start
        num_steps = self.epochs * steps_an_epoch(num_samples, self.batch_size)
        rows = draw_rows(objective, ORDER_OF_TUNING, client, round, num_samples, self.batch_size, num_steps)
        return {**start, ORDER_OF_TUNING: rows}

    def iterate(self, step: Callable[[X, Data], X], start: X, data: Data, draws: Draws) -> X:
        """x ← step(x, B) for each of ⌈S/B⌉ mini-batches B an epoch; of several clients side by side, those with fewer
        of them wait in the end. x: Params, a tensor, a number of Python, or a tuple of these."""
        return iterate(step, start, numbered(self._batches(data, draws)))

    def batches(self, data: Data, draws: Draws) -> Iterator[Data]:
        """Yield the data of every step, for a loop of one's own; clients of different sizes cannot be computed side by
        side then, as they can with `iterate`: raises UnequalClientsError."""
        if self.batch_size != "all":
            refuse_padded(data)
        return (batch for batch, _ in numbered(self._batches(data, draws)))

    def resolve(self, problem: Problem) -> FineTuner:
        """Refuse mini-batches on problems that have no samples."""
        refuse_without_samples("fine_tuner.batch_size", self.batch_size, problem)
        return self

    def _batches(self, data: Data, draws: Draws) -> Iterable[tuple[Data, torch.Tensor | None]]:
        if self.batch_size == "all":
            return [(data, None)] * self.epochs
        return mini_batches(data, draws[ORDER_OF_TUNING], self.batch_size, may_wait=True)
