"""Scores of classification: loss and accuracy on samples that nobody trains on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ppfl.interfaces.scores import Scores
from ppfl.problems._supervised_data import SCORED_PARTS, SupervisedData
from ppfl.problems._supervised_objective import Supervised

if TYPE_CHECKING:
    from ppfl.core.types import Params


class SupervisedScores(Scores):
    """Mean loss, here in nats, and accuracy in [0, 1]."""

    objective: Supervised
    client_data: SupervisedData

    def client_metrics(self, shared: Params, local: Params, client: int) -> dict[str, float]:
        """Mean loss and accuracy on test and validation samples.

        NaN where there are none; and accuracy where a logit is NaN or inf: among those none is the largest.
        """
        scores: dict[str, float] = {}
        for part in SCORED_PARTS:
            scores[f"{part}_loss"], scores[f"{part}_accuracy"] = self._score(shared, local, part, client)
        return scores

    def round_metrics(self, shared: Params, local: Params, client: int, round: int) -> dict[str, float]:
        """Add `loss`, f_m(θ, w) on the training samples of this round: f_m itself with `batch_size: all`."""
        loss = math.nan
        if self.client_data.num_train_samples[client]:
            with torch.no_grad():
                data = self.objective.advance(shared, self.client_data.data(client, round))
                loss = float(self.objective.loss(shared, local, data))
        return {"loss": loss, **self.client_metrics(shared, local, client)}

    def metric_weights(self, metric: str) -> tuple[int, ...]:
        """Return the sizes of the part that the metric is named after."""
        data = self.client_data
        if metric.startswith("test_"):
            return data.num_test_samples
        return data.num_validation_samples if metric.startswith("validation_") else data.num_train_samples

    def _score(self, shared: Params, local: Params, part: str, client: int) -> tuple[float, float]:
        num_samples = self.client_data.num_scored(part, client)
        if not num_samples:
            return math.nan, math.nan
        loss, correct = 0.0, 0.0
        with torch.no_grad():
            for data in self.client_data.scored_on(part, client):
                logits = self.objective.logits(shared, local, data)
                loss += float(self.objective.criterion.total(logits, data["y"]))
                # argmax takes NaN for the largest, and would call a diverged model a guess
                hits = int((logits.argmax(dim=1) == data["y"]).sum())
                correct += hits if bool(logits.isfinite().all()) else math.nan
        return loss / num_samples, correct / num_samples
