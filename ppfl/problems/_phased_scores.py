"""Scores where classes come in phases: over those seen so far, those of the phase, and those of each phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ppfl.problems._phased_data import PhasedData
from ppfl.problems._supervised_scores import SupervisedScores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ppfl.core.types import Data
    from ppfl.interfaces.client_data import Part
    from ppfl.problems._supervised_objective import Supervised


class PhasedScores(SupervisedScores):
    """What the task says of all samples of a part, and in `<part>_seen_…` of those of classes that have come so far, in
    `<part>_now_…` of those of the phase, and in `<part>_phase_<p>_…` of those of phase p, from 1.

    After a round the phase is that of the round, also where the next one begins another one; at the start it is the
    first one. Clients without such samples in any of the phases are left out of means.
    """

    client_data: PhasedData

    def __init__(self, objective: Supervised, client_data: PhasedData, *others: Any) -> None:
        """Count the classes of what is scored: where that is a few samples, some phase may have none. Collective."""
        super().__init__(objective, client_data, *others)
        self._histograms = {part: client_data.histogram(part, self.selection) for part in self.selection.parts}

    def round_data(self, client: int, round: int) -> Data:
        """Return the last samples of a phase that has just ended, and not the first ones of the next."""
        begins = self.client_data.phases.begins(round)
        return self.client_data.unchanged(client, round - 1 if begins else round)

    def metric_weights(self, metric: str) -> tuple[int, ...]:
        """Return how many samples of a part are scored; 0 for clients that have none of a phase's classes."""
        weights = super().metric_weights(metric)
        part, _, of_part = metric.partition("_")
        classes = self._classes_behind(of_part)
        if part not in self.selection.parts or classes is None:
            return weights
        # weights are the same in all rounds, so a client that lacks one phase has no place in means over any
        there = [self.client_data.has_some(self._histograms[part], of_phase) for of_phase in classes]
        lacks = [not all(of_client) for of_client in zip(*(of_phase.tolist() for of_phase in there), strict=True)]
        return tuple(0 if lack else weight for lack, weight in zip(lacks, weights, strict=True))

    def _classes_behind(self, metric: str) -> Sequence[Sequence[int]] | None:
        """Return sets of classes without any of which a score of a part is not known; None: it is of the whole part."""
        phases = self.client_data.phases.classes
        kind, _, rest = metric.partition("_")
        if kind == "seen":
            return phases[:1]
        if kind == "now":
            return phases
        return [phases[int(rest.partition("_")[0]) - 1]] if kind == "phase" else None

    def _totals_of(self, part: Part, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        totals = super()._totals_of(part, logits, labels)
        for name, classes in self._groups().items():
            chosen = torch.isin(labels, torch.tensor(classes, device=labels.device))
            totals[f"{part}_{name}"] = self.task.totals(logits[chosen], labels[chosen])
        return totals

    def _groups(self) -> dict[str, Sequence[int]]:
        # of all phases: samples are counted without knowing which round asks
        phases, found = self.client_data.phases, dict[str, Sequence[int]]()
        for number, classes in enumerate(phases.classes):
            found |= {f"phase_{number + 1}": classes, f"until_{number + 1}": phases.seen(number)}
        return found

    def _of_totals(self, totals: Mapping[str, torch.Tensor], round: int | None = None) -> dict[str, float]:
        phases = self.client_data.phases
        now = len(phases.classes) if round is None else phases.at(max(round - 1, 0)) + 1
        scores = super()._of_totals(totals, round)
        for part in self.selection.parts:
            groups = {"seen": f"until_{now}", "now": f"phase_{now}"}
            groups |= {name: name for name in self._groups() if name.startswith("phase")}
            for name, key in groups.items():
                of_group = self._scores_of(totals, f"{part}_{key}")
                scores |= {f"{part}_{name}_{metric}": score for metric, score in of_group.items()}
        return scores
