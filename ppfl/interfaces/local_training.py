"""What methods have in common whose clients take several gradient steps in a round."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator

from ppfl.core.params import add_scaled
from ppfl.core.plugins import refusal
from ppfl.core.transforms import is_transformed
from ppfl.interfaces.method import Algorithm
from ppfl.interfaces.mini_batches import (
    ORDER_OF_TRAINING,
    X,
    draw_rows,
    iterate,
    mini_batches,
    numbered,
    refuse_padded,
    refuse_without_samples,
    steps_an_epoch,
)
from ppfl.interfaces.schedule import Scheduled
from ppfl.interfaces.step_sizes import resolve_training_lr, step_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.method import Report, ServerOptimizer
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem
    from ppfl.interfaces.theory import Constants

_SIZE = "number of samples"


class LocalTraining(Scheduled, Algorithm):
    """A client sends θ − θ_m, θ_m where its steps from θ ended;  θ ← θ − direction(aggregate of θ − θ_m).

    Source: Reddi et al., ICLR 2021, Algorithm 1: θ − θ_m is a pseudo-gradient for any server optimizer, and with sgd
    and lr 1 the new θ is the aggregate of the θ_m. A step sees a mini-batch of B samples of the data of the round, or
    all of it. Mini-batches go through the data in a freshly drawn order, ⌈S/B⌉ of them an epoch, the last one possibly
    smaller.

    Its server takes single changes of θ, so it has an empty `needs_rounds`. A subclass whose server or clients keep
    anything else that belongs to a round says there why it cannot run asynchronously, and `needs_mean` where another
    rule would lead it astray.

    Such a method says what a step is, as a function of what it changes and of a mini-batch; mini-batches, epochs and
    the server's step are there:

    >>> from typing import Literal
    >>> from ppfl.interfaces.local_training import LocalTraining
    >>> from ppfl.interfaces.method import ClientStep
    >>> from ppfl.core.params import add_scaled, subtract
    >>> class SignTraining(LocalTraining):
    ...     name: Literal["sign_training"]
    ...
    ...     def client(self, objective, message, state, data, draws):
    ...         def step(shared, batch):
    ...             gradient = objective.shared_gradient(shared, state["local"], batch)
    ...             return add_scaled(shared, {name: g.sign() for name, g in gradient.items()}, -self.lr)
    ...
    ...         shared = self.iterate(step, message, data, draws)
    ...         return ClientStep(subtract(message, shared), state, self.report(draws, of_shared=1))
    >>> SignTraining(name="sign_training", lr=0.1, epochs=2).report(draws={}, of_shared=1)
    {'shared_gradients': 2.0, 'local_gradients': 0.0}
    """

    needs_rounds: ClassVar[str] = ""
    example: ClassVar[Example] = {"lr": 0.1, "local_steps": 3}

    lr: PositiveFloat | Literal["theory"]
    """η, a client's step; `theory` is 1/max_m λ_max of the Hessian of what the steps descend."""
    local_steps: PositiveInt | None = None
    """H, steps of a client in a round; either this or `epochs`."""
    epochs: PositiveInt | None = None
    """Passes of a client over the data of the round; either this or `local_steps`."""
    batch_size: PositiveInt | Literal["all"] = "all"
    """Samples a step, B, or `all` data of the round."""

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> Self:
        if self.local_steps is None and self.epochs is None:
            raise refusal("local_steps", "a number of steps, or give `epochs`")
        if self.local_steps is not None and self.epochs is not None:
            raise refusal("epochs", "nothing beside `local_steps`: give exactly one of the two")
        return self

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return the samples of every step, (steps, B), and S."""
        if self.batch_size == "all":
            return {}
        num_steps = self._steps_of(steps_an_epoch(num_samples, self.batch_size))
        rows = draw_rows(objective, ORDER_OF_TRAINING, client, round, num_samples, self.batch_size, num_steps)
        return {ORDER_OF_TRAINING: rows, _SIZE: torch.tensor(num_samples)}

    def iterate(self, step: Callable[[X, Data], X], start: X, data: Data, draws: Draws) -> X:
        """x ← step(x, B) for the mini-batch B of every step; of several clients side by side, those with fewer of them
        wait in the end. x: Params, a tensor, a number of Python, or a tuple of these."""
        return iterate(step, start, numbered(self._batches(data, draws)))

    def batches(self, data: Data, draws: Draws) -> Iterator[Data]:
        """Yield the data of every step, for a loop of one's own; clients of different sizes cannot be computed side by
        side then, as they can with `iterate`: raises UnequalClientsError."""
        if self.batch_size != "all":
            refuse_padded(data)
        return (batch for batch, _ in numbered(self._batches(data, draws)))

    def shared_steps(self, objective: Objective, shared: Params, local: Params, data: Data, draws: Draws) -> Params:
        """θ ← θ − η ∇_1 f_B(θ, w) in every step, w as it is."""

        def step(theta: Params, batch: Data) -> Params:
            return add_scaled(theta, objective.shared_gradient(theta, local, batch), -step_size(self.lr))

        return self.iterate(step, shared, data, draws)

    def server(self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int) -> State:
        """θ ← θ − direction of the server optimizer."""
        return optimizer.step(state, aggregate, 1.0)

    def num_steps(self, draws: Draws) -> int | torch.Tensor:
        """Return the steps of a round, a tensor () where they may differ between clients that are side by side."""
        if self.epochs is None or self.batch_size == "all":
            return self._steps_of(1)
        return self.epochs * -(-_size(draws) // self.batch_size)

    def num_passes(self, draws: Draws) -> float | torch.Tensor:
        """Return the gradients over all S samples that the steps of a round amount to; a tensor () as there."""
        if self.local_steps is None or self.batch_size == "all":
            return float(self._steps_of(1))
        num_samples = _size(draws)
        an_epoch = -(-num_samples // self.batch_size)
        # mini-batches of an epoch that is not finished are full ones: the smaller one comes last
        return self.local_steps // an_epoch + self.local_steps % an_epoch * self.batch_size / num_samples

    def report(self, draws: Draws, of_shared: float = 0.0, of_local: float | torch.Tensor = 0.0) -> Report:
        """Return the gradients of a round, given how many of θ and of w a step computes."""
        passes = self.num_passes(draws)
        return {"shared_gradients": of_shared * passes, "local_gradients": of_local * passes}

    def curvature(self, constants: Constants) -> float:
        """Return max_m λ_max of the Hessian of what the steps descend: f_m in θ, with w as it is."""
        return constants.joint_smoothness

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory`; refuse mini-batches where there are no samples; warn of large steps."""
        refuse_without_samples("batch_size", self.batch_size, problem)
        constants = problem.theory.constants()
        curvature = None if constants is None else self.curvature(constants)
        return self.model_copy(update={"lr": resolve_training_lr(self.lr, curvature)})

    def _batches(self, data: Data, draws: Draws) -> Iterable[tuple[Data, torch.Tensor | None]]:
        if self.batch_size == "all":
            return [(data, None)] * self._steps_of(1)
        # H steps are as many for every client, so that nobody waits
        return mini_batches(data, draws[ORDER_OF_TRAINING], self.batch_size, may_wait=self.local_steps is None)

    def _steps_of(self, an_epoch: int) -> int:
        """Return the steps of a round, given those of an epoch."""
        if self.local_steps is not None:
            return self.local_steps
        assert self.epochs is not None
        return self.epochs * an_epoch


def _size(draws: Draws) -> int | torch.Tensor:
    """Return S, at least 1; of several clients side by side a tensor, float64 so that quotients are those of Python."""
    num_samples = draws[_SIZE]
    return num_samples.double().clamp(min=1) if is_transformed() else max(1, int(num_samples))


def refuse_server_optimizer(name: str, optimizer: ServerOptimizer) -> None:
    """Raise ValueError unless the server optimizer is the default, for methods whose server takes no steps."""
    if optimizer.name != "sgd" or optimizer.lr != 1.0 or optimizer.lr_schedule is not None:
        raise ValueError(
            f"name: the server of {name!r} takes no steps: leave server_optimizer out, or set it to "
            f"{{name: sgd, lr: 1}}; it is {optimizer.name} with lr {optimizer.lr:g}"
        )
