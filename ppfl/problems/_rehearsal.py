"""Normal laws of classes: what a client keeps of samples, and what it draws in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np

    from ppfl.core.types import Params


@dataclass(frozen=True)
class Laws:
    """N(μ_c, F_cᵀ F_c + ρ_c I) for every class c, in float64; classes that were never seen count 0.

    As a client keeps them: mean (classes, features), factor (classes, components, features), rest = √ρ (classes,), and
    count (classes,) int64, samples that a law was fitted to.

    Source: the setting is that of pFedGRP (Tan and Liu, arXiv 2410.01502), which keeps a small generator a class; a
    normal law with a shrunk covariance in its place is ours.
    """

    components: int
    shrinkage: float

    def nothing(self, num_classes: int, num_features: int, dtype: torch.dtype) -> Params:
        """Return the laws of a client that has not seen anything."""
        return {
            "mean": torch.zeros(num_classes, num_features, dtype=dtype),
            "factor": torch.zeros(num_classes, self.components, num_features, dtype=dtype),
            "rest": torch.zeros(num_classes, dtype=dtype),
            "count": torch.zeros(num_classes, dtype=torch.int64),
        }

    def seen(self, laws: Params) -> list[int]:
        """Return the classes that were seen, ascending."""
        return torch.nonzero(laws["count"].cpu()).flatten().tolist()

    def draw(self, laws: Params, label: int, size: int, draw: np.random.Generator) -> torch.Tensor:
        """Return x = μ + Fᵀz + √ρ ε of one class, (S, features) float64 on the host."""
        # copies in memory of their own: products round differently for other alignments
        mean, factor, rest = (
            laws[name][label].to("cpu", torch.float64, copy=True) for name in ("mean", "factor", "rest")
        )
        z = torch.from_numpy(draw.standard_normal((size, len(factor)))).clone()
        noise = torch.from_numpy(draw.standard_normal((size, len(mean))))
        return mean + z @ factor + rest * noise

    def fitted(self, laws: Params, x: torch.Tensor, y: torch.Tensor, draw: np.random.Generator) -> Params:
        """Return the laws after samples x (S, features), y (S,) were seen.

        A class that was seen before is fitted to them and to as many draws from its law as it was fitted to.
        """
        new = {name: value.clone() for name, value in laws.items()}
        for label in sorted(set(y.tolist())):
            before = int(laws["count"][label])
            rows = x[y == label].to("cpu", torch.float64)
            together = torch.cat([self.draw(laws, label, before, draw), rows]) if before else rows.clone()
            of_class = self._of(together)
            for name, value in of_class.items():
                new[name][label] = value.to(new[name].dtype)
        return new

    def _of(self, x: torch.Tensor) -> Params:
        """Return the law of one class, from x (S, features)."""
        num_samples, num_features = x.shape
        mean = x.mean(dim=0)
        _, singular, directions = torch.linalg.svd(x - mean, full_matrices=False)
        variances = singular.square() / num_samples
        kept = (1 - self.shrinkage) * variances[: self.components]
        factor = torch.zeros(self.components, num_features, dtype=x.dtype)
        factor[: len(kept)] = kept.sqrt()[:, None] * directions[: len(kept)]
        # rounding may leave a little less than nothing
        rest = ((variances.sum() - kept.sum()).clamp(min=0) / num_features).sqrt()
        return {"mean": mean, "factor": factor, "rest": rest, "count": torch.tensor(num_samples)}
