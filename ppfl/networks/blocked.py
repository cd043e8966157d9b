"""Images in oneDNN's blocked layout, in which convolutions and pooling are fastest on CPU (docs/performance.md).

oneDNN's pooling and ReLU lose NaN. So images carry a bound on their entries, and where the bound of what comes next is
not finite in float32 the plain layout is taken: what could overflow, or holds NaN, shows there as it should.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ppfl.core.params import largest_entry
from ppfl.core.transforms import is_transformed

LARGEST_BOUND = 1e37
"""A tenth of what float32 and bfloat16 hold, so that rounding in sums cannot lead beyond."""
_ABOVE = 1.02
"""Times a sum over one output channel, taken in float32 and rounded to bfloat16: more than the sum itself."""


@dataclass(frozen=True)
class Blocked:
    """Images (S, channels, height, width) in oneDNN's own layout."""

    images: torch.Tensor
    bound: float
    """No entry is larger in absolute value; NaN or inf for entries that are."""


def as_blocked(x: torch.Tensor | Blocked) -> Blocked | None:
    """Change the layout of images; None where there is no such layout.

    That is on GPUs, in float64, inside of vectorized functions, and in bfloat16 on processors without it.
    """
    if isinstance(x, Blocked):
        return x
    if x.device.type != "cpu" or is_transformed() or not _is_supported(x.dtype):
        return None
    return Blocked(x.to_mkldnn(), largest_entry(x))


def as_dense(x: torch.Tensor | Blocked) -> torch.Tensor:
    """Return images in the plain layout."""
    return x.images.to_dense() if isinstance(x, Blocked) else x


def convolve_and_pool(x: Blocked, weight: torch.Tensor, bias: torch.Tensor, padding: int) -> Blocked | None:
    """Convolution, 2×2 max pooling, ReLU; None where an entry is NaN or could become too large."""
    size = _ABOVE * largest_entry(torch.linalg.vector_norm(weight.detach().flatten(1), 1, dim=1))
    bound = size * x.bound + largest_entry(bias)
    if not bound <= LARGEST_BOUND:  # NaN is not
        return None
    ones, none = (1, 1), (0, 0)
    # its weights are float32 whatever the images are
    y = torch.convolution(x.images, weight.float(), bias.float(), ones, (padding, padding), ones, False, none, 1)
    return Blocked(torch.nn.functional.relu(torch.nn.functional.max_pool2d(y, 2, 2)), bound)


def _is_supported(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
