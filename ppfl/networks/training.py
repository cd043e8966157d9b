"""The section `problem.training`: how clients train, whatever the method."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import NonNegativeInt, PositiveFloat, model_validator

from ppfl.core.plugins import Settings, refusal


class Augmentation(Settings):
    """Images that are trained on, moved and mirrored at random; those that are scored never are."""

    crop: NonNegativeInt = 0
    """Zeros around an image in pixels, out of which one of its own size is cut."""
    flip: bool = False
    """Whether one image of two, drawn by itself, has left and right exchanged."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not (self.crop or self.flip):
            raise refusal("", "`crop` in pixels, `flip: true`, or both")
        return self


class Training(Settings):
    """What is added to f_m, done to its gradients, and to the samples that are trained on; all of it off at null."""

    silent: ClassVar[frozenset[str]] = frozenset({"nonconvex_penalty"})
    clip_norm: PositiveFloat | None = None
    """Largest norm of a gradient of f_m, over all that is differentiated in at a time: θ, w, or both together."""
    weight_decay: PositiveFloat | None = None
    """λ of (λ/2)(‖θ‖² + ‖w‖²) in f_m: L2, not the decoupled decay of AdamW."""
    proximal: PositiveFloat | None = None
    """μ of (μ/2)(‖θ − θ⁰‖² + ‖w − w⁰‖²) in f_m, θ⁰ and w⁰ where the run begins."""
    nonconvex_penalty: PositiveFloat | None = None
    """ν of ν Σ_j x_j²/(1 + x_j²) in f_m, over the entries of θ and w: bounded, and not convex beyond 1/√3."""
    augmentation: Augmentation | None = None
    """What is done to images."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if all(getattr(self, key) is None for key in type(self).__pydantic_fields__):
            keys = ", ".join(type(self).__pydantic_fields__)
            raise refusal("", f"one of {keys} at least, or leave the section out")
        return self
