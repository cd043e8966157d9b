"""YAML as people expect it: version 1.2 scalars (1e-3 is a number, `no` is text), duplicate keys refused by line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from ppfl.config_errors import ConfigError, Finding

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping; refuse keys that are not text and keys that occur twice."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str) or key in seen:
                reason = f"the key {key!r} {'occurs twice' if isinstance(key, str) else 'is not text'}"
                raise yaml.constructor.ConstructorError(None, None, reason, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    try:
        return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
    except ValueError as error:
        raise yaml.constructor.ConstructorError(None, None, "a number with too many digits", node.start_mark) from error


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    # ".inf" and ".nan" are spelled without the dot in Python
    text = loader.construct_scalar(node)
    return float(text.replace(".", "") if text[-1].isalpha() else text)


_INT = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", _INT, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def parse_yaml(text: str, source: str, *, tell_line: bool = True) -> Any:
    """Return the value that a text holds. Raises ConfigError with `source`:line for what is not YAML."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506, a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark and tell_line else ""
        raise ConfigError(f"{source}{line}", Finding.text(_reason(error))) from error
    except yaml.YAMLError as error:
        raise ConfigError(source, Finding.text(f"not a YAML text: {' '.join(str(error).split())}")) from error
    except RecursionError as error:
        raise ConfigError(source, Finding.text("nested too deeply")) from error


def _reason(error: yaml.MarkedYAMLError) -> str:
    context = f" {error.context}" if error.context else ""
    return f"not a YAML text:{context} {error.problem}".replace("  ", " ")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a file holds. Raises ConfigError for a file that cannot be read or holds no mapping."""
    source = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(source, Finding.text(f"not a YAML text: byte {error.start} is not UTF-8")) from error
    except OSError as error:
        raise ConfigError(source, Finding.text(f"cannot be read: {error.strerror}; give a YAML file")) from error
    value = parse_yaml(text, source)
    if not isinstance(value, dict):
        raise ConfigError(source, Finding("the file", value, "a mapping of keys to values, e.g. `rounds: 200`"))
    return value


class NoSuchPathError(LookupError):
    """A dotted path goes through a value that has no keys; the argument is the path of that value."""


def set_path(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy with the value at a dotted path replaced; sections that are missing are made.

    Raises NoSuchPathError when part of the path is not a mapping.
    """
    head, _, rest = path.partition(".")
    if not rest:
        return {**document, head: value}
    inner = document.get(head)
    if inner is None:
        inner = {}
    if not isinstance(inner, dict):
        raise NoSuchPathError(head)
    try:
        return {**document, head: set_path(inner, rest, value)}
    except NoSuchPathError as error:
        raise NoSuchPathError(f"{head}.{error.args[0]}") from None


def apply_overrides(document: dict[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """Apply `key.path=value` texts, values read as YAML. A key of the grid section may itself have dots.

    Raises ConfigError naming the override.
    """
    for override in overrides:
        path, equals, text = override.partition("=")
        path = path.strip()
        if not equals or not all(path.split(".")):
            raise ConfigError("--set", Finding.text(f"not of the form key.path=value (given {override!r})"))
        value = parse_yaml(text, f"--set {override}", tell_line=False)
        section, _, grid_key = path.partition(".")
        try:
            if section == "grid" and grid_key:
                document = {**document, "grid": {**_grid_of(document), grid_key: value}}
            else:
                document = set_path(document, path, value)
        except NoSuchPathError as error:
            reason = f"{error.args[0]} has no keys of its own (given {override!r})"
            raise ConfigError("--set", Finding.text(f"{path}: {reason}")) from None
    return document


def _grid_of(document: dict[str, Any]) -> dict[str, Any]:
    grid = document.get("grid")
    if grid is None:
        return {}
    if not isinstance(grid, dict):
        raise NoSuchPathError("grid")
    return grid
