"""What a model is for: which labels go with it, which loss it is trained with, and what it is scored by."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from ppfl.core.errors import UserError
from ppfl.core.plugins import PlugIn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import torch

    from ppfl.interfaces.loss import Loss


_IDS = ("padding", "out_of_vocabulary", "end")
"""Keys of tasks that name tokens."""


class Labels(NamedTuple):
    """What is known of the labels of a data set on all ranks, before a model is built."""

    where: str
    """Which data set, file and field they come from; how messages begin."""
    shape: tuple[int, ...]
    """Of the label of one sample: () for one number, (T,) for one a position, (k,) for k numbers."""
    is_floating: bool
    """Numbers, not integers."""
    largest: int = 0
    """Of integers, over all clients and parts."""
    vocabulary_size: int | None = None
    """Ids that samples are made of are below it; None: samples are numbers."""
    special_ids: Mapping[str, int] = {}
    """Ids of padding, out_of_vocabulary, begin and end, as far as the data set says them."""

    @property
    def num_values(self) -> int:
        """One more than the largest integer that may stand here."""
        return self.largest + 1 if self.vocabulary_size is None else self.vocabulary_size

    def __str__(self) -> str:
        kind = "floating-point number" if self.is_floating else "integer"
        if not self.shape:
            return f"one {kind} a sample"
        return f"{' × '.join(map(str, self.shape))} {kind}s a sample"


class Task(PlugIn):
    """The labels, the loss and the scores that go with each other.

    Scores of a client are made of `totals`, which are added up over its samples: numerators and what they are divided
    by. Over clients, `mean` is of their scores, and `weighted_mean` weighs each by what it was divided by, `counts`.

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.interfaces.loss import Loss
    >>> from ppfl.interfaces.task import Labels, Task
    >>> class AbsoluteError(Loss):
    ...     def of_samples(self, logits, labels):
    ...         return (logits[:, 0] - labels).abs()
    ...
    ...     def targets(self, labels, logits):
    ...         return labels[:, None].to(logits.dtype)
    ...
    ...     def derivative(self, logits, targets):
    ...         return (logits - targets).sign()
    >>> class MedianRegression(Task):
    ...     name: Literal["median_regression"]
    ...
    ...     def loss(self):
    ...         return AbsoluteError()
    ...
    ...     def num_outputs(self, labels):
    ...         return 1 if labels.is_floating and not labels.shape else self.refuse(labels, "one number a sample")
    ...
    ...     def totals(self, logits, labels):
    ...         error = self.loss().total(logits, labels).double()
    ...         return torch.stack([error, torch.full_like(error, len(labels))])
    ...
    ...     def scores(self, totals):
    ...         return {"loss": totals[0] / totals[1]}
    >>> task = MedianRegression(name="median_regression")
    >>> totals = task.totals(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0]))
    >>> task.scores(totals.tolist())
    {'loss': 1.0}
    >>> task.num_outputs(Labels("train.h5, label", (), is_floating=False))
    Traceback (most recent call last):
    ppfl.core.errors.UserError: problem.task: median_regression needs one number a sample; train.h5, label has one \
integer a sample
    """

    has_classes: ClassVar[bool] = False
    """Labels are numbers of classes, (S,) int64, which can be counted and flipped."""
    memorized_gap: ClassVar[float] = math.log(2.0)
    """Test loss beyond train loss that tells of memorizing; of nats, where the right answer then gets on test data less
    than half of the probability that it gets on training data."""

    predicts_tokens: ClassVar[bool] = False
    """Labels are ids of the tokens that samples are made of."""

    @abstractmethod
    def loss(self) -> Loss:
        """Return what training minimizes, in the logits."""

    def scored_loss(self) -> Loss:
        """Return what the scores called `loss` are, where that is not what training minimizes."""
        return self.loss()

    @abstractmethod
    def num_outputs(self, labels: Labels) -> int:
        """Return the length of the last axis of the logits. Raises UserError for labels that do not fit."""

    def output_shape(self, labels: Labels) -> tuple[int, ...]:
        """Return the shape of the logits of one sample."""
        return (self.num_outputs(labels),)

    @abstractmethod
    def totals(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return what `scores` are made of, added up over the S samples, (N,) float64."""

    @abstractmethod
    def scores(self, totals: Sequence[float]) -> dict[str, float]:
        """Return {metric: score} of the totals of a client's part; the same names always, NaN where nothing counts."""

    def counts(self, labels: np.ndarray) -> np.ndarray | None:
        """Return what the samples of a client count together in the denominators of scores, (kinds,) int64, numbered as
        `weighs` does; None: each once."""
        return None

    def weighs(self, metric: str) -> int:
        """Return which of `counts` a metric is divided by."""
        return 0

    def special_ids(self) -> dict[str, int]:
        """Return the ids of tokens that settings name, by their keys."""
        return {key: given for key in _IDS if (given := getattr(self, key, None)) is not None}

    def renumbered(self, codes: np.ndarray) -> Self:
        """Return the task for tokens with other ids, `codes` (tokens,) of the ids that they had."""
        return self.model_copy(update={key: int(codes[given]) for key, given in self.special_ids().items()})

    def refuse_ids(self, labels: Labels, keys: Sequence[str]) -> None:
        """Raise UserError where a key names another id than the data set does, or one that is none."""
        for key in keys:
            given, of_data = getattr(self, key), labels.special_ids.get(key)
            if given is None:
                continue
            if of_data not in (None, given) or given >= labels.num_values:
                allowed = f"{of_data}" if of_data is not None else f"an id below {labels.num_values}"
                raise UserError(f"problem.task.{key}: is {given}; {labels.where} has {allowed} for it")

    def refuse(self, labels: Labels, needed: str) -> int:
        """Raise the error of labels that do not fit, in one line."""
        raise UserError(f"problem.task: {self.name} needs {needed}; {labels.where} has {labels}")


def ratio(numerator: float, denominator: float) -> float:
    """Return the quotient; NaN where nothing was counted."""
    return numerator / denominator if denominator else math.nan
