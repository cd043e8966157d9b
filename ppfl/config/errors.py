"""What is wrong with a configuration, one line a finding: where, the value given, what is allowed.

pydantic reports positions that include names of union branches, and one error a branch. Here the JSON schema of the
configuration is walked along the position instead, and it also says what is allowed there.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppfl.config.schema import Position, Schema
from ppfl.core.errors import UserError
from ppfl.core.yaml_text import dump_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

MAX_FINDINGS = 20
_MAX_TRANSLATED = 1000
_MAX_VALUE_LENGTH = 80
NOTHING = object()
"""The value given for a key that is missing."""


def show_value(value: Any) -> str:
    """Return a value as YAML writes it, on one line, shortened; a long value costs no more than a short one."""
    if value is NOTHING:
        return "nothing"
    if type(value) in (int, float):
        return repr(value)
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > _MAX_VALUE_LENGTH:
            return text[: _MAX_VALUE_LENGTH - 1] + "…"
    return text


def _pieces(value: Any) -> Iterator[str]:
    """Yield the text of a value bit by bit."""
    if isinstance(value, str):
        yield repr(value[: _MAX_VALUE_LENGTH + 1])
    elif isinstance(value, Mapping):
        yield from _items("{", (_entry(key, item) for key, item in value.items()), "}")
    elif isinstance(value, list | tuple):
        yield from _items("[", (_nested(item) for item in value), "]")
    elif isinstance(value, float):
        yield repr(value)
    else:
        yield "null" if value is None else str(value).lower()


def _items(opening: str, items: Iterable[Iterator[str]], closing: str) -> Iterator[str]:
    yield opening
    for number, item in enumerate(items):
        yield ", " if number else ""
        yield from item
    yield closing


def _entry(key: Any, item: Any) -> Iterator[str]:
    yield from _nested(key)
    yield ": "
    yield from _nested(item)


def _nested(value: Any) -> Iterator[str]:
    """Yield a text inside a list or mapping without quotes where it needs none."""
    if isinstance(value, str):
        yield dump_text(value[: _MAX_VALUE_LENGTH + 1], flow=True).removesuffix("\n").removesuffix("\n...")
    else:
        yield from _pieces(value)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, at a dotted path `where`."""

    where: str
    given: Any
    allowed: str
    what: str = "wrong value"
    word: object = None
    """What may be a slip for one of `choices`."""
    choices: Sequence[str] = ()
    hint: str = ""
    """What to do."""
    note: str = ""

    @classmethod
    def text(cls, what: str) -> Finding:
        """Return a finding that is a sentence of its own."""
        return cls("", None, "", what)

    def __str__(self) -> str:
        if not self.where:
            return self.what
        meant = closest(self.word, self.choices)
        similar = f"; did you mean {meant!r}?" if meant and not self.hint else f"; {self.hint}" if self.hint else ""
        given = "" if self.given is NOTHING else f" (given {show_value(self.given)})"
        note = f" [{self.note}]" if self.note else ""
        return f"{self.where}: {self.what}{given}; allowed: {self.allowed}{similar}{note}"


class ConfigError(UserError):
    """Everything found wrong in one configuration; `source` is the file, with a line where that is known."""

    def __init__(self, source: str, *findings: Finding, more: int = 0) -> None:
        """Tell findings; `more` were not looked at."""
        super().__init__(f"{source}: {findings[0]}")
        self.source = source
        self.findings = findings
        self.more = more

    @property
    def lines(self) -> tuple[str, ...]:
        """Return one line a finding, the first ones when there are very many."""
        lines = [f"{self.source}: {finding}" for finding in self.findings[:MAX_FINDINGS]]
        left_out = len(self.findings) - len(lines) + self.more
        return (*lines, f"{self.source}: and {left_out} more") if left_out else tuple(lines)


def closest(word: object, choices: Iterable[str]) -> str | None:
    """Return the choice that is most like a word, if any is like it."""
    # difflib's own default: below it suggestions are more often odd than helpful
    matches = difflib.get_close_matches(str(word).lower(), list(choices), n=1, cutoff=0.6)
    return matches[0] if matches else None


def error_of(source: str, error: ValidationError, document: dict[str, Any], schema: Schema) -> ConfigError:
    """Translate pydantic's errors, one finding for each position in the document; of many the first ones."""
    found: dict[str, Finding] = {}
    explained: set[str] = set()
    errors = error.errors(include_url=False)
    for details in errors[:_MAX_TRANSLATED]:
        finding, own_words = _finding(details, document, schema)
        # branches of a union report the same position: the schema describes them all, unless a check explains itself
        if finding.where not in found or (own_words and finding.where not in explained):
            found[finding.where] = finding
        if own_words:
            explained.add(finding.where)
    return ConfigError(source, *found.values(), more=len(errors[_MAX_TRANSLATED:]))


def _finding(details: ErrorDetails, document: dict[str, Any], schema: Schema) -> tuple[Finding, bool]:
    """Return the finding, and whether a check of the settings explained it in its own words."""
    kind, context = details["type"], details.get("ctx", {})
    position = schema.locate(details["loc"], document, last_is_key=kind in ("missing", "extra_forbidden"))
    where = position.path
    if kind == "extra_forbidden":
        keys = position.sibling_keys
        given = position.value
        hint = _hint(position, schema.owners(position))
        return Finding(where, given, ", ".join(keys), "unknown key", position.key, keys, hint), False
    if kind in ("unknown_name", "no_name"):
        where = f"{where}.name"
        given = position.value.get("name", NOTHING) if isinstance(position.value, dict) else NOTHING
        names = schema.names(position.node)
        what = "missing key" if given is NOTHING else "unknown name"
        return Finding(where, given, ", ".join(names), what, given, names), False
    if kind == "missing":
        return Finding(where, NOTHING, schema.describe(position.node), "missing key"), False
    if kind == "refusal":
        inner = str(context["where"])
        value = position.value
        for key in filter(None, inner.split(".")):
            value = value.get(key, NOTHING) if isinstance(value, dict) else NOTHING
        return Finding(".".join(filter(None, (where, inner))), value, str(context["allowed"])), True
    if kind == "value_error":
        return Finding(where or "the file", position.value, str(context["error"])), True
    choices = schema.choices(position.node) if isinstance(position.value, str) else ()
    return Finding(where, position.value, schema.describe(position.node), word=position.value, choices=choices), False


def _hint(position: Position, owners: Sequence[str]) -> str:
    """Say what to do about a key that another plug-in of this position has: the name was changed alone."""
    if not owners or not position.union:
        return ""
    section, name = position.union.path, position.union.name
    return (
        f"it is a key of {', '.join(owners)}: take it out, or replace the whole section, by "
        f"--set '{section}={{name: {name}, …}}' or, in a grid, by {section}: [{{name: {name}, …}}]"
    )
