"""One wrong byte in a file that a configuration names is an error, or another digest: no traceback, crash or hang."""

from __future__ import annotations

import pytest

from ppfl.core.plugins import Settings
from tests import examples
from tests.fuzz.data import KINDS
from tests.fuzz.harness import Report, fuzz

FLIPS = 500

pytestmark = [pytest.mark.xdist_group("tests.fuzz.data"), pytest.mark.slow]


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    """Of one child, which loads torch once for all kinds."""
    return fuzz("tests.fuzz.data", FLIPS, seed=0)


@pytest.mark.parametrize("name", examples.names("datasets"))
def test_every_reader_of_files_is_damaged(name: str) -> None:
    """Each file that an example names is a kind; a data set whose example names none has none to read."""
    made = examples.make("datasets", name)
    fields = " ".join(str(kind.__pydantic_fields__) for kind in (type(made), *sections_of(made)))
    has_files = "DataFile" in fields or "SourceFunction" in fields  # code is a file, too
    assert has_files == any(kind.name.startswith(f"{name}, ") for kind in KINDS)


def sections_of(settings: Settings) -> list[type[Settings]]:
    return [type(value) for value in vars(settings).values() if isinstance(value, Settings)]


@pytest.mark.parametrize("name", [kind.name for kind in KINDS])
def test_one_wrong_byte(reports: dict[str, Report], name: str) -> None:
    report = reports[name]
    assert report.failures == []
    assert report.outcomes.total() == FLIPS
    assert len(report.outcomes) > 1
