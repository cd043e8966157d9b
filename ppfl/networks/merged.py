"""Stages that are run with other weights than their own: those that something of low rank was added to."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ppfl.networks.convolution import ConvolutionStage
from ppfl.networks.model import HiddenStage, LinearStage, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ppfl.core.types import Params
    from ppfl.networks.blocked import Blocked
    from ppfl.networks.kernels import Kernels
    from ppfl.networks.model import Parameter


def merged_stage(
    stage: Stage, parameters: dict[str, Parameter], shares: tuple[str, ...], merge: Callable[[Params], Params]
) -> Stage:
    """Return x -> stage(merge(params), x) with these parameters, and names of others' beside those that it reads."""
    apply = stage.apply

    def merged_apply(params: Params, x: torch.Tensor) -> torch.Tensor:
        return apply(merge(params), x)

    shares = (*stage.shares, *shares)
    if isinstance(stage, LinearStage | HiddenStage):
        # no LinearStage any more: closed form and dual form would leave out what is added
        return Stage(stage.name, parameters, merged_apply, shares=shares)
    kept: dict[str, Any] = {one.name: getattr(stage, one.name) for one in fields(stage)}
    kept |= {"parameters": parameters, "apply": merged_apply, "shares": shares}
    if isinstance(stage, ConvolutionStage):
        return MergedConvolution(**kept, inner=stage, merge=merge)
    return type(stage)(**kept)


@dataclass(frozen=True)
class MergedConvolution(ConvolutionStage):
    """A convolution with the merged kernel, in the forms that it has without."""

    inner: ConvolutionStage = field(kw_only=True)
    merge: Callable[[Params], Params] = field(kw_only=True)

    def run(self, params: Params, x: torch.Tensor | Blocked, kernels: Kernels) -> torch.Tensor | Blocked:
        """See ConvolutionStage."""
        return self.inner.run(self.merge(params), x, kernels)
