"""One wrong byte in a file that ppfl has written is noticed, or changes nothing that is read."""

from __future__ import annotations

import pytest

from tests.fuzz.files import KINDS
from tests.fuzz.harness import Report, fuzz

FLIPS = 500

pytestmark = [pytest.mark.xdist_group("tests.fuzz.files"), pytest.mark.slow]


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    """Of one child, which loads torch once for all kinds."""
    return fuzz("tests.fuzz.files", FLIPS, seed=0)


@pytest.mark.parametrize("name", [kind.name for kind in KINDS])
def test_one_wrong_byte_is_refused_or_changes_nothing(reports: dict[str, Report], name: str) -> None:
    report = reports[name]
    assert not report.failures
    assert report.outcomes.total() == FLIPS
