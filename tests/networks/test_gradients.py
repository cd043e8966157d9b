"""Gradients by a plain graph: those of torch, without what torch loads for a direction."""

from __future__ import annotations

import subprocess
import sys

import torch

from ppfl.networks.gradients import pullback

FIRST_GRADIENT = """
import sys, torch
from ppfl.networks.gradients import pullback
value, pull = pullback(lambda params: params["w"].square(), {"w": torch.ones(2)})
pull(torch.ones(2))
print("sympy" in sys.modules)
"""


def test_pulling_back_is_the_gradient_along_a_direction() -> None:
    params = {"w": torch.tensor([1.0, 2.0]), "unused": torch.ones(3)}
    value, pull = pullback(lambda found: found["w"] ** 3, params)
    assert value.tolist() == [1.0, 8.0]
    assert {name: found.tolist() for name, found in pull(torch.tensor([2.0, torch.inf])).items()} == {
        "w": [6.0, torch.inf],
        "unused": [0.0, 0.0, 0.0],
    }


def test_the_first_gradient_of_a_process_does_not_load_sympy() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_GRADIENT], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
