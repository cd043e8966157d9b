"""The section `evaluate`: when scores are taken, and of what."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, PositiveInt, field_validator, model_validator

from ppfl.core.plugins import ChosenFrom, Settings, refusal
from ppfl.interfaces.best_round import BestRound
from ppfl.interfaces.method import FineTuner

_Part = Literal["train", "validation", "test"]
_SELECTING = ("parts", "samples", "clients")
"""Keys that say what is scored."""


class Tuned(Settings):
    """The final stage `tuned`: every client's w is tuned once more before it is scored."""

    epochs: Annotated[int, Field(ge=0)] = 5
    """Passes over a client's training samples in batches of problem.batch_size; each batch is one call of the
    fine-tuner, with all the steps or epochs that its own settings say."""
    fine_tuner: Annotated[FineTuner, ChosenFrom("ppfl.fine_tuners")] | None = None
    """What to tune with; null takes the algorithm's own."""

    @field_validator("fine_tuner")
    @classmethod
    def _has_no_rounds(cls, tuner: FineTuner | None) -> FineTuner | None:
        if tuner is not None and tuner.schedules():
            raise refusal("lr_schedule", "nothing: this stage has no rounds, and takes full steps")
        return tuner


class Evaluate(Settings):
    """When and how to score."""

    silent: ClassVar[frozenset[str]] = frozenset({*_SELECTING, "reports", "best_round", "history"})
    every: Annotated[int, Field(ge=1)] = 10
    """Rounds from one evaluation to the next; rounds 0 and the last are always evaluated."""
    parts: Annotated[tuple[_Part, ...], Field(min_length=1)] = Field(default=("validation", "test"), strict=False)
    """Which samples are scored: train, validation, test, or some of them."""
    samples: PositiveInt | None = None
    """Most samples of each client and part that are scored, drawn once, by the seed; null: all."""
    clients: PositiveInt | None = None
    """So many clients are scored, drawn once, by the seed, among the honest ones with training samples; null: all."""
    tuned: Tuned | None = Tuned()
    """The final stage `tuned`; null leaves it out."""
    reports: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...] = Field(default=(), strict=False)
    """What clients tell, such as local_gradients, to be kept for each of them with the scores: what it told last since
    the scores before."""
    best_round: BestRound | None = None
    """Rounds are judged on validation samples: the best one is scored beside the last one, and the run may end early;
    null: it is not looked for."""
    history: bool = False
    """Whether the scores of every single client are kept, of every evaluation, beside their means."""

    @field_validator("parts")
    @classmethod
    def _in_one_order(cls, parts: tuple[_Part, ...]) -> tuple[_Part, ...]:
        # the same parts in another order are the same run
        return tuple(part for part in get_args(_Part) if part in parts)

    @model_validator(mode="after")
    def _has_what_judges(self) -> Evaluate:
        if self.best_round is not None and "validation" not in self.parts:
            raise refusal("parts", "validation among them, on which `best_round` judges rounds")
        return self

    @property
    def selected(self) -> tuple[str, ...]:
        """Names of the keys that say what is scored and are not at their defaults."""
        return tuple(key for key in _SELECTING if getattr(self, key) != type(self).model_fields[key].default)

    def of_everything(self) -> Evaluate:
        """Return the same, with the validation and test samples of all clients scored."""
        return self.model_copy(update={key: type(self).model_fields[key].default for key in _SELECTING})
