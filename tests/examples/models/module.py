"""The file of the example of `module`."""

from __future__ import annotations

from pathlib import Path

SOURCE = """
import math
from collections import OrderedDict

from torch import nn


def build(width, input_shape, num_classes):
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            hidden=nn.Linear(math.prod(input_shape), width),
            act=nn.Tanh(),
            head=nn.Linear(width, num_classes),
        )
    )
"""


def write(folder: Path) -> None:
    (folder / "my_models.py").write_text(SOURCE, encoding="utf-8")
