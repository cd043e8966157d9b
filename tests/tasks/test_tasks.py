"""What single tasks do, against NumPy, by hand and by what must hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from ppfl.core.errors import UserError
from ppfl.interfaces.task import Labels, Task
from ppfl.networks.losses import CrossEntropy
from tests import examples
from tests.tasks.labels import CLASSES, NUMBER, NUMBERS, TOKENS, TWO_CLASSES, draw

torch.set_num_threads(1)


def make(name: str, **settings: Any) -> Task:
    task: Task = examples.make("tasks", name, **settings)
    return task


def scores_of(task: Task, logits: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    return task.scores(task.totals(logits, y).tolist())


def weights(task: Task, y: torch.Tensor) -> list[int]:
    counts = task.counts(y.numpy())
    assert counts is not None
    found: list[int] = counts.tolist()
    return found


def test_label_smoothing_is_cross_entropy_with_smoothed_labels_and_no_part_of_scores() -> None:
    logits, y = draw(make("classification"), CLASSES, 6)
    plain, smoothed = make("classification"), make("classification", label_smoothing=0.3)
    q = 0.7 * np.eye(6)[y] + 0.3 / 6
    wanted = -(q * log_softmax(logits.numpy(), axis=1)).sum(axis=1)
    np.testing.assert_allclose(smoothed.loss().of_samples(logits, y), wanted, rtol=1e-12)
    assert float(smoothed.loss().total(logits, y)) == pytest.approx(wanted.sum(), rel=1e-12)
    assert scores_of(smoothed, logits, y) == scores_of(plain, logits, y)
    assert scores_of(plain, logits, y)["loss"] == pytest.approx(float(CrossEntropy().mean(logits, {"y": y})), rel=1e-12)


def test_smoothed_labels_keep_logits_finite() -> None:
    """Its effect: a sure model is not the best one. The minimum is at softmax(z) = q, here 1 − ε + ε/2 and ε/2."""
    loss, z, data = CrossEntropy(0.2), torch.zeros(1, 2, dtype=torch.float64), {"y": torch.tensor([1])}
    for _ in range(2000):
        z = z - loss.gradient(z, data)
    torch.testing.assert_close(torch.softmax(z, 1), torch.tensor([[0.1, 0.9]], dtype=torch.float64), rtol=0, atol=1e-9)


def test_binary_is_the_cross_entropy_of_two_logits_of_which_one_is_zero() -> None:
    task = make("binary")
    logits, y = draw(task, TWO_CLASSES, 9)
    both = torch.cat([torch.zeros_like(logits), logits], dim=1)
    wanted = scores_of(make("classification"), both, y)
    assert scores_of(task, logits, y) == {name: pytest.approx(value, rel=1e-12) for name, value in wanted.items()}
    torch.testing.assert_close(
        task.loss().gradient(logits, {"y": y}), CrossEntropy().gradient(both, {"y": y})[:, 1:], rtol=1e-12, atol=1e-15
    )
    assert scores_of(task, torch.zeros(2, 1), torch.tensor([0, 1]))["accuracy"] == 0
    assert math.isnan(scores_of(task, torch.full((1, 1), math.nan), torch.tensor([1]))["accuracy"])


def test_next_token_is_a_mean_over_tokens_and_not_over_samples() -> None:
    task = make("next_token")
    logits, _ = draw(task, TOKENS, 2)
    y = torch.tensor([[2, 3, 1, 6], [4, 0, 0, 0]])
    logs = log_softmax(logits.numpy(), axis=-1)
    of_tokens = [-logs[0, 0, 2], -logs[0, 1, 3], -logs[0, 2, 1], -logs[0, 3, 6], -logs[1, 0, 4]]
    assert float(task.loss().mean(logits, {"y": y})) == pytest.approx(np.mean(of_tokens), rel=1e-12)
    scores = scores_of(task, logits, y)
    assert scores["loss"] == pytest.approx(np.mean(of_tokens), rel=1e-12)
    assert scores["perplexity"] == pytest.approx(math.exp(np.mean(of_tokens)), rel=1e-12)
    assert "accuracy_with_special_tokens" not in scores


def test_a_batch_that_is_all_padding_is_0_and_not_nan() -> None:
    task = make("next_token")
    logits, _ = draw(task, TOKENS, 3)
    data = {"y": torch.zeros(3, 4, dtype=torch.int64)}
    assert float(task.loss().mean(logits, data)) == 0
    assert not task.loss().gradient(logits, data).any()
    assert all(map(math.isnan, scores_of(task, logits, data["y"]).values()))


def test_accuracy_of_tokens_leaves_out_what_nobody_is_asked_to_guess() -> None:
    """As the task of StackOverflow in TensorFlow Federated masks labels, whatever was guessed."""
    task = make("next_token", out_of_vocabulary=5, end=6)
    y = torch.tensor([[1, 5, 2, 6], [3, 6, 0, 0]])
    guesses = torch.tensor([[1, 5, 3, 6], [3, 1, 0, 0]])
    scores = scores_of(task, 9.0 * torch.nn.functional.one_hot(guesses, 7).double(), y)
    assert scores["accuracy"] == 2 / 3
    assert scores["accuracy_with_special_tokens"] == 4 / 6
    assert weights(task, y) == [6, 3]


def test_ids_of_tokens_must_be_those_of_the_data() -> None:
    of_data = TOKENS._replace(special_ids={"padding": 0, "out_of_vocabulary": 4, "end": 6})
    assert make("next_token", out_of_vocabulary=4, end=6).num_outputs(of_data) == 7
    with pytest.raises(UserError, match=r"^problem.task.out_of_vocabulary: is 5; data, label has 4 for it$"):
        make("next_token", out_of_vocabulary=5).num_outputs(of_data)
    with pytest.raises(UserError, match=r"^problem.task.end: is 7; data, label has an id below 7 for it$"):
        make("next_token", end=7).num_outputs(TOKENS)


@pytest.mark.parametrize("labels", [NUMBER, NUMBERS], ids=["one number", "several"])
def test_regression_against_numpy(labels: Labels) -> None:
    task = make("regression")
    z, y = draw(task, labels, 8)
    error = (z - y.reshape(z.shape)).numpy()
    wanted = y.reshape(z.shape).numpy()
    scores = scores_of(task, z, y)
    assert scores["loss"] == pytest.approx((error**2).sum(axis=1).mean() / 2, rel=1e-12)
    assert scores["mean_squared_error"] == pytest.approx((error**2).mean(), rel=1e-12)
    assert scores["mean_absolute_error"] == pytest.approx(np.abs(error).mean(), rel=1e-12)
    assert scores["r2"] == pytest.approx(1 - (error**2).sum() / ((wanted - wanted.mean(axis=0)) ** 2).sum(), rel=1e-10)


def test_r2_is_1_for_what_is_right_and_0_for_the_mean_and_undefined_for_constants() -> None:
    task, y = make("regression"), torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    assert scores_of(task, y[:, None], y)["r2"] == 1
    assert scores_of(task, torch.full((3, 1), 3.0, dtype=torch.float64), y)["r2"] == pytest.approx(0, abs=1e-12)
    for constant in (0.0, 0.1, 1e6 / 3):
        same = torch.full((3,), constant, dtype=torch.float64)
        assert math.isnan(scores_of(task, y[:, None], same)["r2"])
        assert weights(task, same) == [3, 0]
    assert math.isnan(scores_of(task, y[:1, None], y[:1])["r2"])
    assert (weights(task, y[:1]), weights(task, y[:0]), weights(task, y)) == ([1, 0], [0, 0], [3, 3])


@pytest.mark.parametrize("labels", [CLASSES, TOKENS], ids=["one item", "an item a position"])
@pytest.mark.parametrize("padding", [None, 0])
def test_what_must_hold_of_hit_rates_and_gains(labels: Labels, padding: int | None) -> None:
    num_items = make("ranking").num_outputs(labels)
    task = make("ranking", at=tuple(range(1, num_items + 1)), padding=padding)
    for seed in range(20):
        logits, y = draw(task, labels, 6, seed)
        scores = scores_of(task, logits.round(), y)  # with ties
        hits = [scores[f"hit_rate_at_{k}"] for k in task.at]  # type: ignore[attr-defined]
        gains = [scores[f"ndcg_at_{k}"] for k in task.at]  # type: ignore[attr-defined]
        assert hits == sorted(hits)
        assert gains == sorted(gains)
        assert hits[-1] == 1
        assert gains[0] == hits[0]
        assert all(gain <= hit for gain, hit in zip(gains, hits, strict=True))


def test_ties_go_to_the_smaller_id() -> None:
    task = make("ranking", at=(1, 2, 3))
    for item in range(3):
        scores = scores_of(task, torch.zeros(1, 3), torch.tensor([item]))
        assert [scores[f"hit_rate_at_{k}"] for k in (1, 2, 3)] == [float(k > item) for k in (1, 2, 3)]
        assert scores["ndcg_at_3"] == pytest.approx(1 / math.log2(2 + item), rel=1e-12)
