"""The sections `problem.phases` and `problem.rehearsal`: data that change with the round, and what is kept of them."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from ppfl.core.plugins import Settings, refusal

_Classes = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1, strict=False)]
_Rounds = Annotated[tuple[PositiveInt, ...], Field(min_length=1, strict=False)]


class Phases(Settings):
    """Which classes clients have in which rounds: in phase p the training samples of its classes, and no others.

    >>> from ppfl.interfaces.phases import Phases
    >>> phases = Phases(classes=[[1, 0], [3]], rounds=[2, 3])
    >>> [phases.at(round) for round in range(6)], phases.seen(1)
    ([0, 0, 1, 1, 1, 1], (0, 1, 3))
    """

    classes: Annotated[tuple[_Classes, ...], Field(min_length=1, strict=False)]
    """A list of labels for each phase; a class may come again in a later one."""
    rounds: PositiveInt | _Rounds
    """Rounds of every phase, or one number for each; together they are the `rounds` of the run."""

    @field_validator("classes")
    @classmethod
    def _in_one_order(cls, classes: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        # the same classes in another order are the same phase
        return tuple(tuple(sorted(set(of_phase))) for of_phase in classes)

    @model_validator(mode="after")
    def _one_number_each(self) -> Self:
        if isinstance(self.rounds, tuple) and len(self.rounds) != len(self.classes):
            raise refusal("rounds", f"one number, or {len(self.classes)} of them, one for each list of `classes`")
        return self

    @property
    def lengths(self) -> tuple[int, ...]:
        """Rounds of each phase."""
        return self.rounds if isinstance(self.rounds, tuple) else (self.rounds,) * len(self.classes)

    def at(self, round: int) -> int:
        """Return the number of the phase of a round, from 0; after the last one it stays."""
        return min(bisect_right(list(accumulate(self.lengths)), round), len(self.classes) - 1)

    def begins(self, round: int) -> bool:
        """Say whether a phase begins with a round, after another one."""
        return round > 0 and self.at(round) != self.at(round - 1)

    def seen(self, phase: int) -> tuple[int, ...]:
        """Return the classes of a phase and of those before it."""
        return tuple(sorted({label for classes in self.classes[: phase + 1] for label in classes}))


class Rehearsal(Settings):
    """What a client keeps of samples that it will not see again: a normal law for each class, and how many there were.

    N(μ, (1 − α) Σ_k + ρ I), Σ_k the k leading terms of the covariance of the samples and ρ such that the trace is
    theirs. From the next phase on samples drawn from it are trained on beside those of the phase.
    """

    samples: PositiveInt
    """Drawn in every round for each class that was seen in phases before, beside the samples of the round."""
    components: PositiveInt = 8
    """k, principal directions of a class that are kept."""
    shrinkage: Annotated[float, Field(ge=0, le=1)] = 0.1
    """α; 1 keeps one variance a class, for all directions alike."""
