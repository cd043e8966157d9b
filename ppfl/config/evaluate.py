"""The section `evaluate`: when scores are taken, and of what."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from ppfl.core.plugins import ChosenFrom, Settings, refusal
from ppfl.interfaces.best_round import BestRound
from ppfl.interfaces.cohort_size import cohort_size
from ppfl.interfaces.method import FineTuner

_Part = Literal["train", "validation", "test"]
_SELECTING = ("parts", "samples", "clients")
"""Keys that say what is scored."""


def _unscheduled(tuner: FineTuner | None) -> FineTuner | None:
    if tuner is not None and tuner.schedules():
        raise refusal("lr_schedule", "nothing: this stage has no rounds, and takes full steps")
    return tuner


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
        return _unscheduled(tuner)


def _as_section(given: Any) -> Any:
    is_short = isinstance(given, int | float | list | tuple) and not isinstance(given, bool)
    return {"clients": given} if is_short else given


_Clients = Annotated[float, Field(gt=0, lt=1)] | Annotated[tuple[str, ...], Field(min_length=1, strict=False)]


class Newcomers(Settings):
    """Clients that are held out of training: no mean, weight, attack or score of the others knows of them. In the end
    they get θ, and w as a client has it before its first round, and tune w, or whole models where nothing is local.
    """

    clients: _Clients
    """A fraction of the clients with training samples, drawn by problem.seed, or the names of clients."""
    steps: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(default=(1, 5), strict=False)
    """After so many steps they are scored, and before the first; a step is one call of the fine-tuner, with all the
    steps or epochs that its own settings say, on the next batch of problem.batch_size."""
    fine_tuner: Annotated[FineTuner, ChosenFrom("ppfl.fine_tuners")] | None = None
    """What to tune with; null takes that of `tuned`, or else the algorithm's own."""
    in_rounds: bool = False
    """Whether they are scored with the rounds, too, and not in the end alone."""

    @field_validator("clients", "steps")
    @classmethod
    def _in_one_order(cls, given: Any) -> Any:
        # the same ones in another order are the same run
        return tuple(sorted(set(given))) if isinstance(given, tuple) else given

    @field_validator("fine_tuner")
    @classmethod
    def _has_no_rounds(cls, tuner: FineTuner | None) -> FineTuner | None:
        return _unscheduled(tuner)

    def number_of(self, known: int) -> int:
        """Return how many of so many clients, all of them with training samples, are held out."""
        return len(self.clients) if isinstance(self.clients, tuple) else cohort_size(self.clients, known)


class Evaluate(Settings):
    """When and how to score."""

    silent: ClassVar[frozenset[str]] = frozenset({
        *_SELECTING, "objective", "reports", "best_round", "history", "newcomers",
    })  # fmt: skip
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
    objective: bool = False
    """Whether rounds are scored by what is minimized, over all training samples and with all that problem.training
    adds: `objective`, f, and `squared_gradient_norm`, ‖∇f‖² in what is shared."""
    reports: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...] = Field(default=(), strict=False)
    """What clients tell, such as local_gradients, to be kept for each of them with the scores: what it told last since
    the scores before."""
    best_round: BestRound | None = None
    """Rounds are judged on validation samples: the best one is scored beside the last one, and the run may end early;
    null: it is not looked for."""
    history: bool = False
    """Whether the scores of every single client are kept, of every evaluation, beside their means."""
    newcomers: (
        Annotated[Newcomers, BeforeValidator(_as_section, json_schema_input_type=_Clients | Newcomers)] | None
    ) = None
    """Clients that are held out of training, and scored in the end; a fraction or a list of names stands for a section
    with these `clients`. null: nobody is."""

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

    @property
    def fine_tuner_of_newcomers(self) -> FineTuner | None:
        """The one that is named for them, or for the stage `tuned`."""
        named = self.newcomers.fine_tuner if self.newcomers is not None else None
        return named if named is not None or self.tuned is None else self.tuned.fine_tuner

    def of_everything(self) -> Evaluate:
        """Return the same, with the validation and test samples of all clients scored."""
        return self.model_copy(update={key: type(self).model_fields[key].default for key in _SELECTING})
