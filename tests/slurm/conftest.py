"""One Slurm for all tests of this folder, and a loud word where there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, running_cluster, what_is_missing

ROOT = Path(__file__).parent.parent.parent
_REQUIRE = "PPFL_REQUIRE_SLURM"


@pytest.hookimpl(tryfirst=True)  # before the group is given to those that are marked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("slurm")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    missing = what_is_missing()
    if missing and os.environ.get(_REQUIRE) == "1":
        pytest.fail(f"{_REQUIRE}=1, but {missing}")
    if missing:
        pytest.skip(missing)
    with running_cluster() as cluster:
        cluster.environment["PYTHONPATH"] = str(ROOT)
        cluster.environment["OMP_NUM_THREADS"] = "1"
        yield cluster


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [report for report in terminalreporter.getreports("skipped") if "slurm" in report.keywords]
    if skipped and (missing := what_is_missing()):
        terminalreporter.write_line(f"SLURM: {len(skipped)} tests were left out: {missing}", red=True, bold=True)
