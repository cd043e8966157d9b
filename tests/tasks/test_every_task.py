"""What every task that is found has to satisfy, with all labels that go with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ppfl.core.errors import UserError
from ppfl.interfaces.task import Labels, Task
from tests import examples
from tests.tasks.labels import KINDS, accepts, cases, draw, named

EACH = pytest.mark.parametrize(("task", "labels"), cases(), ids=named)

torch.set_num_threads(1)


@pytest.mark.parametrize("name", examples.names("tasks"))
def test_it_takes_some_labels_and_refuses_others_in_one_line(name: str) -> None:
    task = examples.make("tasks", name)
    taken = [labels for labels in KINDS if accepts(task, labels)]
    assert 0 < len(taken) < len(KINDS)
    for labels in KINDS:
        if labels not in taken:
            with pytest.raises(UserError, match=rf"^problem.task: {name} needs .+; data, label has .+ a sample$"):
                task.num_outputs(labels)


@EACH
def test_the_derivative_is_that_of_the_loss(task: Task, labels: Labels) -> None:
    """By finite differences, and by automatic differentiation with weights, also where all of them are 0."""
    loss, (logits, y) = task.loss(), draw(task, labels, 5)
    found, step = loss.gradient(logits, {"y": y}), 1e-6
    for place in np.ndindex(*logits.shape):
        move = torch.zeros_like(logits)
        move[place] = step
        rise = loss.mean(logits + move, {"y": y}) - loss.mean(logits - move, {"y": y})
        assert math.isclose(float(found[place]), float(rise) / (2 * step), rel_tol=1e-5, abs_tol=1e-8)
    for weight in ([1.0, 0.5, 0.0, 2.0, 1.0], [0.0] * 5):
        data = {"y": y, "weight": torch.tensor(weight, dtype=torch.float64)}
        by_graph = torch.func.grad(lambda z, data=data: loss.mean(z, data))(logits)
        torch.testing.assert_close(loss.gradient(logits, data), by_graph, rtol=1e-12, atol=1e-15)


@EACH
def test_the_derivative_can_be_differentiated_again(task: Task, labels: Labels) -> None:
    loss, (logits, y) = task.loss(), draw(task, labels, 3)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    of_closed_form = torch.func.vjp(lambda z: loss.gradient(z, {"y": y}), logits)[1](direction)[0]
    by_graph = torch.func.vjp(torch.func.grad(lambda z: loss.mean(z, {"y": y})), logits)[1](direction)[0]
    torch.testing.assert_close(of_closed_form, by_graph, rtol=1e-10, atol=1e-12)


@EACH
def test_clients_side_by_side_are_those_alone(task: Task, labels: Labels) -> None:
    """Vectorized, with samples that only fill up: they count nothing, whatever they are."""
    loss, of_clients = task.loss(), [draw(task, labels, 4, seed) for seed in range(3)]
    logits, y = (torch.stack(values) for values in zip(*of_clients, strict=True))
    weight = torch.tensor([[True, True, True, True], [True, True, False, False], [False] * 4])
    found = torch.vmap(lambda z, y, v: loss.gradient(z, {"y": y, "weight": v}))(logits, y, weight)
    means = torch.vmap(lambda z, y, v: loss.mean(z, {"y": y, "weight": v}))(logits, y, weight)
    for k, size in enumerate((4, 2, 0)):
        alone, data = logits[k, :size], {"y": y[k, :size]}
        if size:
            torch.testing.assert_close(found[k, :size], loss.gradient(alone, data), rtol=1e-12, atol=1e-15)
            torch.testing.assert_close(means[k], loss.mean(alone, data), rtol=1e-12, atol=1e-15)
        assert not found[k, size:].any()
    assert float(means[2]) == 0


@EACH
def test_totals_add_up_over_samples(task: Task, labels: Labels) -> None:
    logits, y = draw(task, labels, 7)
    whole = task.totals(logits, y)
    assert whole.dtype == torch.float64
    for cut in (0, 3, 7):
        parts = task.totals(logits[:cut], y[:cut]) + task.totals(logits[cut:], y[cut:])
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    scores, nothing = task.scores(whole.tolist()), task.scores(task.totals(logits[:0], y[:0]).tolist())
    assert list(scores) == list(nothing)
    assert all(map(math.isnan, nothing.values()))
    plain = task.scored_loss().mean(logits, {"y": y})
    assert math.isclose(scores["loss"], float(plain), rel_tol=1e-12)


@EACH
def test_what_is_counted_is_what_scores_are_divided_by(task: Task, labels: Labels) -> None:
    """A client's score times its count is a sum: weighted means over clients are means over all that counts."""
    logits, y = draw(task, labels, 9)
    counts = [task.counts(y.numpy()[rows]) for rows in (slice(0, 4), slice(4, 9), slice(0, 9))]
    numbers = [[size] if of is None else of.tolist() for of, size in zip(counts, (4, 5, 9), strict=True)]
    whole = task.scores(task.totals(logits, y).tolist())
    halves = [task.scores(task.totals(logits[rows], y[rows]).tolist()) for rows in (slice(0, 4), slice(4, 9))]
    for metric, score in whole.items():
        if metric in ("perplexity", "r2"):
            continue
        first, second, both = (of[task.weighs(metric)] for of in numbers)
        assert both == first + second
        assert math.isclose(score, (first * halves[0][metric] + second * halves[1][metric]) / both, rel_tol=1e-12)


@EACH
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_model_guesses_nothing(task: Task, labels: Labels, bad: float) -> None:
    logits, y = draw(task, labels, 4)
    logits[(0,) * logits.ndim] = bad
    scores = task.scores(task.totals(logits, y).tolist())
    guesses = [score for metric, score in scores.items() if metric.startswith(("accuracy", "hit_rate", "ndcg"))]
    assert all(map(math.isnan, guesses))
