"""One wrong byte in a published file is an error of one line, or a file that can be read all the same."""

from __future__ import annotations

import pytest

from tests.fuzz.harness import Report, fuzz
from tests.fuzz.published import KINDS

FLIPS = 20

pytestmark = [pytest.mark.xdist_group("tests.fuzz.published"), pytest.mark.slow]


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    return fuzz("tests.fuzz.published", FLIPS, seed=0)


@pytest.mark.parametrize("name", [kind.name for kind in KINDS])
def test_one_wrong_byte_is_no_crash(reports: dict[str, Report], name: str) -> None:
    report = reports[name]
    assert not report.failures
    assert report.outcomes.total() == FLIPS
