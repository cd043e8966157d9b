"""What readers of arrays and tables share: how samples and labels have to look, and which number a class has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppfl.core.errors import UserError
from ppfl.interfaces.dataset import MAX_NUM_CLASSES, Samples

_SHOWN = 20
"""Classes that an error lists, at the most."""


def images(x: np.ndarray, where: str) -> np.ndarray:
    """Return samples as models see them: (S, height, width) -> (S, 1, height, width), channels first, or as they are.

    Raises UserError for shapes and number types that are none of samples.
    """
    if x.ndim not in (2, 3, 4) or 0 in x.shape[1:]:
        raise UserError(
            f"{where}: samples have shape {x.shape}; allowed are (samples, height, width), (samples, height, width, "
            f"channels) and (samples, features)"
        )
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise UserError(f"{where}: samples are {x.dtype}; allowed are uint8 and floating point")
    if x.ndim == 4:
        return np.ascontiguousarray(np.moveaxis(x, -1, 1))
    return x[:, None] if x.ndim == 3 else x


def with_labels(x: np.ndarray, y: np.ndarray, where: str) -> Samples:
    """Return samples with a label each: integers, or numbers. Raises UserError where these are no labels of them."""
    are_numbers = y.dtype.kind == "f" and y.ndim in (1, 2) and 0 not in y.shape[1:]
    if not are_numbers and (y.ndim != 1 or y.dtype.kind not in "iu"):
        raise UserError(
            f"{where}: labels are {y.dtype} of shape {y.shape}; there must be one integer a sample, or floating-point "
            f"numbers"
        )
    if len(x) != len(y):
        raise UserError(f"{where}: {len(x)} samples but {len(y)} labels; their numbers must agree")
    # as they are stored: int64 would make large ones negative
    if not are_numbers and len(y) and not 0 <= int(y.min()) <= int(y.max()) < MAX_NUM_CLASSES:
        raise UserError(f"{where}: labels range from {y.min()} to {y.max()}; allowed are 0 to {MAX_NUM_CLASSES - 1}")
    return Samples(x, y.astype(np.float64 if are_numbers else np.int64))


@dataclass(frozen=True)
class Classes:
    """The values of labels in the order of their numbers."""

    values: np.ndarray
    """(classes,), ascending."""

    @classmethod
    def of(cls, labels: np.ndarray) -> Classes:
        """Those of the samples to train on."""
        return cls(np.unique(labels))

    def numbers(self, labels: np.ndarray, where: str) -> np.ndarray:
        """Return the number of each label, (S,) int64.

        Raises UserError for a label that training does not have, and for one that is no number where all others are.
        """
        if labels.dtype.kind == "f" and len(wrong := np.flatnonzero(~np.isfinite(labels))):
            raise UserError(
                f"{where}: the label of sample {wrong[0]} is {_text(labels[wrong[0]])}; every sample needs one"
            )
        places = np.minimum(np.searchsorted(self.values, labels), len(self.values) - 1)
        if len(unknown := np.flatnonzero(self.values[places] != labels)):
            known = ", ".join(_text(value) for value in self.values[:_SHOWN])
            raise UserError(
                f"{where}: the label of sample {unknown[0]} is {_text(labels[unknown[0]])}; the samples to train on "
                f"have {known}{', …' if len(self.values) > _SHOWN else ''}"
            )
        return places.astype(np.int64)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(str(value))


def refuse_unlike(samples: Samples, others: Samples, where: str, where_others: str) -> None:
    """Raise UserError unless samples and labels of both look alike."""
    mine, theirs = samples.x, others.x
    if (mine.shape[1:], mine.dtype) != (theirs.shape[1:], theirs.dtype):
        raise UserError(
            f"{where}: samples are {mine.dtype} of shape {mine.shape[1:]}, those in {where_others} are {theirs.dtype} "
            f"of shape {theirs.shape[1:]}; they must agree"
        )
    if (samples.y.shape[1:], samples.y.dtype) != (others.y.shape[1:], others.y.dtype):
        raise UserError(f"{where}: labels look otherwise than those in {where_others}; they must agree")
