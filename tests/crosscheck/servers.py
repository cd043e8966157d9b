"""Every server optimizer once more: Reddi et al., ICLR 2021, Algorithms 1 and 2, with Δ = −g."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.crosscheck.problem import Vector


def direction_of(name: str, **s: Any) -> Callable[[Vector], Vector]:
    """Return the map from an aggregate to a direction, θ ← θ − direction; it remembers what it was given."""
    memory: dict[str, Any] = {"m": 0.0, "v": s.get("tau", 0.0) ** 2}

    def direction(g: Vector) -> Vector:
        if name == "sgd":
            return s.get("lr", 1.0) * g
        if name == "momentum":
            memory["m"] = s["beta"] * memory["m"] + g
            return s["lr"] * memory["m"]
        memory["m"] = s["beta1"] * memory["m"] + (1 - s["beta1"]) * g
        match name:
            case "adagrad":
                memory["v"] = memory["v"] + g**2
            case "yogi":
                memory["v"] = memory["v"] - (1 - s["beta2"]) * g**2 * np.sign(memory["v"] - g**2)
            case "adam":
                memory["v"] = s["beta2"] * memory["v"] + (1 - s["beta2"]) * g**2
            case _:
                raise KeyError(name)
        return s["lr"] * memory["m"] / (np.sqrt(memory["v"]) + s["tau"])

    return direction
