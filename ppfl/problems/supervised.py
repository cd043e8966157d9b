"""Learning from labels with a model, a data set and a split."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ppfl.core.plugins import ChosenFrom, refusal
from ppfl.interfaces.phases import Phases, Rehearsal
from ppfl.interfaces.task import Task
from ppfl.networks.model_problem import ModelProblemSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.interfaces.placement import Placement
    from ppfl.interfaces.problem import Problem
    from ppfl.problems._supervised_objective import Made

_CLASSIFICATION: Any = {"name": "classification"}


class SupervisedSettings(ModelProblemSettings):
    """f_m(θ, w) = mean loss of the model with parameters (θ, w) over training samples of client m; the task says which:
    cross-entropy by default."""

    name: Literal["supervised"]
    task: Annotated[Task, ChosenFrom("ppfl.tasks")] = Field(default=_CLASSIFICATION, validate_default=True)
    """What the model is for: its labels, its loss and its scores."""

    phases: Phases | None = None
    """Which classes clients have in which rounds; null: all of them in all rounds."""
    rehearsal: Rehearsal | None = None
    """What clients keep of the samples of a phase when it ends, and replay in the next ones; null: nothing."""

    silent: ClassVar[frozenset[str]] = frozenset({"task", "phases", "rehearsal"})

    @model_validator(mode="after")
    def _fit_each_other(self) -> Self:
        if self.phases is not None and not self.task.has_classes:
            raise refusal("phases", f"null, since the labels of task {self.task.name!r} are no classes")
        if self.rehearsal is not None and self.phases is None:
            raise refusal("rehearsal", "null, since without problem.phases no sample is ever gone")
        return self

    def build(self, placement: Placement, clients_per_chunk: int | None) -> Problem:
        """Load this rank's samples and put the model together. Collective.

        Raises UserError, on every rank, for data that cannot be used and for a model that the samples do not suit.
        """
        from ppfl.problems._phased_data import PhasedData, RehearsedData
        from ppfl.problems._phased_scores import PhasedScores
        from ppfl.problems._supervised_data import SupervisedData
        from ppfl.problems._supervised_objective import Supervised
        from ppfl.problems._supervised_problem import build_supervised
        from ppfl.problems._supervised_scores import SupervisedScores

        def make(made: Made, placement: Placement, task: Task) -> Supervised:
            return Supervised(made, placement, criterion=task.loss())

        make_data: Callable[..., SupervisedData] = SupervisedData
        if self.phases is not None and self.rehearsal is not None:
            make_data = partial(RehearsedData, phases=self.phases, rehearsal=self.rehearsal)
        elif self.phases is not None:
            make_data = partial(PhasedData, phases=self.phases)
        scores = SupervisedScores if self.phases is None else PhasedScores
        return build_supervised(self, placement, clients_per_chunk, make, scores, self.task, make_data)
