"""What decides which samples a run is scored on, whatever it trains on them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from ppfl.config.scope import origins_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ppfl.config.run import Config

_HOW_TRAINED = frozenset({"model", "split", "batch_size", "training", "ridge"})
"""Keys of a problem that say what is made of its samples."""
_SELECTING = ("samples", "clients")


def samples_digest(config: Config) -> str:
    """Return 16 hexadecimal digits, the same for runs that are scored on the same samples of the same clients in the
    same way: files, and plug-ins from outside, count by their content."""
    problem = config.problem
    left_out = {**problem.silent_keys(), **dict.fromkeys(_HOW_TRAINED, True)}
    content: dict[str, Any] = {"problem": problem.model_dump(exclude=left_out)}
    content |= _selected(config.evaluate.model_dump(), config.seed)
    # a model decides what is made of samples, other classes from outside which ones they are, and how they are scored
    origins = {key: origin for key, origin in origins_in(problem).items() if not key.startswith("models/")}
    if origins:
        content["plugins"] = {key: origin.identity for key, origin in origins.items()}
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def settings_of_samples(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide them, by dotted keys, of a configuration as a result has it: files by path."""
    problem = {key: value for key, value in stored.get("problem", {}).items() if key not in _HOW_TRAINED}
    return dict(_flat({"problem": problem, **_selected(stored.get("evaluate", {}), stored.get("seed"))}))


def _selected(evaluate: Mapping[str, Any], seed: Any) -> dict[str, Any]:
    chosen = {key: evaluate[key] for key in _SELECTING if evaluate.get(key) is not None}
    # the seed of the run draws them; that of the problem, which draws newcomers, stands there
    selected: dict[str, Any] = {"evaluate": chosen, "seed": seed} if chosen else {}
    if newcomers := evaluate.get("newcomers"):
        selected["newcomers"] = newcomers["clients"]
    return selected


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Any:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
