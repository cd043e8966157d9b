"""Classification with a model, a data set and a split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ppfl.networks.classification_settings import ClassificationSettings

if TYPE_CHECKING:
    from ppfl.interfaces.placement import Placement
    from ppfl.interfaces.problem import Problem


class SupervisedSettings(ClassificationSettings):
    """f_m(θ, w) = mean cross-entropy of the model with parameters (θ, w) over training samples of client m."""

    name: Literal["supervised"]

    def build(self, placement: Placement, clients_per_chunk: int | None) -> Problem:
        """Load this rank's samples and put the model together. Collective.

        Raises UserError, on every rank, for data that cannot be used and for a model that the samples do not suit.
        """
        from ppfl.problems._supervised_objective import Supervised
        from ppfl.problems._supervised_problem import build_supervised
        from ppfl.problems._supervised_scores import SupervisedScores

        return build_supervised(self, placement, clients_per_chunk, Supervised, SupervisedScores)
