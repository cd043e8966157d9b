"""Snakemake from configurations to the report, on tiny experiments."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import yaml

from ppfl.analysis.sources import results_at
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.grid import load_cells
from ppfl.config.run import load
from ppfl.jobs.attempt import Caller
from ppfl.jobs.states import state_of
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent

ROOT = Path(__file__).parent.parent.parent
TINY = ROOT / "configs" / "test" / "workflow.yaml"

pytestmark = pytest.mark.workflow


def snakemake(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    project = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command = [sys.executable, "-m", "snakemake", *project, *arguments]
    # a bare PATH: the rules find ppfl and mpiexec where Snakemake runs, also when nothing was activated
    environment = os.environ | {"PATH": "/usr/local/bin:/usr/bin:/bin"} | variables
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workflow")
    done = snakemake(folder, "--cores", "2", "--configfile", str(TINY))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "results"


def test_every_cell_has_a_complete_result_of_two_ranks(finished: Path) -> None:
    for name in ("quadratic", "digits"):
        for digest in load_cells(ROOT / "configs" / "test" / f"{name}.yaml"):
            with h5py.File(finished / f"tiny_{name}" / f"{digest}.h5") as file:
                assert file.attrs["digest"] == digest
                assert file.attrs["complete"] == 1
                assert file["provenance"].attrs["num_ranks"] == 2


def test_every_run_has_a_log_beside_the_results(finished: Path) -> None:
    for digest in load_cells(ROOT / "configs" / "test" / "quadratic.yaml"):
        log = finished / "tiny_quadratic" / "logs" / digest / "try-1.log"
        assert "2 rank(s)" in log.read_text(encoding="utf-8")


def test_a_diverging_run_is_a_result(finished: Path) -> None:
    statuses = sorted(run.status for run in results_at(sorted((finished / "tiny_quadratic").glob("*.h5"))).outlines)
    assert statuses == ["complete", "diverged"]


def test_each_experiment_is_drawn_and_reported(finished: Path) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    for name in ("tiny_quadratic", "tiny_digits"):
        assert (finished / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f'<section id="{name}">' in text
    for status, count in (("complete", 2), ("diverged", 1)):
        assert len(re.findall(rf'<tr class="{status}">', text)) == count


def test_a_second_run_has_nothing_to_do(finished: Path) -> None:
    done = snakemake(finished.parent, "--cores", "1", "--configfile", str(TINY))
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr


def test_only_what_is_missing_is_done_again(finished: Path) -> None:
    (lost, *_) = sorted((finished / "tiny_quadratic").glob("*.h5"))
    kept = {path: path.stat().st_mtime_ns for path in finished.glob("*/*.h5") if path != lost}
    lost.unlink()
    done = snakemake(finished.parent, "--cores", "2", "--configfile", str(TINY))
    assert done.returncode == 0, done.stdout + done.stderr
    assert lost.exists()
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_what_a_run_by_hand_has_left_goes_on_and_what_it_has_finished_stays(tmp_path: Path) -> None:
    """Also when the job that was planned before fails."""
    grid = tmp_path / "grid.yaml"
    base = yaml.safe_load((ROOT / "configs" / "test" / "quadratic.yaml").read_text(encoding="utf-8"))
    grid.write_text(yaml.safe_dump({key: value for key, value in base.items() if key != "grid"} | {"name": "hand"}))
    (digest,) = load_cells(grid)
    (tmp_path / "workflow.yaml").write_text(yaml.safe_dump({"experiments": [str(grid)], "ranks": 1}))
    out = tmp_path / "results" / "hand" / f"{digest}.h5"
    stopped = Caller(wants_stop=lambda: True)
    assert run(load(grid), out, Silent(), SoloCommunicator(), caller=stopped) == "stopped"
    assert out.exists()
    target = f"results/hand/{digest}.h5"
    done = snakemake(tmp_path, target, "--cores", "1", "--configfile", str(tmp_path / "workflow.yaml"))
    log = (tmp_path / "logs" / "hand" / f"{digest}.log").read_text(encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr + log
    assert "goes on at round" in log
    inode, content = out.stat().st_ino, out.read_bytes()
    assert state_of(out).kind == "done"
    forced = [target, "--forcerun", "experiment", "--cores", "1", "--configfile", str(tmp_path / "workflow.yaml")]
    assert snakemake(tmp_path, *forced).returncode == 0
    assert (out.stat().st_ino, out.read_bytes()) == (inode, content)  # Snakemake dates it anew
    assert snakemake(tmp_path, *forced, "--set-resources", "experiment:launcher=false").returncode != 0
    assert out.read_bytes() == content


def test_experiments_of_many_small_runs_are_packed(tmp_path: Path) -> None:
    """Parts of a grid are jobs of one process each; a lost marker makes nothing computed again."""
    grid = tmp_path / "many.yaml"
    base = yaml.safe_load((ROOT / "configs" / "test" / "quadratic.yaml").read_text(encoding="utf-8"))
    grid.write_text(yaml.safe_dump(base | {"name": "many", "grid": {"seed": list(range(5))}}))
    packed = tmp_path / "workflow.yaml"
    packed.write_text(yaml.safe_dump({"experiments": [str(grid)], "packs": {"experiments": ["many"], "runs": 3}}))
    done = snakemake(tmp_path, "--cores", "2", "--configfile", str(packed))
    assert done.returncode == 0, done.stdout + done.stderr
    results = {path: path.stat().st_mtime_ns for path in (tmp_path / "results" / "many").glob("*.h5")}
    assert {path.stem for path in results} == set(load_cells(grid))
    markers = sorted((tmp_path / "results" / "many" / "packs").iterdir())
    assert [marker.name for marker in markers] == ["1-of-2.done", "2-of-2.done"]
    assert "many" in (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    with h5py.File(next(iter(results))) as file:
        assert file["provenance"].attrs["num_ranks"] == 1
    markers[0].unlink()
    done = snakemake(tmp_path, "--cores", "2", "--configfile", str(packed))
    assert done.returncode == 0, done.stdout + done.stderr
    assert results == {path: path.stat().st_mtime_ns for path in results}


@pytest.mark.parametrize(("code", "starts"), [(76, 1), (75, 2)])
def test_a_pack_that_was_stopped_on_request_is_not_started_again(tmp_path: Path, code: int, starts: int) -> None:
    """By the retries of the rule; the next start of Snakemake does. A function of the shell stands for the pack."""
    packed = tmp_path / "workflow.yaml"
    packs = {"experiments": ["tiny_quadratic"], "restarts": 1}
    packed.write_text(yaml.safe_dump({"experiments": ["configs/test/quadratic.yaml"], "packs": packs}))
    pack = {"BASH_FUNC_python%%": f"() {{ echo started >> {tmp_path}/starts; return {code}; }}"}
    command = ("results/tiny_quadratic/packs/1-of-1.done", "--cores", "1", "--configfile", str(packed))
    for number in (1, 2):
        assert snakemake(tmp_path, *command, **pack).returncode == 1
        assert (tmp_path / "starts").read_text().count("started") == number * starts


def test_lint_is_clean(tmp_path: Path) -> None:
    done = snakemake(tmp_path, "--lint")
    assert done.returncode == 0, done.stdout + done.stderr


def test_snakefiles_are_small() -> None:
    workflow = ROOT / "workflow"
    for path in [ROOT / "Snakefile", *workflow.rglob("*.smk"), *(workflow / "scripts").glob("*.py")]:
        limit = 20 if path.suffix == ".py" else 60
        assert len(path.read_text(encoding="utf-8").splitlines()) <= limit, path


@pytest.mark.parametrize(
    "change", [{"ranks": 0}, {"rank": 2}, {"experiments": []}, {"packs": {"experiments": ["nobody"]}}]
)
def test_a_wrong_workflow_configuration_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    wrong = tmp_path / "workflow.yaml"
    wrong.write_text(yaml.safe_dump(yaml.safe_load(TINY.read_text(encoding="utf-8")) | change))
    done = snakemake(tmp_path, "--cores", "1", "--dry-run", "--configfile", str(wrong))
    assert done.returncode != 0
    assert next(iter(change)) in done.stdout + done.stderr


def test_two_experiments_of_one_name_are_refused(tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_text((ROOT / "configs" / "test" / "digits.yaml").read_text(encoding="utf-8"))
    both = tmp_path / "workflow.yaml"
    both.write_text(yaml.safe_dump({"experiments": ["configs/test/digits.yaml", str(copy)]}))
    done = snakemake(tmp_path, "--cores", "1", "--dry-run", "--configfile", str(both))
    assert done.returncode != 0
    assert "both named 'tiny_digits'" in done.stdout + done.stderr


def test_a_project_may_lie_in_a_path_with_spaces_and_dollars(tmp_path: Path) -> None:
    """Runs, figures and the report come about by Python and files below such a path."""
    project = tmp_path / "my $p 'x [a]"
    project.mkdir()
    for name in ("Snakefile", "workflow", "slurm"):
        (project / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "configs", project / "configs")
    (project / "python").symlink_to(sys.prefix)
    one = yaml.safe_load((ROOT / "configs" / "test" / "quadratic.yaml").read_text(encoding="utf-8"))
    (project / "one.yaml").write_text(yaml.safe_dump(one | {"rounds": 1, "grid": {"seed": [0]}}))
    (project / "workflow.yaml").write_text(yaml.safe_dump({"experiments": [str(project / "one.yaml")], "ranks": 1}))
    command = [
        project / "python" / "bin" / "python",
        "-m",
        "snakemake",
        "--cores",
        "1",
        "--configfile",
        "workflow.yaml",
    ]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "results" / "report.html").exists()
