"""YAML to values and back: version 1.2 scalars (1e-3 is a number, `no` is text), and what we write reads back equal.

Values are built from the events of the parser, without recursion: a text costs time and memory in proportion to its
length, however deep it is nested and whatever its aliases and merges would expand to.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import yaml

from ppfl.core.yaml_block import NotPlainError, block_text

MAX_DEPTH = 64
"""Levels of mappings and lists inside each other."""
MAX_NODES = 1_000_000
"""Values in a text, those that aliases and merges repeat counted each time."""

_PREFIX = "tag:yaml.org,2002:"
_INT = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_SCALARS = tuple(
    (tag, re.compile(pattern, re.ASCII), first)
    for tag, pattern, first in (
        ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
        ("bool", r"true|True|TRUE|false|False|FALSE", tuple("tTfF")),
        ("int", _INT, tuple("-+0123456789")),
        ("float", _FLOAT, tuple("-+.0123456789")),
        ("merge", r"<<", ("<",)),
    )
)
_SURROGATES = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(ValueError):
    """What is no YAML, or no YAML for us; `line` counts from 1, None where it is not known."""

    def __init__(self, reason: str, line: int | None) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(slots=True)
class _Node:
    """A value with what a copy of it would cost; `parts` are the nodes of a mapping by key, `merged` those of `<<`."""

    value: Any
    line: int
    tag: str
    size: int = 1
    height: int = 0
    parts: dict[str, _Node] = field(default_factory=dict)
    items: list[_Node] = field(default_factory=list)
    key: _Node | None = None
    merged: list[_Node] = field(default_factory=list)
    anchor: str | None = None


def load_text(text: str, *, as_stored: bool = False) -> Any:
    """Return the value that a text holds; `as_stored` reads plain scalars as version 1.1 has them, for old results.

    Raises YamlError for what is not YAML, keys that are no text or occur twice, values that contain themselves, and
    texts that are nested deeper than MAX_DEPTH or expand to more than MAX_NODES values.
    """
    # libyaml knows no surrogates, which stand for the bytes of names that are not UTF-8
    parser = yaml.SafeLoader if _SURROGATES.search(text) else _FAST
    builder = _Builder(_tag_as_stored if as_stored else _tag_of)
    try:
        for event in yaml.parse(text, parser):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        context = f" {error.context}" if error.context else ""
        raise YamlError(f"{context} {error.problem}".strip(), mark.line + 1 if mark else None) from error
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split()), None) from error
    return builder.document.value if builder.document else None


class _Builder:
    """Makes nodes of events."""

    def __init__(self, tag_of: Any) -> None:
        self.document: _Node | None = None
        self._tag_of = tag_of
        self._open: list[_Node] = []
        self._anchors: dict[str, _Node | None] = {}
        """None while the value is being read."""

    def take(self, event: yaml.Event) -> None:
        """Go on with the next event."""
        # the parser counts from 0, editors from 1
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.ScalarEvent):
            self._close(self._scalar(event, line), event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(str(event.anchor), line)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._begin(event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            node = self._open.pop()
            if isinstance(node.value, dict):
                _finish(node)
            self._close(node, node.anchor)
        elif isinstance(event, yaml.DocumentStartEvent) and self.document is not None:
            raise YamlError("expected a single document in the stream but found another document", line)

    def _begin(self, event: yaml.CollectionStartEvent, line: int) -> None:
        if len(self._open) == MAX_DEPTH:
            raise YamlError(f"nested deeper than {MAX_DEPTH} levels", line)
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        _refuse_tag(event.tag, "map" if is_mapping else "seq", line)
        self._open.append(_Node({} if is_mapping else [], line, "", anchor=event.anchor))
        if event.anchor:
            # known, but not yet complete: an alias to it in here would make a value that contains itself
            self._anchors[event.anchor] = None

    def _alias(self, anchor: str, line: int) -> None:
        if anchor not in self._anchors:
            raise YamlError(f"found undefined alias {anchor!r}", line)
        node = self._anchors[anchor]
        if node is None:
            raise YamlError(f"the value of {anchor!r} contains itself", line)
        self._close(node, None)

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> _Node:
        if event.tag is not None:
            tag = _refuse_tag(event.tag, "str int float bool null", line) or "str"
        else:
            tag = self._tag_of(event.value) if event.implicit[0] else "str"
        return _Node(_construct(tag, event.value, line), line, tag)

    def _close(self, node: _Node, anchor: str | None) -> None:
        """Put a node where it belongs."""
        if anchor:
            self._anchors[anchor] = node
        if not self._open:
            self.document = node
            return
        parent = self._open[-1]
        if isinstance(parent.value, dict) and parent.key is None:
            parent.key = node
            _check_key(parent, node)
            return
        if len(self._open) + node.height > MAX_DEPTH:
            raise YamlError(f"nested deeper than {MAX_DEPTH} levels", node.line)
        parent.height = max(parent.height, node.height + 1)
        # an alias counts with all that it stands for: nine lines of nine aliases each would be 9**9 values
        parent.size += node.size
        if parent.size > MAX_NODES:
            raise YamlError(f"holds more than {MAX_NODES} values, with those that aliases repeat", parent.line)
        if isinstance(parent.value, list):
            parent.value.append(node.value)
            parent.items.append(node)
            return
        assert parent.key is not None
        if parent.key.tag == "merge":
            parent.merged += _mappings(node)
        else:
            parent.parts[parent.key.value] = node
        parent.key = None


def _check_key(mapping: _Node, key: _Node) -> None:
    if key.tag == "merge":
        return
    if not isinstance(key.value, str) or key.value in mapping.parts:
        what = "occurs twice" if isinstance(key.value, str) else "is not text"
        raise YamlError(f"the key {key.value!r} {what}", key.line)


def _mappings(node: _Node) -> list[_Node]:
    found = node.items if isinstance(node.value, list) else [node]
    if not all(isinstance(item.value, dict) for item in found):
        raise YamlError("expected a mapping or a list of mappings after <<", node.line)
    return found


def _finish(node: _Node) -> None:
    """Give a mapping its values: its own before those that it merges, of these the first."""
    parts: dict[str, _Node] = {}
    # so that the first of several has the last word
    for other in reversed(node.merged):
        parts |= other.parts
    node.parts = parts | node.parts
    node.value.update({key: part.value for key, part in node.parts.items()})


def _tag_of(text: str) -> str:
    first = text[:1]
    for tag, pattern, beginnings in _SCALARS:
        if first in beginnings and pattern.fullmatch(text):
            return tag
    return "str"


def _tag_as_stored(text: str) -> str:
    for tag, pattern in yaml.SafeLoader.yaml_implicit_resolvers.get(text[:1], ()):
        if pattern.match(text):
            name = str(tag).removeprefix(_PREFIX)
            return name if name in ("null", "bool", "int", "float") else "str"
    return "str"


def _refuse_tag(tag: str | None, allowed: str, line: int) -> str:
    name = (tag or "").removeprefix(_PREFIX).removeprefix("!")
    if name and name not in allowed.split():
        raise YamlError(f"could not determine a constructor for the tag {tag!r}", line)
    return name


def _construct(tag: str, text: str, line: int) -> Any:
    if tag in ("str", "merge"):
        return text
    try:
        if tag == "int":
            return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
        if tag == "float":
            # ".inf" and ".nan" are spelled without the dot in Python
            return float(text.replace(".", "") if text[-1:].isalpha() else text)
    except ValueError as error:
        reason = "a number with too many digits" if text.strip("+-").isdecimal() else f"{text!r} is no number"
        raise YamlError(reason, line) from error
    return None if tag == "null" else text.lower() in ("true", "yes", "on")


class _Dumper(yaml.SafeDumper):
    """Quotes texts that versions 1.1 or 1.2 would read as something else."""

    yaml_implicit_resolvers = dict(yaml.SafeDumper.yaml_implicit_resolvers)  # noqa: RUF012, as PyYAML has it


for _tag, _pattern, _beginnings in _SCALARS:
    _Dumper.add_implicit_resolver(_PREFIX + _tag, re.compile(f"^(?:{_pattern.pattern})$", re.ASCII), list(_beginnings))


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """Escape whatever is not plain letters: line breaks of any kind do not survive the other styles."""
    return dumper.represent_scalar(f"{_PREFIX}str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)


def dump_text(value: Any, *, flow: bool = False) -> str:
    """Return the text of a value, keys in their order; `load_text` reads it back equal, types included.

    flow: on one line, as `{a: [1, 2]}`.
    """
    if isinstance(value, dict) and value and not flow:
        with suppress(NotPlainError):
            return block_text(value, _scalar)
    return _dumped(value, flow=flow, width=float("inf") if flow else None)


@lru_cache(1024, typed=True)
def _scalar(value: Any, spelled: str) -> str:
    """Return the text of a scalar; remembered, since the runs of a grid have most of theirs in common."""
    text = _dumped(value, flow=False, width=float("inf")).removesuffix("\n").removesuffix("\n...")
    if "\n" in text:
        raise NotPlainError
    return text


def _dumped(value: Any, *, flow: bool, width: float | None) -> str:
    return str(
        yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=width)
    )
