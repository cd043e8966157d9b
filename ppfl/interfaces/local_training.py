"""What methods have in common whose clients take several gradient steps in a round."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from ppfl.core.params import add_scaled
from ppfl.core.plugins import refusal
from ppfl.interfaces.method import Algorithm
from ppfl.interfaces.mini_batches import cut, draw_orders, refuse_without_samples
from ppfl.interfaces.schedule import Scheduled
from ppfl.interfaces.step_sizes import resolve_training_lr, step_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.method import Report, ServerOptimizer
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem
    from ppfl.interfaces.theory import Constants

# another one than the fine-tuners', so that the steps on θ and those on w do not see the same mini-batches
_ORDER = "order of samples for training"


class LocalTraining(Scheduled, Algorithm):
    """A client sends θ − θ_m, θ_m where its steps from θ ended;  θ ← θ − direction(aggregate of θ − θ_m).

    Source: Reddi et al., ICLR 2021, Algorithm 1: θ − θ_m is a pseudo-gradient for any server optimizer, and with sgd
    and lr 1 the new θ is the aggregate of the θ_m. A step sees a mini-batch of B samples of the data of the round, or
    all of it. Mini-batches go through the data in a freshly drawn order, ⌈S/B⌉ of them an epoch, the last one possibly
    smaller.

    Its server takes single changes of θ, so it has an empty `needs_rounds`. A subclass whose server or clients keep
    anything else that belongs to a round says there why it cannot run asynchronously, and `needs_mean` where another
    rule would lead it astray.

    Such a method says what its steps are; mini-batches, epochs and the server's step are there:

    >>> from typing import Literal
    >>> from ppfl.interfaces.local_training import LocalTraining
    >>> from ppfl.interfaces.method import ClientStep
    >>> from ppfl.core.params import add_scaled, subtract
    >>> class SignTraining(LocalTraining):
    ...     name: Literal["sign_training"]
    ...
    ...     def client(self, objective, message, state, data, draws):
    ...         shared = message
    ...         for batch in self.batches(data, draws):
    ...             gradient = objective.shared_gradient(shared, state["local"], batch)
    ...             shared = add_scaled(shared, {name: g.sign() for name, g in gradient.items()}, -self.lr)
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
        """Return the order of the samples in every epoch that is begun, (epochs, S)."""
        if self.batch_size == "all":
            return {}
        num_epochs = -(-self._num_steps(num_samples) // self._steps_an_epoch(num_samples))
        return {_ORDER: draw_orders(objective, _ORDER, client, round, num_samples, num_epochs)}

    def batches(self, data: Data, draws: Draws) -> Iterator[Data]:
        """Yield the data of every step."""
        if self.batch_size == "all":
            # a step is an epoch here, however many samples there are
            for _ in range(self._num_steps(1)):
                yield data
            return
        orders = draws[_ORDER]
        steps = cut(data, orders, self.batch_size)
        for _ in range(self._num_steps(orders.shape[1])):
            yield next(steps)

    def shared_steps(self, objective: Objective, shared: Params, local: Params, data: Data, draws: Draws) -> Params:
        """θ ← θ − η ∇_1 f_B(θ, w) in every step, w as it is."""
        for batch in self.batches(data, draws):
            shared = add_scaled(shared, objective.shared_gradient(shared, local, batch), -step_size(self.lr))
        return shared

    def server(self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int) -> State:
        """θ ← θ − direction of the server optimizer."""
        return optimizer.step(state, aggregate, 1.0)

    def num_passes(self, draws: Draws) -> float:
        """Return the gradients over all S samples that the steps of a round amount to."""
        if self.batch_size == "all":
            return float(self._num_steps(1))
        num_samples = draws[_ORDER].shape[1]
        epochs, rest = divmod(self._num_steps(num_samples), self._steps_an_epoch(num_samples))
        # mini-batches of an epoch that is not finished are full ones: the smaller one comes last
        return epochs + (rest * self.batch_size / num_samples if rest else 0.0)

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

    def _steps_an_epoch(self, num_samples: int) -> int:
        return 1 if self.batch_size == "all" else max(1, -(-num_samples // self.batch_size))

    def _num_steps(self, num_samples: int) -> int:
        if self.local_steps is not None:
            return self.local_steps
        assert self.epochs is not None
        return self.epochs * self._steps_an_epoch(num_samples)


def refuse_server_optimizer(name: str, optimizer: ServerOptimizer) -> None:
    """Raise ValueError unless the server optimizer is the default, for methods whose server takes no steps."""
    if optimizer.name != "sgd" or optimizer.lr != 1.0:
        raise ValueError(
            f"name: the server of {name!r} takes no steps: leave server_optimizer out, or set it to "
            f"{{name: sgd, lr: 1}}; it is {optimizer.name} with lr {optimizer.lr:g}"
        )
