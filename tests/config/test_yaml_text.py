"""YAML: what is written is read back equal, and no text is too much."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ppfl.core.yaml_block import NotPlainError, block_text
from ppfl.core.yaml_text import MAX_DEPTH, MAX_NODES, YamlError, _dumped, _scalar, dump_text, load_text

LIKE_NUMBERS = [
    "1e3", "0o17", "695e0514", "25921e05", "1_000", "0x1f", "yes", "no", "on", "null", "~", ".inf", "-.INF", ".nan",
    "2001-01-01", "1:30", "190:20:30", "012", "08", "", " ", "<<", "=", "- a", "a: b", "#", "true", "True", "1.", ".5",
    "+1", "-", "?", "é", "\x85", "\u2028x", "a\nb", "\ta", "\udce9", "😀", "\ufeff", "\x00\x1b[31m", "'", '"', "%",
    "@x",
]  # fmt: skip
texts = st.one_of(st.sampled_from(LIKE_NUMBERS), st.text(st.characters(exclude_categories=()), max_size=90))
texts |= st.from_regex(r"[-+]?[0-9._:]{1,8}([eE][-+]?[0-9]{1,5})?|0[xob][0-9a-f]{1,4}", fullmatch=True)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))


def typed(value: Any) -> Any:
    """Tell apart what == does not."""
    if isinstance(value, dict):
        return [(key, typed(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [typed(item) for item in value]
    return (type(value), value, math.copysign(1.0, value) if isinstance(value, float) else 0)


@given(values)
def test_what_is_written_is_read_back_equal(value: Any) -> None:
    for text in (dump_text(value), dump_text(value, flow=True)):
        assert typed(load_text(text)) == typed(value)
        assert typed(load_text(text, as_stored=True)) == typed(value)
        assert typed(yaml.safe_load(text)) == typed(value), "by version 1.1, as other programs read it"


names = st.sampled_from(["name", "é", "no", "null", "y", "lr"])
plain = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4))


@given(st.one_of(values, plain))
def test_the_fast_writer_writes_what_pyyaml_writes(value: Any) -> None:
    assert dump_text(value) == _dumped(value, flow=False, width=None)


def test_the_fast_writer_writes_configurations() -> None:
    value = {"name": "a b", "seed": 3, "zero": [0.0, -0.0, 0, False], "problem": {"folders": [], "x": [{"a": [[1]]}]}}
    assert block_text(value, _scalar) == _dumped(value, flow=False, width=None)


def test_the_fast_writer_leaves_what_occurs_twice_alone() -> None:
    shared: list[int] = []
    with pytest.raises(NotPlainError):
        block_text({"a": shared, "b": shared}, _scalar)


@given(st.text(st.sampled_from("ab:-,[]{}&*!<'\"\n 1.#|>?"), max_size=40))
def test_texts_mean_what_they_mean_to_the_reference(text: str) -> None:
    try:
        expected = yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, TypeError, ValueError):  # a mapping as a key is none to Python
        return
    try:
        found = load_text(text)
    except YamlError:
        return
    assert words(found) == words(expected)


def words(value: Any) -> Any:
    """Leave shape and texts alone, for the base loader makes no other scalars."""
    if isinstance(value, dict):
        return {key: words(item) for key, item in value.items()}
    if isinstance(value, list):
        return [words(item) for item in value]
    return value if isinstance(value, str) and value.strip("1.-") else "scalar"


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{a: " * 5000, "- " * 5000, "\n".join(" " * n + "a:" for n in range(999))]
)
def test_deep_texts_are_refused(text: str) -> None:
    with pytest.raises(YamlError, match=f"nested deeper than {MAX_DEPTH} levels"):
        load_text(text)


def test_aliases_do_not_make_depth_or_size_out_of_little() -> None:
    deep = "x0: &x0 [1]\n" + "".join(f"x{n}: &x{n} [*x{n - 1}]\n" for n in range(1, 80))
    with pytest.raises(YamlError, match="nested deeper"):
        load_text(deep)
    wide = "x0: &x0 [1]\n" + "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 20))
    with pytest.raises(YamlError, match=f"holds more than {MAX_NODES} values"):
        load_text(wide)
    for text in ("a: &a [*a]", "&a {b: *a}", "a: &a {<<: *a}"):
        with pytest.raises(YamlError, match="contains itself"):
            load_text(text)


def test_merges_that_repeat_each_other_stay_small() -> None:
    text = "x0: &x0 {a: 1}\n" + "".join(f"x{n}: &x{n}\n  <<: [{', '.join([f'*x{n - 1}'] * 3)}]\n" for n in range(1, 9))
    assert load_text(text)["x8"] == {"a": 1}
    assert load_text("a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], z: 3}")["c"] == {"x": 1, "y": 1, "z": 3}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: 1\na: 2", "the key 'a' occurs twice"), ("3: x", "the key 3 is not text"), ("? [a]\n: 1", "not text"),
        ("a: *b", "undefined alias 'b'"), ("!!python/name:os.system x", "constructor for the tag"),
        ("!x y", "tag '!x'"), ("a: 1\n---\nb: 2", "a single document"),
        ("<<: 3", "a mapping or a list of mappings"),
        ("!!int x", "no number"), ("9" * 5000, "too many digits"), ("a\x00", "not allowed"),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(YamlError, match=reason):
        load_text(text)


def test_tags_of_plain_values_are_understood() -> None:
    assert load_text("[!!str 1, !!float 1, !!int '3', !!null '', !!bool 'true', !!map {}, !!seq []]") == [
        "1", 1.0, 3, None, True, {}, [],
    ]  # fmt: skip


def test_results_of_old_versions_are_read_as_they_were_written() -> None:
    assert load_text(yaml.safe_dump({"client": "1e3", "x": 1e-05}), as_stored=True) == {"client": "1e3", "x": 1e-05}
