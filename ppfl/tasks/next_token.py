"""The next token of a text, at every position."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt

from ppfl.interfaces.task import Labels, Task, ratio
from ppfl.networks.losses import MaskedCrossEntropy

if TYPE_CHECKING:
    from collections.abc import Sequence


class NextToken(Task):
    """f_m = Σ_s v_s Σ_t [y_st ≠ padding] (−log softmax(z_st)[y_st]) / Σ_s v_s Σ_t [y_st ≠ padding], over tokens and not
    over samples; logits (S, T, vocabulary), labels (S, T) int64.

    Scores: loss in nats a token; perplexity, exp of the loss of a client, so that means over clients are of these and
    no perplexity of all tokens together; and the share of tokens that are guessed right. `accuracy` leaves out what no
    model is asked to guess: padding, and `out_of_vocabulary` and `end` where they are given; then
    `accuracy_with_special_tokens` leaves out padding alone.
    Source of both: the task of StackOverflow in TensorFlow Federated (accuracy_without_out_of_vocab_or_end_of_sentence,
    and accuracy); Pillutla et al., ICML 2022, whose accuracy is the first of them.
    """

    name: Literal["next_token"]
    predicts_tokens: ClassVar[bool] = True
    padding: NonNegativeInt = 0
    """Id that fills up samples: masked in loss and scores."""
    out_of_vocabulary: NonNegativeInt | None = None
    """Id of all that is not in the vocabulary: trained on, but no right guess; null: there is none."""
    end: NonNegativeInt | None = None
    """Id that ends a text: trained on, but no right guess; null: it counts as any other."""

    def loss(self) -> MaskedCrossEntropy:
        """Cross-entropy without padding."""
        return MaskedCrossEntropy(self.padding)

    def num_outputs(self, labels: Labels) -> int:
        """The size of the vocabulary."""
        if labels.is_floating or len(labels.shape) != 1 or labels.vocabulary_size is None:
            return self.refuse(labels, "samples of tokens, with the next token at every position as their labels")
        self.refuse_ids(labels, ("padding", "out_of_vocabulary", "end"))
        return labels.vocabulary_size

    def output_shape(self, labels: Labels) -> tuple[int, ...]:
        """(T, vocabulary)."""
        return (*labels.shape, self.num_outputs(labels))

    def totals(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss and tokens, then right guesses and tokens of each kind of accuracy."""
        is_right, is_finite = logits.argmax(dim=-1) == labels, logits.isfinite().all()
        found = [self.loss().total(logits, labels).double()]
        for counts in self._counted(labels):
            # a diverged model has no largest logit
            found += [torch.where(is_finite, (is_right & counts).sum(), math.nan).double(), counts.sum().double()]
        of_loss, with_special, tokens, accuracy, counted = found
        return torch.stack([of_loss, tokens, accuracy, counted, with_special])

    def scores(self, totals: Sequence[float]) -> dict[str, float]:
        """Return loss, perplexity and accuracies."""
        of_loss, tokens, right, counted, with_special = totals
        loss = ratio(of_loss, tokens)
        scores = {"loss": loss, "perplexity": _exp(loss), "accuracy": ratio(right, counted)}
        if self._has_special:
            scores["accuracy_with_special_tokens"] = ratio(with_special, tokens)
        return scores

    def counts(self, labels: np.ndarray) -> np.ndarray:
        """Tokens that are no padding, and those that `accuracy` counts."""
        return np.array([counts.sum() for counts in self._counted(labels)], dtype=np.int64)

    def weighs(self, metric: str) -> int:
        """Tokens: of `accuracy` its own."""
        return int(metric == "accuracy")

    @property
    def _has_special(self) -> bool:
        return self.out_of_vocabulary is not None or self.end is not None

    def _counted(self, labels: Any) -> tuple[Any, Any]:
        """Return which labels are no padding, and which of them a model is asked to guess."""
        is_there = labels != self.padding
        asked = is_there
        for special in (self.out_of_vocabulary, self.end):
            if special is not None:
                asked = asked & (labels != special)
        return is_there, asked


def _exp(loss: float) -> float:
    # beyond the numbers that there are, inf
    return float(np.exp(np.minimum(loss, 709.0))) if not loss > 709.0 else math.inf
