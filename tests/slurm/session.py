"""The session of docs/cluster.md, performed on a Slurm of its own: `python -m tests.slurm.session [--write]`.

One run, one grid by Snakemake that is killed, and one pack, on two nodes; each is stopped and continued as the page
says. Prints what was typed and what came; --write puts it, with date and commit, into the page.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.slurm.cluster import Cluster, running_cluster

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "cluster.md"
PATIENCE_SECONDS = 900.0
RUN = """\
name: long
rounds: 20000
precision: float64
problem: {name: quadratic, generator: comparison, zeta: 1}
algorithm: {name: ffgg, lr: theory, fine_tuner: {name: conjugate_gradient, steps: 2, start: redraw}}
evaluate: {every: 100}
checkpoint: {every_seconds: 5}
"""
FILES = {
    "run.yaml": RUN,
    "grid.yaml": RUN.replace("long", "grid") + "grid: {problem.zeta: [0, 10], seed: [0, 1]}\n",
    # in chunks, as runs that are too large to be computed together, and slower for it
    "many.yaml": RUN.replace("long", "many").replace("20000", "2000")
    + "engine: {clients_per_chunk: 8}\ngrid: {seed: [0, 1, 2, 3, 4, 5]}\n",
    "my-workflow.yaml": "experiments: [grid.yaml]\nranks: 2\n",
}
SNAKEMAKE = "snakemake --workflow-profile profiles/slurm --configfile my-workflow.yaml --jobs 2"


@dataclass
class Session:
    """Commands typed in a folder, with what came, part by part."""

    cluster: Cluster
    folder: Path
    parts: dict[str, list[str]] = field(default_factory=dict)

    def part(self, name: str) -> None:
        """Begin a part."""
        self.parts[name] = []

    def say(self, line: str) -> None:
        """Write down a line, and show it."""
        line = line.rstrip().replace(str(self.folder), "~/project")
        next(reversed(self.parts.values())).append(line)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def type(self, command: str, *, fails: bool = False, last_lines: int | None = None) -> str:
        """Run a command to its end, write down both, and return what came."""
        self.say(f"$ {command}")
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.cluster.environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE_SECONDS,
        )  # fmt: skip
        assert fails or done.returncode == 0, done.stdout
        lines = done.stdout.strip("\n").splitlines()
        for line in lines[-last_lines:] if last_lines else lines:
            self.say(line)
        return done.stdout.strip()

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Return the condition's value when it is true; nothing is written down."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (value := condition()):
            assert time.monotonic() < deadline, f"still waiting for {what}"
            time.sleep(0.5)
        return value

    def status(self, config: str) -> dict[str, Any]:
        """Return what `ppfl status` knows; nothing is written down."""
        found: dict[str, Any] = json.loads(self.cluster.ask("ppfl", "status", config, "--json", cwd=self.folder))
        return found

    def rounds(self, config: str, more_than: int, runs: int = 1) -> list[str]:
        """Return the jobs of the runs that are beyond a round, once there are so many of them."""

        def beyond() -> list[str]:
            all_runs = self.status(config)["runs"]
            assert any(run["state"] != "complete" for run in all_runs), f"{config} has ended unseen: more rounds"
            found = [run for run in all_runs if run["state"] == "running"]
            jobs = [str(run["job"]) for run in found if run.get("round", 0) > more_than]
            return jobs if len(jobs) >= runs else []

        jobs: list[str] = self.wait(beyond, f"rounds of {config}")
        return jobs

    def has_left(self, job: str) -> None:
        """Return when a job has left the queue."""
        gone = ("COMPLETED", "FAILED", "CANCELLED", "OUT_OF_MEMORY")
        self.wait(lambda: self.cluster.state(job) in gone, f"the end of job {job}")


def one_run(session: Session) -> None:
    """Submit, stop, submit again."""
    session.part("run")
    submit = "ppfl submit run.yaml --cpu --ranks 2 --nodes 2 --time 10"
    session.type("cat run.yaml")
    job = session.type(submit)
    session.rounds("run.yaml", 300)
    session.type("squeue --me")
    session.type("ppfl status run.yaml")
    session.type(f"ppfl stop {job}")
    session.has_left(job)
    session.type("ppfl status run.yaml")
    job = session.type(submit)
    session.has_left(job)
    session.type(f"tail -n 3 ppfl-{job}.log")


def grid_by_snakemake(session: Session) -> None:
    """Stop a job, kill Snakemake, start it again."""
    session.part("grid")
    session.type("cat my-workflow.yaml")
    session.say(f"$ {SNAKEMAKE} &")
    with subprocess.Popen(
        SNAKEMAKE.split(), cwd=session.folder, env=session.cluster.environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as snakemake:  # fmt: skip
        try:
            jobs = session.rounds("grid.yaml", 100, runs=2)
            session.type("ppfl status grid.yaml")
            session.type(f"ppfl stop {jobs[0]}")
            session.has_left(jobs[0])
        finally:
            session.say("$ kill -9 %1")
            snakemake.kill()
    session.type("ppfl status grid.yaml")
    for job in session.cluster.ask("squeue", "--me", "--noheader", "--format=%A").split():
        session.has_left(job)
    session.say("# start again")
    session.type(f"{SNAKEMAKE} --unlock")
    session.type(SNAKEMAKE, fails=True, last_lines=3)
    session.type("ppfl status grid.yaml")
    session.type("ppfl collect grid.yaml --out grid.h5")
    session.type("ppfl table grid.h5 --metric operator_norm")


def one_pack(session: Session) -> None:
    """All runs of a grid in one job; stop, submit again."""
    session.part("pack")
    submit = "ppfl submit many.yaml --cpu --ranks 2 --nodes 2 --time 10"
    job = session.type(submit)
    session.rounds("many.yaml", 100, runs=2)
    session.type("ppfl status many.yaml")
    session.type(f"ppfl stop {job}")
    session.has_left(job)
    session.type("ppfl status many.yaml")
    job = session.type(submit)
    session.has_left(job)
    session.type(f"tail -n 2 ppfl-{job}.log")
    session.type("ppfl status many.yaml")


@contextmanager
def started() -> Iterator[Session]:
    """Begin a session in a copy of the project, on a cluster of two nodes."""
    with running_cluster() as cluster, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("configs", "workflow", "profiles", "slurm"):
            shutil.copytree(ROOT / part, folder / part)
        shutil.copy(ROOT / "Snakefile", folder)
        for file, text in FILES.items():
            (folder / file).write_text(text)
        cluster.environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
        cluster.ask("scontrol", "update", "nodename=n[2-3]", "state=drain", "reason=session")
        yield Session(cluster, folder)


def write(parts: dict[str, list[str]], page: Path) -> None:
    """Put the parts into the blocks of a page that are marked for them, and date and commit into its first line."""
    text = page.read_text(encoding="utf-8")
    for name, lines in parts.items():
        block = re.compile(rf"(<!-- session: {name} -->\n```console\n).*?(```\n)", re.DOTALL)
        content = "\n".join(lines) + "\n"
        text, count = block.subn(lambda match, content=content: match[1] + content + match[2], text)  # type: ignore[misc]
        assert count == 1, name
    git = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    when = f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}"
    text, count = re.subn(r"(?<=<!-- session: when -->).*?(?=<!-- -->)", when, text)
    assert count == 1
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Perform the session."""
    with started() as session:
        for part in (one_run, grid_by_snakemake, one_pack):
            part(session)
    if "--write" in sys.argv[1:]:
        write(session.parts, PAGE)


if __name__ == "__main__":
    main()
