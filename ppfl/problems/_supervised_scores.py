"""Scores of a task on validation and test samples, or whatever is selected."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ppfl.interfaces.advanced_client import AdvancedClient
from ppfl.interfaces.scores import Scores
from ppfl.interfaces.selection import Selection
from ppfl.interfaces.task import ratio
from ppfl.problems._supervised_data import SupervisedData
from ppfl.problems._supervised_objective import Supervised

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ppfl.core.types import Data, Params
    from ppfl.interfaces.client_data import Part
    from ppfl.interfaces.task import Task


class SupervisedScores(Scores):
    """What the task says: mean loss, and others such as accuracy in [0, 1]."""

    objective: Supervised
    client_data: SupervisedData

    def __init__(
        self, objective: Supervised, client_data: SupervisedData, task: Task, selection: Selection | None = None
    ) -> None:
        """Count what scores are divided by, where that is not samples. Collective."""
        super().__init__(objective, client_data)
        self.task = task
        self.memorized_gap = task.memorized_gap
        self.selection = selection or Selection()
        self._counts = {part: client_data.counts(part, self.selection) for part in self.selection.parts}
        labels = client_data.labels
        no_labels = torch.zeros(0, *labels.shape, dtype=torch.float64 if labels.is_floating else torch.int64)
        self._nothing = task.totals(torch.zeros(0, *task.output_shape(labels)), no_labels).tolist()
        probe = self.selection.probe
        self._others: dict[str, tuple[int, ...]] = {}
        if probe is not None:
            for part in self.selection.parts:
                self._others[f"{part}_{probe.metric}"] = client_data.count_others(part, self.selection, probe.target)
        # `loss` is of a mini-batch, which stands for all of a client's samples, also where fewer are scored
        self._train_counts = client_data.counts("train", replace(self.selection, max_samples=None))

    def advanced(self, client: int) -> AdvancedClient:
        """Return the data of a client of this rank, for all scores and fine-tuning of it at one time."""
        return AdvancedClient(self.objective, self.client_data, client, self.selection)

    def is_scored(self, client: int) -> bool:
        """Say whether a client is among those that are scored."""
        return self.selection.has(client)

    def scored_clients(self, clients: range) -> Sequence[int]:
        """Return which of the clients of this rank are scored."""
        return self.selection.clients_in(clients)

    def client_metrics(self, shared: Params, local: Params, client: int) -> dict[str, float]:
        """What the task scores, such as mean loss and accuracy, on what is selected of the parts.

        NaN where there is none of it; and where a logit is NaN or inf all that asks for the largest: there is none.
        """
        return self.metrics_of(shared, local, self.advanced(client))

    def metrics_of(self, shared: Params, local: Params, client: AdvancedClient) -> dict[str, float]:
        """Return `client_metrics`, from what is advanced already where it is."""
        return self._metrics(shared, local, client)

    def _metrics(
        self, shared: Params, local: Params, client: AdvancedClient, round: int | None = None
    ) -> dict[str, float]:
        """Return what is scored after so many rounds; None: after all of them."""
        found = self._of_totals(self._totals(shared, local, client), round)
        return found | self._tried(shared, local, client.client)

    def _totals(self, shared: Params, local: Params, client: AdvancedClient) -> dict[str, torch.Tensor]:
        totals: dict[str, torch.Tensor] = {}
        if self.is_scored(client.client):
            with torch.no_grad():
                for data, spans in client.scored(shared):
                    logits = self.objective.logits(shared, local, data)
                    for part, rows in spans:
                        for key, found in self._totals_of(part, logits[rows], data["y"][rows]).items():
                            totals[key] = totals[key] + found if key in totals else found
        return totals

    def _totals_of(self, part: Part, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what is added up over the samples of a part, by name."""
        return {part: self.task.totals(logits, labels)}

    def of_nobody(self) -> dict[str, float]:
        """Return the names of scores, and NaN."""
        return self._of_totals({}) | dict.fromkeys(self._others, math.nan)

    def _tried(self, shared: Params, local: Params, client: int) -> dict[str, float]:
        """Return how many samples of other classes are taken for the target when a trigger is stamped on them, in
        [0, 1]; NaN where there are none such, and where a logit is NaN or inf."""
        if (probe := self.selection.probe) is None:
            return {}
        found = dict.fromkeys(self._others, math.nan)
        if not self.is_scored(client):
            return found
        for part in self.selection.parts:
            rows = self.selection.rows(part, client, self.client_data.part_sizes(part)[client])
            taken, tried = 0.0, 0
            for piece in torch.split(rows, self.objective.piece_rows):
                data = self.client_data.samples(client, part, piece)
                others = data["y"] != probe.target
                if others.any():
                    x, y = data["x"][others], data["y"][others]
                    tried += len(y) * len(probe.triggers)
                    taken += sum(
                        self._taken(shared, local, {"x": one.stamped(x), "y": y}, probe.target)
                        for one in probe.triggers
                    )
            found[f"{part}_{probe.metric}"] = ratio(taken, tried)
        return found

    def _taken(self, shared: Params, local: Params, data: Data, target: int) -> float:
        with torch.no_grad():
            logits = self.objective.logits(shared, local, self.objective.advance(shared, data))
        return float((logits.argmax(dim=1) == target).sum()) if logits.isfinite().all() else math.nan

    def _of_totals(self, totals: Mapping[str, torch.Tensor], round: int | None = None) -> dict[str, float]:
        """Return scores of what was added up, after so many rounds; None: after all of them."""
        scores: dict[str, float] = {}
        for part in self.selection.parts:
            # where a part has no samples, as of a client that is not scored
            of_part = self._scores_of(totals, part)
            scores |= {f"{part}_{metric}": score for metric, score in of_part.items()}
        return scores

    def _scores_of(self, totals: Mapping[str, torch.Tensor], key: str) -> dict[str, float]:
        return self.task.scores(totals[key].tolist() if key in totals else self._nothing)

    def round_metrics(self, shared: Params, local: Params, client: int, round: int) -> dict[str, float]:
        """Add `loss`, f_m(θ, w) on the training samples of this round as they are stored, without what
        `problem.training` adds: f_m itself with `batch_size: all`."""
        return self.round_metrics_of(shared, local, self.advanced(client), round)

    def round_metrics_of(self, shared: Params, local: Params, client: AdvancedClient, round: int) -> dict[str, float]:
        """Return `round_metrics`, from what is advanced already where it is."""
        loss, number = math.nan, client.client
        if self.client_data.num_train_samples[number] and self.is_scored(number):
            with torch.no_grad():
                data = self.objective.advance(shared, self.round_data(number, round))
                loss = float(self.round_loss(shared, local, data))
        return {"loss": loss, **self._metrics(shared, local, client, round)}

    def round_data(self, client: int, round: int) -> Data:
        """Return the samples that the score `loss` is of."""
        return self.client_data.unchanged(client, round)

    def round_loss(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        """Return what the score `loss` is of."""
        return self.objective.data_loss(shared, local, data)

    def metric_weights(self, metric: str) -> tuple[int, ...]:
        """Return how many samples, or tokens, are scored of the part that the metric is named after; of `loss`, all
        that train."""
        if metric in self._others:
            return self._others[metric]
        part, _, of_part = metric.partition("_")
        if part in self.selection.parts:
            return self._counts[part][self.task.weighs(of_part)]
        return self._train_counts[self.task.weighs(metric)]

    def data_loss(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        """Return f_m(θ, w) with the loss that samples are scored by."""
        return self.task.scored_loss().mean(self.objective.logits(shared, local, data), data)
