"""What varies between runs, found by comparing their configurations."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]

NONE = "none"
"""The label of a key that a run does not have."""
_MAX_TOLD = 2


@dataclass(frozen=True)
class Factor:
    """Keys of the configuration that vary together, and the value of each run as text, in the order of runs."""

    keys: tuple[str, ...]
    labels: tuple[str, ...]
    numbers: tuple[float, ...] | None
    """The values where all are numbers of one key: such a factor has an order."""
    told: tuple[str, ...] = ()
    """The keys that labels are made of; () for all."""

    @property
    def title(self) -> str:
        """Keys as the configuration spells them."""
        return ", ".join(self.keys)

    @property
    def levels(self) -> list[str]:
        """Distinct labels, by number where there are numbers, else in the order of runs."""
        positions = {label: position for position, label in reversed(list(enumerate(self.labels)))}
        numbers = self.numbers or range(len(self.labels))
        return sorted(positions, key=lambda label: (numbers[positions[label]], positions[label]))


def of_one_key(factor: Factor, configs: Sequence[Config]) -> Factor:
    """Return the factor of the one of its keys that most of the flat configurations have: it tells all levels apart.

    Of several such keys a name of a section says most.
    """
    held = {key: sum(config.get(key) is not None for config in configs) for key in factor.keys}
    key = max(factor.keys, key=lambda key: (held[key], _is_name(key)))
    return _factor((key,), configs)


def restricted(factors: Sequence[Factor], runs: Sequence[int]) -> tuple[Factor, ...]:
    """Return the factors of some of the runs that vary between them."""
    found = []
    for factor in factors:
        labels = tuple(factor.labels[run] for run in runs)
        numbers = tuple(factor.numbers[run] for run in runs) if factor.numbers else None
        if len(set(labels)) > 1:
            found.append(Factor(factor.keys, labels, numbers, factor.told))
    return tuple(found)


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    """Return {"a.b": value} of nested sections."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def same(left: Any, right: Any) -> bool:
    """Whether two values of a configuration are the same, as `_token` tells them apart."""
    return bool(_token(left) == _token(right))


def identity_of(config: Config) -> Hashable:
    """Return the same for flat configurations that have the same values, as `same` tells these apart.

    >>> from ppfl.analysis.factors import identity_of
    >>> identity_of({"cohort": 1, "rounds": 2}) == identity_of({"rounds": 2, "cohort": 1})
    True
    >>> identity_of({"cohort": 1}) == identity_of({"cohort": 1.0})
    False
    """
    return frozenset((key, _token(value)) for key, value in config.items())


def texts_of(values: Sequence[Any], text: Callable[[Any], str]) -> list[str]:
    """Return a text for each value; where different values have the same, they are written as Python does."""
    texts = [text(value) for value in values]
    if len(set(texts)) < len({_token(value) for value in values}):
        texts = [text(value) if value is None else repr(value) for value in values]
    return texts


def is_seed(key: str) -> bool:
    """Whether a key only repeats an experiment: its values become a median and a band."""
    return key.rsplit(".", 1)[-1] == "seed"


def find_factors(configs: Sequence[Config], *, with_seeds: bool = False) -> list[Factor]:
    """Return what varies, in the order of the configuration; keys that vary together are one factor.

    Seeds are left out unless asked for: they repeat an experiment.
    """
    flat = [flatten(config) for config in configs]
    keys = list(dict.fromkeys(key for config in flat for key in config))
    together: dict[bytes, list[str]] = {}
    for key in keys:
        first_seen: dict[Any, int] = {}
        pattern = array("l", [first_seen.setdefault(_token(config.get(key)), len(first_seen)) for config in flat])
        if len(first_seen) > 1 and (with_seeds or not is_seed(key)):
            together.setdefault(pattern.tobytes(), []).append(key)
    return [_factor(tuple(group), flat) for group in together.values()]


def _token(value: Any) -> Any:
    """Tell values apart as configurations do: a cohort of 1 and of 1.0 are not the same."""
    # repr tells 1 from 1.0 and true inside lists too, and 0.0 from -0.0
    return (type(value), value if isinstance(value, str) else repr(value))


def _factor(keys: tuple[str, ...], flat: Sequence[Config]) -> Factor:
    told = _telling(keys)
    values = [[config.get(key) for key in told] for config in flat]
    labels = tuple(_label(row, _text) for row in values)
    if len(set(labels)) < len({repr(row) for row in values}):
        labels = tuple(_label(row, repr) for row in values)
    if len(set(labels)) < len({repr(row) for row in values}):  # the same value of different keys
        labels = tuple(_label_with_keys(told, row) for row in values)
    numbers = tuple(float(row[0]) for row in values if isinstance(row[0], int | float) and not isinstance(row[0], bool))
    ordered = len(keys) == 1 and len(numbers) == len(values)
    return Factor(keys, labels, numbers if ordered else None, told)


def _telling(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return enough of the keys that vary together: each tells all levels apart, and names of a section do so best."""
    if len(keys) <= _MAX_TOLD:
        return keys
    names = tuple(key for key in keys if _is_name(key))
    return (names or keys)[:_MAX_TOLD]


def _is_name(key: str) -> bool:
    return key.rsplit(".", 1)[-1] == "name"


def _label(row: Sequence[Any], text: Callable[[Any], str]) -> str:
    return ", ".join(text(value) for value in row if value is not None) or NONE


def _label_with_keys(keys: Sequence[str], row: Sequence[Any]) -> str:
    named = zip(keys, row, strict=True)
    return ", ".join(f"{key.rsplit('.', 1)[-1]} = {value!r}" for key, value in named if value is not None) or NONE


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
