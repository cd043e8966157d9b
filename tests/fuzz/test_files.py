"""One wrong byte in a file that ppfl has written is noticed, or changes nothing that is read."""

from __future__ import annotations

import pytest

from tests.fuzz.files import KINDS
from tests.fuzz.harness import fuzz

FLIPS = 500


@pytest.mark.parametrize("name", [kind.name for kind in KINDS])
def test_one_wrong_byte_is_refused_or_changes_nothing(name: str) -> None:
    report = fuzz("tests.fuzz.files", FLIPS, seed=0, names=[name])[name]
    assert not report.failures
    assert report.outcomes.total() == FLIPS
