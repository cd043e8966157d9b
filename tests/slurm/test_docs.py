"""Commands of the pages about clusters, in their order, as somebody would type them on a login node."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ppfl.config.grid import load_cells
from tests.slurm.cluster import Cluster, wait_for
from tests.test_docs_digests import present

ROOT = Path(__file__).parent.parent.parent
BLOCK = re.compile(r"(<!-- session: \w+ -->\n)?```console\n(.*?)```", re.DOTALL)
NEEDS_SNAKEMAKE_TO_STAY = re.compile(r"^(snakemake .*)$")
STOPS_A_JOB = re.compile(r"^(ppfl stop) \d+")


def commands_of(page: str) -> list[str]:
    """Return what a page has to be typed; what a session was is not typed again."""
    text = "\n\n".join(present((ROOT / page).read_text(encoding="utf-8")))
    blocks = [block for session, block in BLOCK.findall(text) if not session]
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def queued(cluster: Cluster) -> Iterator[Cluster]:
    """Yield the cluster with jobs that wait, and without them again."""
    cluster.ask("scontrol", "update", "partitionname=main", "state=down")
    yield cluster
    cluster.ask("scancel", "--me")
    wait_for(lambda: not cluster.ask("squeue", "--noheader"), "the end of all jobs")
    cluster.ask("scontrol", "update", "partitionname=main", "state=up")


@pytest.mark.parametrize(("page", "fewest"), [("docs/cluster.md", 5), ("slurm/README.md", 6)])
def test_commands_of_the_page_work(queued: Cluster, tmp_path: Path, page: str, fewest: int) -> None:
    for name in ("configs", "workflow", "profiles", "slurm"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "Snakefile", tmp_path)
    commands = [NEEDS_SNAKEMAKE_TO_STAY.sub(r"\1 --dry-run --quiet", command) for command in commands_of(page)]
    # what the page stops and shows is there
    job = queued.ask("sbatch", "--parsable", "--wrap=true", cwd=tmp_path)
    commands = [STOPS_A_JOB.sub(rf"\1 {job}", command) for command in commands]
    (tmp_path / "results" / "comparison").mkdir(parents=True)
    for digest in load_cells(tmp_path / "configs" / "digits.yaml"):
        log = tmp_path / "results" / "digits" / "logs" / digest / "try-1.log"
        log.parent.mkdir(parents=True)
        log.touch()
    assert len(commands) >= fewest
    for command in commands:
        queued.ask("bash", "-c", f"source slurm/env.sh; {command}", cwd=tmp_path)
    submitted = [command for command in commands if command.startswith(("sbatch ", "ppfl submit "))]
    queued.ask("scancel", job)
    waiting = queued.ask("squeue", "--noheader", "--format=%T %r").splitlines()
    assert waiting == ["PENDING PartitionDown"] * len(submitted)
    told = queued.ask("ppfl", "status", "configs/digits.yaml", cwd=tmp_path)
    assert "PENDING (PartitionDown)" in told
