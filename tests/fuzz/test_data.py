"""One wrong byte in a file that a configuration names is an error, or another digest: no traceback, crash or hang."""

from __future__ import annotations

import pytest

from tests.fuzz.data import KINDS
from tests.fuzz.harness import Report, fuzz

FLIPS = 500

pytestmark = [pytest.mark.xdist_group("tests.fuzz.data"), pytest.mark.slow]


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    """Of one child, which loads torch once for all kinds."""
    return fuzz("tests.fuzz.data", FLIPS, seed=0)


@pytest.mark.parametrize("name", [kind.name for kind in KINDS])
def test_one_wrong_byte(reports: dict[str, Report], name: str) -> None:
    report = reports[name]
    assert report.failures == []
    assert report.outcomes.total() == FLIPS
    assert len(report.outcomes) > 1
