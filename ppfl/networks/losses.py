"""Losses ℓ(z, y) of logits z, with their derivatives in z: of class labels, of tokens, and of numbers."""

from __future__ import annotations

import torch

from ppfl.interfaces.loss import Loss as Loss


class CrossEntropy(Loss):
    """ℓ(z, y) = −log softmax(z)[y], in nats; logits (S, classes), labels (S,) int64.

    With label smoothing ε: −Σ_c q_c log softmax(z)[c] with q = (1 − ε) e_y + ε/classes.
    Source of the smoothing: Szegedy et al., CVPR 2016, Section 7.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self._smoothing = label_smoothing

    def of_samples(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """−log softmax(z_s)[y_s]."""
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=self._smoothing)

    def targets(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """q: e_y, smoothed."""
        hot = one_hot(labels, logits)
        return (1.0 - self._smoothing) * hot + self._smoothing / logits.shape[-1] if self._smoothing else hot

    def derivative(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """softmax(z) − q."""
        return torch.softmax(logits, dim=1) - targets

    def total(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The sum, by one kernel."""
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=self._smoothing)


class Logistic(Loss):
    """ℓ(z, y) = log(1 + exp(−(2y − 1)z)), in nats; logits (S, 1), labels (S,) int64, 0 or 1."""

    def of_samples(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """log(1 + exp(−(2y_s − 1)z_s))."""
        y = self.targets(labels, logits)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none")[:, 0]

    def targets(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """y."""
        return labels[:, None].to(logits.dtype)

    def derivative(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """σ(z) − y."""
        return torch.sigmoid(logits) - targets


class MaskedCrossEntropy(Loss):
    """ℓ(z, y) = Σ_t [y_t ≠ padding] (−log softmax(z_t)[y_t]), in nats; a sample counts as often as it has terms.

    Logits (S, T, items), labels (S, T) int64; or (S, items) and (S,), T being 1. `padding`: None masks nothing.
    """

    def __init__(self, padding: int | None) -> None:
        self._padding = padding

    def is_there(self, labels: torch.Tensor) -> torch.Tensor:
        """Return which positions count, bool, of the shape of the labels."""
        return torch.ones_like(labels, dtype=torch.bool) if self._padding is None else labels != self._padding

    def counts(self, labels: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Σ_t [y_t ≠ padding]."""
        return _of_samples(self.is_there(labels)).to(like.dtype)

    def of_samples(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Σ_t [y_t ≠ padding] (−log softmax(z_t)[y_t])."""
        flat = torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
        # chosen, not multiplied: what is masked may be inf
        return _of_samples(torch.where(self.is_there(labels), flat.reshape(labels.shape), 0.0))

    def targets(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """e_y at every position that counts, 0 at the others."""
        return one_hot(labels, logits) * self.is_there(labels)[..., None]

    def derivative(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """[y_t ≠ padding] (softmax(z_t) − e_{y_t})."""
        # a row of the targets adds up to 1 where it counts, to 0 elsewhere
        return torch.softmax(logits, dim=-1) * targets.sum(dim=-1, keepdim=True) - targets


class SquaredError(Loss):
    """ℓ(z, y) = ½‖z − e_y‖², e_y one-hot."""

    def of_samples(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """½‖z_s − e_{y_s}‖²."""
        # the derivative is the difference z − e_y itself
        return self.derivative(logits, self.targets(labels, logits)).square().sum(dim=1) / 2

    def targets(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """e_y."""
        return one_hot(labels, logits)

    def derivative(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """z − e_y."""
        return logits - targets


class NumbersSquaredError(SquaredError):
    """ℓ(z, y) = ½‖z − y‖²; logits (S, numbers), labels the same, or (S,) for one number."""

    def targets(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """y."""
        return labels.reshape(logits.shape).to(logits.dtype)


def _of_samples(of_positions: torch.Tensor) -> torch.Tensor:
    """Add up over the positions of each sample, (S,) or (S, T) -> (S,)."""
    return of_positions.sum(dim=1) if of_positions.ndim > 1 else of_positions


def one_hot(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """e_y, (…, classes), in the number type of the logits."""
    # by comparison: torch's own function looks at values, which vectorized functions cannot
    return (labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)).to(logits.dtype)
