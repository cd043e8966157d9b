"""What a run is scored by: numbers of single clients, and of θ over all of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ppfl.interfaces.advanced_client import AdvancedClient

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from ppfl.core.types import Data, Params
    from ppfl.interfaces.client_data import ClientData
    from ppfl.interfaces.objective import Objective


class Scores(ABC):
    """Scores of parameters on the data of clients; the same names for every client and in every round.

    >>> import torch
    >>> from ppfl.interfaces.scores import Scores
    >>> class Length(Scores):
    ...     def client_metrics(self, shared, local, client):
    ...         loss = self.objective.loss(shared, local, self.client_data.data(client, round=0))
    ...         return {"loss": float(loss), "length": float(local["w"].norm())}
    >>> class Far:  # all of an objective that this one asks for
    ...     def loss(self, shared, local, data):
    ...         return (local["w"] - data["goal"]).square().sum()
    >>> class Goals:  # and of the data
    ...     num_train_samples = (1, 1)
    ...
    ...     def data(self, client, round):
    ...         return {"goal": torch.tensor(float(client))}
    >>> scores = Length(Far(), Goals())
    >>> scores.round_metrics({}, {"w": torch.tensor([3.0])}, client=1, round=0)
    {'loss': 4.0, 'length': 3.0}
    >>> scores.metric_weights("loss")
    (1, 1)
    """

    memorized_gap: float = math.log(2.0)
    """Test loss beyond train loss that tells of memorizing; here of nats, where on test data the right label then gets
    less than half of the probability that it gets on training data."""

    def __init__(self, objective: Objective, client_data: ClientData) -> None:
        self.objective = objective
        self.client_data = client_data

    @abstractmethod
    def client_metrics(self, shared: Params, local: Params, client: int) -> dict[str, float]:
        """Score one client of this rank with the parameters it would deploy; the same keys for every client."""

    def advanced(self, client: int) -> AdvancedClient:
        """Return the data of a client of this rank, for all scores and fine-tuning of it at one time."""
        return AdvancedClient(self.objective, self.client_data, client)

    def metrics_of(self, shared: Params, local: Params, client: AdvancedClient) -> dict[str, float]:
        """Return `client_metrics`, from what is advanced already where scores can be."""
        return self.client_metrics(shared, local, client.client)

    def is_scored(self, client: int) -> bool:
        """Say whether a client of this rank is scored; if not, its scores are NaN whatever its parameters."""
        return True

    def scored_clients(self, clients: range) -> Sequence[int]:
        """Return which of the clients of this rank are scored, ascending."""
        return [client for client in clients if self.is_scored(client)]

    def round_metrics(self, shared: Params, local: Params, client: int, round: int) -> dict[str, float]:
        """Score one client of this rank during a run: what `client_metrics` says, and what only makes sense there."""
        return self.client_metrics(shared, local, client)

    def round_metrics_of(self, shared: Params, local: Params, client: AdvancedClient, round: int) -> dict[str, float]:
        """Return `round_metrics`, and leave behind what is advanced where scores can."""
        return self.round_metrics(shared, local, client.client, round)

    def of_nobody(self) -> dict[str, float]:
        """Return `client_metrics` of a client that is not scored: its names, and NaN."""
        raise NotImplementedError(f"{type(self).__name__} scores every client")

    def shared_metrics(self, shared: Params) -> dict[str, torch.Tensor]:
        """Scores of θ over all clients: scalars (), or (M,) with one number a client. Collective."""
        return {}

    def metric_weights(self, metric: str) -> tuple[int, ...]:
        """Samples of every client of all ranks that a metric was computed on: its weights in a weighted mean."""
        return self.client_data.num_train_samples

    def data_loss(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        """f_m(θ, w) without penalties on parameters: what is comparable with losses on other samples."""
        return self.objective.loss(shared, local, data)


class PureScores(Scores):
    """Scores in parts, for engines that score the clients of one run or of many at once.

    Functions are pure and free of control flow on values, like those of an objective, and of the problem they know what
    they are given; `client_metrics` and `shared_metrics` are made of them, over all clients alike.
    """

    @abstractmethod
    def scored_on(self, client: int) -> Data:
        """Return what the scores of client m are computed on."""

    @abstractmethod
    def of_client(self, shared: Params, local: Params, data: Data) -> Params:
        """Return `round_metrics`, scalars."""

    @property
    @abstractmethod
    def reference(self) -> Params:
        """What `of_shared` compares θ with."""

    def at(self, shared: Params, data: Data) -> Data:
        """Return the data with what `of_client` and `gradient` both need of θ, as long as it is the same for both."""
        return data

    @abstractmethod
    def gradient(self, shared: Params, data: Data) -> torch.Tensor:
        """Return (D,), whose exact mean over clients `of_shared` wants."""

    @abstractmethod
    def of_shared(
        self, shared: Params, mean_gradient: torch.Tensor, client_norms: torch.Tensor, reference: Params
    ) -> dict[str, torch.Tensor]:
        """Return `shared_metrics`, given the mean of the gradients (D,), their norms (M,), and a `reference`."""
