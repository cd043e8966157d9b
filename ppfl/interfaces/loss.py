"""What training minimizes, seen from what a model says of samples: ℓ(z, y) and its derivative in z."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ppfl.core.types import Data


class Loss(ABC):
    """ℓ(z, y) of one sample; over samples, Σ_s v_s ℓ(z_s, y_s) / Σ_s v_s n_s with v the `weight` of the data, or 1, and
    n_s how often a sample counts: once, or as many times as it has positions that are not masked.

    Logits z are (S, …), labels y (S, …). Where all weights or all counts are 0, so is what is made of them. Functions
    are free of control flow on values and can be differentiated again, so that they may be vectorized over clients:

    >>> import torch
    >>> from ppfl.interfaces.loss import Loss
    >>> class Poisson(Loss):
    ...     def of_samples(self, logits, labels):
    ...         return (logits.exp() - labels[:, None] * logits)[:, 0]
    ...
    ...     def targets(self, labels, logits):
    ...         return labels[:, None].to(logits.dtype)
    ...
    ...     def derivative(self, logits, targets):
    ...         return logits.exp() - targets
    >>> z, data = torch.zeros(2, 1), {"y": torch.tensor([3.0, 1.0])}
    >>> Poisson().mean(z, data), Poisson().gradient(z, data)
    (tensor(1.), tensor([[-1.],
            [ 0.]]))
    """

    @abstractmethod
    def of_samples(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """ℓ(z_s, y_s), (S,): a sum over the positions of a sample that count."""

    @abstractmethod
    def targets(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """What `derivative` compares logits with, of their shape and number type: made once for many steps."""

    @abstractmethod
    def derivative(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """∂ℓ(z_s, y_s)/∂z_s, of the shape of the logits."""

    def counts(self, labels: torch.Tensor, like: torch.Tensor) -> torch.Tensor | None:
        """n_s, (S,) in the number type of `like`; None: 1 for every sample."""
        return None

    def total(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Σ_s ℓ(z_s, y_s)."""
        return self.of_samples(logits, labels).sum()

    def mean(self, logits: torch.Tensor, data: Data) -> torch.Tensor:
        """Σ_s v_s ℓ(z_s, y_s) / Σ_s v_s n_s."""
        values = self.of_samples(logits, data["y"])
        shares = self._shares(data, logits)
        return values.mean() if shares is None else (values * shares).sum()

    def shares(self, data: Data, like: torch.Tensor) -> torch.Tensor:
        """v_s / Σ v n, (S,)."""
        shares = self._shares(data, like)
        return like.new_ones(len(data["y"])) / len(data["y"]) if shares is None else shares

    def gradient(self, logits: torch.Tensor, data: Data) -> torch.Tensor:
        """(v_s / Σ v n) · ∂ℓ(z_s, y_s)/∂z_s, of `mean`."""
        derivative = self.derivative(logits, self.targets(data["y"], logits))
        shares = self._shares(data, logits)
        if shares is None:
            return derivative / len(data["y"])
        return derivative * shares.reshape(-1, *[1] * (logits.ndim - 1))

    def _shares(self, data: Data, like: torch.Tensor) -> torch.Tensor | None:
        """v_s / Σ v n; None where every sample is there and counts once."""
        counts = self.counts(data["y"], like)
        weight = data["weight"].to(like.dtype) if "weight" in data else None
        if counts is None:
            return None if weight is None else weight / _positive(weight.sum(dim=0, keepdim=True))
        # chosen by `where`: of samples that are all masked the weights are 1, and a share would be 1 over nearly 0
        weight = torch.ones_like(counts) if weight is None else weight
        total = (weight * counts).sum(dim=0, keepdim=True)
        return torch.where(total > 0, weight / _positive(total), 0.0)


def _positive(total: torch.Tensor) -> torch.Tensor:
    # a client whose step it is not has a batch of samples of weight 0
    return total.clamp(min=torch.finfo(total.dtype).tiny)
