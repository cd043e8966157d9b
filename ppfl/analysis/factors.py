"""What varies between runs, found by comparing their configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Factor:
    """Keys of the configuration that vary together, and the value of each run as text, in the order of runs."""

    keys: tuple[str, ...]
    labels: tuple[str, ...]
    numbers: tuple[float, ...] | None
    """The values where all are numbers of one key: such a factor has an order."""

    @property
    def title(self) -> str:
        """Keys as the configuration spells them."""
        return ", ".join(self.keys)

    @property
    def levels(self) -> list[str]:
        """Distinct labels, by number where there are numbers, else in the order of runs."""
        positions = {label: position for position, label in reversed(list(enumerate(self.labels)))}
        numbers = self.numbers or range(len(self.labels))
        return sorted(positions, key=lambda label: numbers[positions[label]])


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    """Return {"a.b": value} of nested sections."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def is_seed(key: str) -> bool:
    """Whether a key only repeats an experiment: its values become a median and a band."""
    return key.rsplit(".", 1)[-1] == "seed"


def find_factors(configs: Sequence[Config]) -> list[Factor]:
    """Return what varies besides seeds, in the order of the configuration; keys that vary together are one factor."""
    flat = [flatten(config) for config in configs]
    keys = list(dict.fromkeys(key for config in flat for key in config))
    together: dict[tuple[int, ...], list[str]] = {}
    for key in keys:
        values = [config.get(key) for config in flat]
        told_apart = [(type(value), value) for value in values]  # a cohort of 1 and of 1.0 are not the same
        pattern = tuple(told_apart.index(value) for value in told_apart)
        if any(pattern) and not is_seed(key):
            together.setdefault(pattern, []).append(key)
    return [_factor(tuple(group), flat) for group in together.values()]


def _factor(keys: tuple[str, ...], flat: Sequence[Config]) -> Factor:
    values = [[config.get(key) for key in keys] for config in flat]
    labels = tuple(_label(row, _text) for row in values)
    if len(set(labels)) < len({repr(row) for row in values}):
        labels = tuple(_label(row, repr) for row in values)
    numbers = tuple(float(row[0]) for row in values if isinstance(row[0], int | float) and not isinstance(row[0], bool))
    ordered = len(keys) == 1 and len(numbers) == len(values)
    return Factor(keys, labels, numbers if ordered else None)


def _label(row: Sequence[Any], text: Callable[[Any], str]) -> str:
    return ", ".join(text(value) for value in row if value is not None) or "none"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
