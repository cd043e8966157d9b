"""Scores of classification: loss and accuracy on validation and test samples, or whatever is selected."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ppfl.interfaces.advanced_client import AdvancedClient
from ppfl.interfaces.scores import Scores
from ppfl.interfaces.selection import Selection
from ppfl.problems._supervised_data import SupervisedData
from ppfl.problems._supervised_objective import Supervised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.types import Data, Params
    from ppfl.interfaces.client_data import Part


class SupervisedScores(Scores):
    """Mean loss, here in nats, and accuracy in [0, 1]."""

    objective: Supervised
    client_data: SupervisedData

    def __init__(self, objective: Supervised, client_data: SupervisedData, selection: Selection | None = None) -> None:
        super().__init__(objective, client_data)
        self.selection = selection or Selection()

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
        """Mean loss and accuracy on what is selected of the parts.

        NaN where there is none of it; and accuracy where a logit is NaN or inf: among those none is the largest.
        """
        return self.metrics_of(shared, local, self.advanced(client))

    def metrics_of(self, shared: Params, local: Params, client: AdvancedClient) -> dict[str, float]:
        """Return `client_metrics`, from what is advanced already where it is."""
        totals: dict[Part, torch.Tensor] = {}
        if self.is_scored(client.client):
            with torch.no_grad():
                for data, spans in client.scored(shared):
                    logits = self.objective.logits(shared, local, data)
                    for part, rows in spans:
                        found = self._total(logits[rows], data["y"][rows])
                        totals[part] = totals[part] + found if part in totals else found
        scores: dict[str, float] = {}
        for part in self.selection.parts:
            # where a part has no samples, as of a client that is not scored, it has no total
            mean = (totals[part][:2] / totals[part][2]).tolist() if part in totals else (math.nan, math.nan)
            scores[f"{part}_loss"], scores[f"{part}_accuracy"] = mean
        return scores

    def round_metrics(self, shared: Params, local: Params, client: int, round: int) -> dict[str, float]:
        """Add `loss`, f_m(θ, w) on the training samples of this round as they are stored, without what
        `problem.training` adds: f_m itself with `batch_size: all`."""
        return self.round_metrics_of(shared, local, self.advanced(client), round)

    def round_metrics_of(self, shared: Params, local: Params, client: AdvancedClient, round: int) -> dict[str, float]:
        """Return `round_metrics`, from what is advanced already where it is."""
        loss, number = math.nan, client.client
        if self.client_data.num_train_samples[number] and self.is_scored(number):
            with torch.no_grad():
                data = self.objective.advance(shared, self.client_data.unchanged(number, round))
                loss = float(self.round_loss(shared, local, data))
        return {"loss": loss, **self.metrics_of(shared, local, client)}

    def round_loss(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        """Return what the score `loss` is of."""
        return self.objective.data_loss(shared, local, data)

    def metric_weights(self, metric: str) -> tuple[int, ...]:
        """Return how many samples are scored of the part that the metric is named after; of `loss`, all that train."""
        part = metric.partition("_")[0]
        if part in self.selection.parts:
            return self.selection.weights(self.client_data.part_sizes(part))
        return replace(self.selection, max_samples=None).weights(self.client_data.num_train_samples)

    def _total(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return loss, correct guesses and samples, added up, (3,) float64."""
        # argmax takes NaN for the largest, and would call a diverged model a guess
        correct = torch.where(logits.isfinite().all(), (logits.argmax(dim=1) == labels).sum(), math.nan)
        loss = self.objective.criterion.total(logits, labels)
        return torch.stack([loss.double(), correct.double(), torch.full_like(loss, len(labels)).double()])
