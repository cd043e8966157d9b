"""What is wrong with a configuration, one line a finding: where, the value given, what is allowed.

pydantic reports positions that include names of union branches, and one error a branch. Here the JSON schema of the
configuration is walked along the position instead, and it also says what is allowed there.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from ppfl.config_schema import Schema
from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

MAX_FINDINGS = 20
_MAX_VALUE_LENGTH = 80
NOTHING = object()
"""The value given for a key that is missing."""


def show_value(value: Any) -> str:
    """Return a value as YAML writes it, on one line, shortened."""
    if value is NOTHING:
        return "nothing"
    if isinstance(value, str):
        text = repr(value)
    elif value is None or isinstance(value, bool):
        text = "null" if value is None else str(value).lower()
    elif isinstance(value, int | float):
        text = repr(value)
    else:
        text = " ".join(yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1 << 20).split())
    return text if len(text) <= _MAX_VALUE_LENGTH else text[: _MAX_VALUE_LENGTH - 1] + "…"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, at a dotted path `where`."""

    where: str
    given: Any
    allowed: str
    what: str = "wrong value"
    similar: str | None = None
    """What the user may have meant."""
    note: str = ""

    @classmethod
    def text(cls, what: str) -> Finding:
        """Return a finding that is a sentence of its own."""
        return cls("", None, "", what)

    def __str__(self) -> str:
        if not self.where:
            return self.what
        similar = f"; did you mean {self.similar!r}?" if self.similar else ""
        given = "" if self.given is NOTHING else f" (given {show_value(self.given)})"
        note = f" [{self.note}]" if self.note else ""
        return f"{self.where}: {self.what}{given}; allowed: {self.allowed}{similar}{note}"


class ConfigError(UserError):
    """Everything found wrong in one configuration; `source` is the file, with a line where that is known."""

    def __init__(self, source: str, *findings: Finding) -> None:
        super().__init__(f"{source}: {findings[0]}")
        self.source = source
        self.findings = findings

    @property
    def lines(self) -> tuple[str, ...]:
        """Return one line a finding, the first ones when there are very many."""
        lines = [f"{self.source}: {finding}" for finding in self.findings[:MAX_FINDINGS]]
        left_out = len(self.findings) - len(lines)
        return (*lines, f"{self.source}: and {left_out} more") if left_out else tuple(lines)


def closest(word: object, choices: Iterable[str]) -> str | None:
    """Return the choice that is most like a word, if any is like it."""
    matches = difflib.get_close_matches(str(word).lower(), list(choices), n=1, cutoff=0.6)
    return matches[0] if matches else None


def findings_of(error: ValidationError, document: dict[str, Any], schema: Schema) -> tuple[Finding, ...]:
    """Translate pydantic's errors, one finding for each place in the document."""
    found: dict[str, Finding] = {}
    explained: set[str] = set()
    for details in error.errors(include_url=False):
        finding, own_words = _finding(details, document, schema)
        # branches of a union report the same place: the schema describes them all, unless a check explains itself
        if finding.where not in found or (own_words and finding.where not in explained):
            found[finding.where] = finding
        if own_words:
            explained.add(finding.where)
    return tuple(found.values())


def _finding(details: ErrorDetails, document: dict[str, Any], schema: Schema) -> tuple[Finding, bool]:
    """Return the finding, and whether a check of the settings explained it in its own words."""
    kind, context = details["type"], details.get("ctx", {})
    place = schema.locate(details["loc"], document, last_is_key=kind in ("missing", "extra_forbidden"))
    where = place.path
    if kind == "extra_forbidden":
        keys = place.sibling_keys
        given = place.value
        return Finding(where, given, ", ".join(keys), "unknown key", closest(place.key, keys)), False
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        where = f"{where}.name"
        given = place.value.get("name", NOTHING) if isinstance(place.value, dict) else NOTHING
        names = schema.names(place.node)
        what = "missing key" if given is NOTHING else "unknown name"
        return Finding(where, given, ", ".join(names), what, closest(given, names)), False
    if kind == "missing":
        return Finding(where, NOTHING, schema.describe(place.node), "missing key"), False
    if kind == "refusal":
        inner = str(context["where"])
        value = place.value
        for key in filter(None, inner.split(".")):
            value = value.get(key, NOTHING) if isinstance(value, dict) else NOTHING
        return Finding(".".join(filter(None, (where, inner))), value, str(context["allowed"])), True
    if kind == "value_error":
        return Finding(where or "the file", place.value, str(context["error"])), True
    choices = schema.choices(place.node)
    similar = closest(place.value, choices) if isinstance(place.value, str) else None
    return Finding(where, place.value, schema.describe(place.node), similar=similar), False
