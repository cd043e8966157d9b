"""The harness sees what a reader of damaged files must not do, and goes on after it."""

from __future__ import annotations

import pytest

from tests.fuzz.harness import damage, fuzz


@pytest.mark.slow
def test_whatever_must_not_be_is_noted_with_its_flip_and_the_next_file_is_read() -> None:
    reports = fuzz("tests.fuzz.naughty", flips=9, seed=0, patience_seconds=1.5)
    naughty = reports["naughty"]
    assert naughty.outcomes == {"refused": 4}
    found = dict(failure.split(": ", 1) for failure in naughty.failures)
    assert list(found) == [f"flip {number}" for number in range(1, 6)]
    for number, words in enumerate(("KeyError", "died with SIGSEGV", "hung", "MemoryError", "as if nothing"), start=1):
        assert words in found[f"flip {number}"]
        assert "byte " in found[f"flip {number}"]
    assert reports["other"].outcomes == {"equal": 9}
    assert not reports["other"].failures


def test_a_flip_is_decided_by_seed_and_number() -> None:
    content = bytes(range(200))
    assert damage(content, 1, 2) == damage(content, 1, 2)
    assert len({damage(content, 1, number)[0] for number in range(50)}) > 45
    for number in range(50):
        damaged, _ = damage(content, 3, number)
        assert sum(one != other for one, other in zip(damaged, content, strict=True)) == 1
