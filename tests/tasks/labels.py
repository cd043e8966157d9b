"""Labels of every kind that tasks may get, and which of them go with a task."""

from __future__ import annotations

from typing import Any

import torch

from ppfl.core.errors import UserError
from ppfl.interfaces.task import Labels, Task
from tests import examples

CLASSES = Labels("data, label", (), is_floating=False, largest=5)
TWO_CLASSES = Labels("data, label", (), is_floating=False, largest=1)
ITEMS = Labels("data, label", (), is_floating=False, largest=5, vocabulary_size=7)
TOKENS = Labels("data, label", (4,), is_floating=False, largest=5, vocabulary_size=7)
NUMBER = Labels("data, label", (), is_floating=True)
NUMBERS = Labels("data, label", (3,), is_floating=True)
KINDS = (CLASSES, TWO_CLASSES, ITEMS, TOKENS, NUMBER, NUMBERS)
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "next_token": [{}, {"out_of_vocabulary": 3}, {"out_of_vocabulary": 3, "end": 1}],
    "ranking": [{}, {"padding": 0, "at": (2,)}],
}
"""Beside those of the example."""


def accepts(task: Task, labels: Labels) -> bool:
    try:
        task.num_outputs(labels)
    except UserError:
        return False
    return True


def cases() -> list[tuple[Task, Labels]]:
    """Return every task that is found with all labels that go with it."""
    tasks = [
        examples.make("tasks", name, **settings)
        for name in examples.names("tasks")
        for settings in SETTINGS.get(name, [{}])
    ]
    return [(task, labels) for task in tasks for labels in KINDS if accepts(task, labels)]


def named(case: object) -> str:
    if isinstance(case, Task):
        return str(case)
    return f"{case.shape}" if isinstance(case, Labels) else str(case)


def draw(task: Task, labels: Labels, num_samples: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits, float64, and labels of some samples; the last of tokens is all padding."""
    source = torch.Generator().manual_seed(seed)
    shape = (num_samples, *labels.shape)
    logits = torch.randn(num_samples, *task.output_shape(labels), generator=source, dtype=torch.float64)
    if labels.is_floating:
        return logits, torch.randn(shape, generator=source, dtype=torch.float64)
    y = torch.randint(0, labels.largest + 1, shape, generator=source)
    if labels.shape:
        y[-1] = 0
    return logits, y
