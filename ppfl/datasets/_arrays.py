"""What readers of arrays and tables share: how samples and labels have to look, and which number a class has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppfl.core.errors import UserError
from ppfl.datasets._sample_file import LABEL, as_input, check_labels, check_numbers_agree, check_x, check_y
from ppfl.interfaces.dataset import Samples

_SHOWN = 20
"""Classes that an error lists, at the most."""


def samples_of(x: np.ndarray, y: np.ndarray, where: str, where_labels: str) -> Samples:
    """Return stored samples as models see them, with a label each: an integer, or numbers.

    Raises UserError for arrays that are no samples, or no labels of them.
    """
    check_x(x, "samples", where)
    check_y(y, LABEL, where_labels, takes_numbers=True)
    check_numbers_agree(x, y, "samples", where_labels)
    # as they are stored: int64 would make large ones negative
    check_labels(y, LABEL, where_labels)
    kept = np.float64 if y.dtype.kind == "f" else np.int64
    return Samples(np.ascontiguousarray(as_input(x)), y.astype(kept))


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
            raise self.refusal(int(unknown[0]), labels[unknown[0]], where)
        return places.astype(np.int64)

    def refusal(self, sample: int, label: object, where: str) -> UserError:
        """Return what to say of a label that is none of them."""
        known = ", ".join(_text(value) for value in self.values[:_SHOWN])
        return UserError(
            f"{where}: the label of sample {sample} is {_text(label)}; the samples to train on have {known}"
            f"{', …' if len(self.values) > _SHOWN else ''}"
        )


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
