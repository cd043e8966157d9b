"""Reads the JSON schema of a settings class: what is at a position, and what is allowed there, in words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ppfl.core.plugins import plug_ins_from_outside

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ppfl.core.plugins import Outside

Node = dict[str, Any]
_ANYTHING: Node = {}


@dataclass(frozen=True)
class Union:
    """A section whose `name` chose what its keys are; `node` has the choices."""

    path: str
    name: str
    node: Node


@dataclass(frozen=True)
class Position:
    """A position in a document: its dotted path, its schema, the value there (None when missing)."""

    path: str
    key: str | int | None
    node: Node
    value: Any
    sibling_keys: tuple[str, ...]
    union: Union | None = None
    """The section around it, where its name chose its keys."""


class Schema:
    """The JSON schema of a settings class."""

    def __init__(self, document_schema: Node) -> None:
        self._root = document_schema
        self._definitions: dict[str, Node] = document_schema.get("$defs", {})

    def locate(self, position: tuple[int | str, ...], document: Any, *, last_is_key: bool) -> Position:
        """Follow a position of a pydantic error through the document, skipping names of union branches.

        last_is_key: the last part is a key although the document need not have it.
        """
        node, value, path, key = self._root, document, "", None
        siblings: tuple[str, ...] = ()
        union: Union | None = None
        for index, part in enumerate(position):
            choices = node
            node, is_chosen = self._resolve(node, value)
            union = Union(path, value["name"], choices) if is_chosen else None
            is_last_key = last_is_key and index == len(position) - 1
            if isinstance(value, dict) and (part in value or is_last_key):
                properties = node.get("properties", {})
                siblings = tuple(sorted(properties))
                # a key that nobody knows still has a position, of which the message then speaks
                node = properties.get(part, node.get("additionalProperties") or _ANYTHING)
                node = node if isinstance(node, dict) else _ANYTHING
                value, key = value.get(part), part
                path = f"{path}.{_show_key(part)}" if path else _show_key(part)
            elif isinstance(value, list | tuple) and isinstance(part, int) and part < len(value):
                node, value, key = node.get("items", _ANYTHING), value[part], part
                path = f"{path}[{part}]"
        return Position(path, key, node, value, siblings, union)

    def owners(self, position: Position) -> list[str]:
        """Return the plug-ins that can stand around a position and have its key."""
        if position.union is None:
            return []
        mapping = self._mapping(position.union.node)
        return sorted(
            name
            for name, reference in mapping.items()
            if position.key in self._follow({"$ref": reference}).get("properties", {})
        )

    def _mapping(self, node: Node) -> dict[str, str]:
        """Return {name of a plug-in: its definition} of a node where one can stand."""
        node = self._follow(node)
        found: dict[str, str] = dict(node.get("discriminator", {}).get("mapping", {}))
        for branch in node.get("anyOf", []):
            found |= self._mapping(branch)
        return found

    def names(self, node: Node) -> list[str]:
        """Return the plug-ins that can stand at a node."""
        return sorted(self._mapping(node))

    def choices(self, node: Node) -> list[str]:
        """Return the words that can stand at a node."""
        node = self._follow(node)
        words = [node["const"]] if "const" in node else list(node.get("enum", []))
        for branch in [*node.get("anyOf", []), *([] if "discriminator" in node else node.get("oneOf", []))]:
            words += self.choices(branch)
        return [word for word in words if isinstance(word, str)]

    def describe(self, node: Node) -> str:
        """Say in words what is allowed at a node."""
        node = self._follow(node)
        if "const" in node or "enum" in node:
            return ", ".join(repr(value) for value in node.get("enum", [node.get("const")]))
        if "discriminator" in node:
            return f"a section with `name:` one of {', '.join(self.names(node))}"
        branches = node.get("anyOf") or node.get("oneOf")
        if branches:
            return ", or ".join(dict.fromkeys(self.describe(branch) for branch in branches))
        kind = node.get("type")
        if kind in ("integer", "number"):
            return ("a whole number" if kind == "integer" else "a number") + _bounds(node)
        if kind == "array":
            return f"a list{_length(node)} of {self._describe_items(node)}"
        if kind == "object":
            return f"a section with the keys {', '.join(sorted(node.get('properties', {})))}"
        return _describe_simple(node)

    def _describe_items(self, node: Node) -> str:
        if "prefixItems" in node:
            return "[" + ", ".join(self.describe(item) for item in node["prefixItems"]) + "]"
        return f"[{self.describe(node.get('items', _ANYTHING))}, …]"

    def _follow(self, node: Node) -> Node:
        while "$ref" in node:
            node = self._definitions[node["$ref"].rsplit("/", 1)[1]]
        return node

    def _resolve(self, node: Node, value: Any) -> tuple[Node, bool]:
        """Return the schema that applies to this value, and whether the value's `name` chose it."""
        node = self._follow(node)
        if "discriminator" in node:
            name = value.get("name") if isinstance(value, dict) else None
            reference = node["discriminator"]["mapping"].get(name) if isinstance(name, str) else None
            return (self._follow({"$ref": reference}), True) if reference else (node, False)
        # of a union such as "all", a number or a section: the branch that has the form of what is there
        for branch in node.get("anyOf") or node.get("oneOf") or []:
            chosen, tagged = self._resolve(branch, value)
            wanted = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else None
            if wanted and chosen.get("type") == wanted:
                return chosen, tagged
        return node, False


def schema_of(model: type[BaseModel]) -> Schema:
    """Return the schema of a settings class, with the plug-ins that it may name now; made once for these."""
    return _schema(model, plug_ins_from_outside())


@lru_cache(maxsize=4)
def _schema(model: type[BaseModel], outside: Outside | None) -> Schema:
    return Schema(model.model_json_schema())


def _show_key(key: object) -> str:
    text = str(key)
    return text if text.isprintable() else repr(text)


def _bounds(node: Node) -> str:
    words = (("exclusiveMinimum", "greater than"), ("minimum", "of at least"), ("exclusiveMaximum", "less than"))
    parts = [f"{word} {node[key]:.15g}" for key, word in (*words, ("maximum", "at most")) if key in node]
    return " " + " and ".join(parts) if parts else ""


def _length(node: Node) -> str:
    low, high = node.get("minItems"), node.get("maxItems")
    if low is not None and low == high:
        return f" of length {low}"
    parts = [f"at least {low}"] if low else []
    parts += [f"at most {high}"] if high is not None else []
    return f" of length {' and '.join(parts)}" if parts else ""


def _describe_simple(node: Node) -> str:
    kind = node.get("type")
    if kind == "boolean":
        return "true, false"
    if kind == "null":
        return "null"
    if kind == "string" and node.get("format") == "path":
        return "the path of a file"
    if kind == "string":
        longest = f" of at most {node['maxLength']} characters" if "maxLength" in node else ""
        return f"text{longest}" + (f" that matches {node['pattern']}" if "pattern" in node else "")
    return "any value"
