"""Losses ℓ(z, y) of logits z and a class label y, with their derivatives in z."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ppfl.core.types import Data


class Loss(ABC):
    """ℓ(z, y); over samples, Σ_s v_s ℓ(z_s, y_s) / Σ_s v_s with v the `weight` of the data, or 1.

    Logits are (S, classes), labels (S,) int64. Where all weights are 0, so is what is made of them.
    """

    @abstractmethod
    def of_samples(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """ℓ(z_s, y_s), (S,)."""

    @abstractmethod
    def derivative(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """∂ℓ(z_s, y_s)/∂z_s, (S, classes), of `one_hot` labels, which many steps on the same samples need only once."""

    def total(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Σ_s ℓ(z_s, y_s)."""
        return self.of_samples(logits, labels).sum()

    def mean(self, logits: torch.Tensor, data: Data) -> torch.Tensor:
        """Σ_s v_s ℓ(z_s, y_s) / Σ_s v_s."""
        values = self.of_samples(logits, data["y"])
        if "weight" not in data:
            return values.mean()
        return (values * _shares(data["weight"])).sum()

    def shares(self, data: Data, like: torch.Tensor) -> torch.Tensor:
        """p_s = v_s/Σv, (S,)."""
        if "weight" not in data:
            return like.new_ones(len(data["y"])) / len(data["y"])
        return _shares(data["weight"])

    def gradient(self, logits: torch.Tensor, data: Data) -> torch.Tensor:
        """(v_s/Σv) · ∂ℓ(z_s, y_s)/∂z_s, of `mean`."""
        derivative = self.derivative(logits, one_hot(data["y"], logits))
        if "weight" not in data:
            return derivative / len(data["y"])
        return derivative * _shares(data["weight"])[:, None]


def _shares(weight: torch.Tensor) -> torch.Tensor:
    """v_s/Σv, 0 where all weights are: a client whose step it is not has a batch of such samples."""
    return weight / weight.sum(dim=0, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)


class CrossEntropy(Loss):
    """ℓ(z, y) = −log softmax(z)[y], in nats."""

    def of_samples(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """−log softmax(z_s)[y_s]."""
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

    def derivative(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """softmax(z) − e_y."""
        return torch.softmax(logits, dim=1) - targets

    def total(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The sum, by one kernel."""
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")


class SquaredError(Loss):
    """ℓ(z, y) = ½‖z − e_y‖², e_y one-hot."""

    def of_samples(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """½‖z_s − e_{y_s}‖²."""
        # the derivative is the difference z − e_y itself
        return self.derivative(logits, one_hot(labels, logits)).square().sum(dim=1) / 2

    def derivative(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """z − e_y."""
        return logits - targets


def one_hot(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """e_y, (S, classes), in the number type of the logits."""
    # by comparison: torch's own function looks at values, which vectorized functions cannot
    return (labels[:, None] == torch.arange(logits.shape[1], device=labels.device)).to(logits.dtype)
