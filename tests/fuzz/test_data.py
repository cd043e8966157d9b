"""One wrong byte in a file that a configuration names is an error, or another digest: no traceback, crash or hang."""

from __future__ import annotations

import pytest

from tests.fuzz.data import KINDS
from tests.fuzz.harness import fuzz

FLIPS = 500


@pytest.mark.parametrize("name", [kind.name for kind in KINDS])
def test_one_wrong_byte(name: str) -> None:
    report = fuzz("tests.fuzz.data", FLIPS, seed=0, names=[name])[name]
    assert report.failures == []
    assert report.outcomes.total() == FLIPS
    assert len(report.outcomes) > 1
