"""Learning from labels with a model, a data set and a split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from ppfl.core.plugins import ChosenFrom
from ppfl.interfaces.task import Task
from ppfl.networks.model_problem import ModelProblemSettings

if TYPE_CHECKING:
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

    silent: ClassVar[frozenset[str]] = frozenset({"task"})

    def build(self, placement: Placement, clients_per_chunk: int | None) -> Problem:
        """Load this rank's samples and put the model together. Collective.

        Raises UserError, on every rank, for data that cannot be used and for a model that the samples do not suit.
        """
        from ppfl.problems._supervised_objective import Supervised
        from ppfl.problems._supervised_problem import build_supervised
        from ppfl.problems._supervised_scores import SupervisedScores

        def make(made: Made, placement: Placement, task: Task) -> Supervised:
            return Supervised(made, placement, criterion=task.loss())

        return build_supervised(self, placement, clients_per_chunk, make, SupervisedScores, self.task)
