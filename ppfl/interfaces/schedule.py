"""Schedules: factors on a step size, round by round, and what has a step size that follows one."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from ppfl.core.plugins import ChosenFrom, PlugIn, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator


class Schedule(PlugIn):
    """The step of round t is factor(t) · lr, with W rounds of warm-up: (t + 1)/(W + 1) for t < W.

    Source of the warm-up: Goyal et al., "Accurate, Large Minibatch SGD", 2017, Section 2.2. Rounds count from 0;
    asynchronously they are steps of the server. A schedule says what follows the warm-up, as a function of its
    arguments alone, so that a run that goes on from a checkpoint has the same factors:

    >>> from typing import Literal
    >>> from ppfl.interfaces.schedule import Schedule
    >>> class InverseRoot(Schedule):
    ...     name: Literal["inverse_root"]
    ...
    ...     def after_warmup(self, round, num_rounds):
    ...         return (1 + round - self.warmup) ** -0.5
    >>> schedule = InverseRoot(name="inverse_root", warmup=2)
    >>> [round(schedule.factor(t, num_rounds=10), 3) for t in range(6)]
    [0.333, 0.667, 1.0, 0.707, 0.577, 0.5]
    """

    warmup: NonNegativeInt = 0
    """W, rounds with a smaller step before the first full one."""

    @abstractmethod
    def after_warmup(self, round: int, num_rounds: int) -> float:
        """Return the factor of a round t ≥ W of a run of so many rounds, > 0."""

    @property
    def depends_on_num_rounds(self) -> bool:
        """True when a longer run has other factors from its beginning."""
        return False

    def factor(self, round: int, num_rounds: int) -> float:
        """Return the factor of round t."""
        if round < self.warmup:
            return (round + 1) / (self.warmup + 1)
        return self.after_warmup(round, num_rounds)

    def unfit(self, num_rounds: int) -> tuple[str, str] | None:
        """Return (key, what is allowed there) when it does not fit a run of so many rounds."""
        return None


class Decay(Schedule):
    """From 1 at round W down to `end` at round H, the horizon; `end` from there on.

    A subclass says how, as a function of the way u = (t − W)/(H − W) that is behind, in [0, 1):

    >>> from typing import Literal
    >>> from ppfl.interfaces.schedule import Decay
    >>> class Parabola(Decay):
    ...     name: Literal["parabola"]
    ...
    ...     def shape(self, way):
    ...         return (1.0 - way) ** 2
    >>> [Parabola(name="parabola", end=0.5).factor(t, num_rounds=4) for t in (0, 2, 4)]
    [1.0, 0.625, 0.5]
    """

    horizon: PositiveInt | None = None
    """H, rounds; null takes the `rounds` of the run."""
    end: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Factor at the horizon and after it."""

    @model_validator(mode="after")
    def _warms_up_before_the_horizon(self) -> Self:
        if self.horizon is not None and self.warmup >= self.horizon:
            raise refusal("warmup", f"less than the horizon, which is {self.horizon}")
        return self

    @abstractmethod
    def shape(self, way: float) -> float:
        """Return what is left of 1 − end: 1 at u = 0, falling towards 0 at u = 1."""

    @property
    def depends_on_num_rounds(self) -> bool:
        """True without a stated horizon."""
        return self.horizon is None

    def after_warmup(self, round: int, num_rounds: int) -> float:
        """Return end + (1 − end) · shape(u), `end` from the horizon on."""
        horizon = self.horizon or num_rounds
        if round >= horizon:
            return self.end
        return self.end + (1.0 - self.end) * self.shape((round - self.warmup) / (horizon - self.warmup))

    def unfit(self, num_rounds: int) -> tuple[str, str] | None:
        """Find a warm-up that lasts all rounds, and rounds whose step would be 0."""
        if self.horizon is None and self.warmup >= num_rounds:
            return "warmup", f"less than {num_rounds}, the steps of the server"
        if self.horizon is not None and self.horizon < num_rounds and self.end == 0.0:
            return "horizon", f"at least {num_rounds}, the steps of the server, or an `end` above 0"
        return None


class InRounds(PlugIn):
    """What is done round after round, with steps of its own or of its parts that may follow schedules.

    Parts are its fields that are such things themselves, as a method's fine-tuner:

    >>> from typing import Literal
    >>> from ppfl.interfaces.schedule import InRounds
    >>> from ppfl.fine_tuners.gradient_descent import GradientDescent
    >>> from ppfl.schedules.linear import Linear
    >>> class Rounds(InRounds):
    ...     name: Literal["rounds"]
    ...     tuner: GradientDescent
    >>> halved = Linear(name="linear", horizon=10, end=0.5)
    >>> tuner = GradientDescent(name="gradient_descent", steps=1, lr=0.2, lr_schedule=halved)
    >>> Rounds(name="rounds", tuner=tuner).at(round=10, num_rounds=10).tuner.lr
    0.1
    """

    def at(self, round: int, num_rounds: int) -> Self:
        """Return the same with the steps of one round, itself where there is no schedule; `theory` has been resolved.

        Methods are given their steps like this: none of them has to know of schedules.
        """
        parts = {name: part.at(round, num_rounds) for name, part in self._parts()}
        changed: dict[str, Any] = {name: part for name, part in parts.items() if part is not getattr(self, name)}
        return self.model_copy(update=changed) if changed else self

    def schedules(self) -> dict[str, Schedule]:
        """Return {dotted key: schedule} of all that there are."""
        return {f"{name}.{key}": schedule for name, part in self._parts() for key, schedule in part.schedules().items()}

    def _parts(self) -> Iterator[tuple[str, InRounds]]:
        for name in type(self).model_fields:
            if isinstance(part := getattr(self, name), InRounds):
                yield name, part


class Scheduled(InRounds):
    """What has a field `lr` that may follow a schedule; a base beside `Algorithm` or `FineTuner`.

    >>> from typing import Literal
    >>> from ppfl.interfaces.schedule import Scheduled
    >>> from ppfl.schedules.constant import Constant
    >>> class Descent(Scheduled):
    ...     name: Literal["descent"]
    ...     lr: float
    >>> descent = Descent(name="descent", lr=0.4, lr_schedule=Constant(name="constant", warmup=1))
    >>> [descent.at(t, num_rounds=2).lr for t in range(2)]
    [0.2, 0.4]
    """

    lr_schedule: Annotated[Schedule, ChosenFrom("ppfl.schedules")] | None = Field(
        default=None,
        # where it says nothing, as if it were not there: digests are older than this key
        exclude_if=lambda schedule: schedule is None,
    )
    """Factor on `lr`, round by round; null: 1."""

    def at(self, round: int, num_rounds: int) -> Self:
        """Return the same with lr · factor as its lr."""
        scaled = super().at(round, num_rounds)
        if self.lr_schedule is None:
            return scaled
        lr = vars(self)["lr"]
        assert not isinstance(lr, str), "the step was not resolved"
        return scaled.model_copy(update={"lr": lr * self.lr_schedule.factor(round, num_rounds)})

    def schedules(self) -> dict[str, Schedule]:
        """Return its own, and those of its parts."""
        mine = {} if self.lr_schedule is None else {"lr_schedule": self.lr_schedule}
        return {**mine, **super().schedules()}
