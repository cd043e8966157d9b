"""`ppfl submit`: the text of jobs, and what is refused before Slurm sees it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ppfl.cli import main
from ppfl.config.run import load
from ppfl.submit.cluster import num_gpus, seconds
from tests.outside.sources import project

ROOT = Path(__file__).parent.parent.parent
GOLDEN = Path(__file__).parent / "golden"
SINFO = """\
main*|1-00:00:00|2|16|gpu:a100:4(S:0-1)|64000
main*|1-00:00:00|6|64|(null)|128000
gpu|infinite|1|8|gpu:2|1
"""
TINY = """
name: tiny
rounds: 4
problem: {name: quadratic, generator: comparison, zeta: 1}
algorithm: {name: ffgg, lr: theory, fine_tuner: {name: exact}}
engine: {device: cuda}
"""
FILE = TINY.replace("generator: comparison, zeta: 1", "file: data.h5")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder: files of a project, and in bin/ a Slurm that has the partitions above."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ppfl.submit.command.torch_without_gpus", lambda: "")
    for variable in ("SBATCH_PARTITION", "SBATCH_ACCOUNT", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_NODE"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    (tmp_path / "run.yaml").write_text(TINY)
    (tmp_path / "grid.yaml").write_text(TINY + "grid: {problem.zeta: [0, 10]}\n")
    (tmp_path / "bin").mkdir()
    program("sinfo", f"cat <<'END'\n{SINFO}END")
    program("sbatch", 'echo "$@" > sbatch.arguments; env > sbatch.environment; cat > sbatch.script; echo "12;cluster"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def program(name: str, text: str) -> None:
    path = Path("bin", name)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def submit(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["submit", *arguments], catch_exceptions=False)


JOBS = {
    "one_gpu": ["run.yaml"],
    "four_ranks_on_cpus": ["run.yaml", "--cpu", "--ranks", "4", "--nodes", "2", "--cpus-per-rank", "3"],
    "all_gpus_of_two_nodes": ["run.yaml", "--nodes", "2", "--gpus-per-node", "4", "--time", "12:00:00"],
    "two_ranks_a_gpu": ["run.yaml", "--gpus-per-node", "4", "--ranks-per-gpu", "2", "--partition", "main"],
    "one_run_of_a_grid": ["grid.yaml", "--cell", "f", "--set", "rounds=5", "--set", "seed=3", "--account", "x"],
    "packed_grid": ["grid.yaml", "--cpu", "--ranks", "40"],
    "array": ["grid.yaml", "--array", "2", "--ranks", "4"],
}


@pytest.mark.parametrize("name", JOBS)
def test_text_of_jobs(folder: Path, name: str) -> None:
    arguments = list(JOBS[name])
    if name == "one_run_of_a_grid":
        arguments[2] = digest_of_second_run()
    done = submit(*arguments, "--dry-run")
    assert (done.exit_code, done.stderr) == (0, "")
    text = done.stdout.replace(str(ROOT / "slurm"), "/project/slurm")
    path = GOLDEN / f"{name}.sbatch"
    if os.environ.get("PPFL_WRITE_GOLDEN") == "1":
        path.write_text(text)
    assert text == path.read_text()
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=False).returncode == 0


def test_logs_of_jobs_are_ignored_by_git() -> None:
    names = [
        re.sub("%.", "12", name)
        for path in (ROOT / "slurm").glob("*.sbatch")
        for name in re.findall(r"^#SBATCH --output=(.+)$", path.read_text(), re.MULTILINE)
    ]
    assert len(names) == len(list((ROOT / "slurm").glob("*.sbatch")))
    patterns = (ROOT / ".gitignore").read_text().split()
    for name in [*names, "ppfl-12_3.log"]:
        assert any(fnmatch(f"/{name}", pattern) for pattern in patterns), name


def digest_of_second_run() -> str:
    from ppfl.config.grid import load_cells

    return list(load_cells("grid.yaml", ["rounds=5", "seed=3"]))[1]


def test_what_is_submitted_is_what_a_dry_run_prints(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "gpu")
    monkeypatch.setenv("SBATCH_ACCOUNT", "ours")
    monkeypatch.setenv("SBATCH_MEM_PER_CPU", "4G")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    text = submit("run.yaml", "--dry-run").stdout
    done = submit("run.yaml")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "12\n", "")
    assert (folder / "sbatch.script").read_text() == text
    assert "#SBATCH --partition=gpu\n#SBATCH --account=ours\n" in text
    # sbatch prefers its environment to the script, which is to win; what it does not say stays
    environment = (folder / "sbatch.environment").read_text()
    assert re.findall(r"^SBATCH_\w+=.*", environment, re.MULTILINE) == ["SBATCH_MEM_PER_CPU=4G"]
    assert "#SBATCH --partition=main\n" in submit("run.yaml", "--partition", "main", "--dry-run").stdout


def test_env_sh_names_partition_and_account(folder: Path) -> None:
    (folder / "slurm").unlink()
    (folder / "slurm").mkdir()
    for name in ("run.sbatch", "grid.sbatch", "continue.sh"):
        (folder / "slurm" / name).write_text((ROOT / "slurm" / name).read_text())
    (folder / "slurm" / "env.sh").write_text("echo loading\nexport SBATCH_PARTITION=gpu SBATCH_ACCOUNT=theirs\n")
    text = submit("run.yaml", "--dry-run").stdout
    assert "#SBATCH --partition=gpu\n#SBATCH --account=theirs\n" in text
    assert f"PPFL_SLURM={folder / 'slurm'}\n" in text


def test_an_env_sh_that_fails_is_named(folder: Path) -> None:
    (folder / "slurm").unlink()
    (folder / "slurm").mkdir()
    (folder / "slurm" / "run.sbatch").write_text("")
    (folder / "slurm" / "env.sh").write_text("module load python/9.9\n")
    done = submit("run.yaml", "--dry-run")
    assert done.exit_code == 2
    assert "slurm/env.sh: " in done.stderr
    assert "module: command not found" in done.stderr


def test_elsewhere_the_scripts_that_ppfl_came_with_are_taken(folder: Path) -> None:
    (folder / "slurm").unlink()
    assert f"PPFL_SLURM={ROOT / 'slurm'}\n" in submit("run.yaml", "--dry-run").stdout


def test_a_configuration_for_the_cpu_asks_for_no_gpu(folder: Path) -> None:
    assert "gpu" not in submit("run.yaml", "--set", "engine.device=cpu", "--dry-run").stdout


def test_a_gpu_for_problems_of_statistics_is_told_to_be_in_vain(folder: Path) -> None:
    words = "GPUs are asked for, and the job would compute on the CPU: engine.device is cpu, or auto with a problem of"
    of_statistics = ["run.yaml", "--dry-run", "--set", "engine.device=auto"]
    assert words in submit(*of_statistics).stderr
    assert submit(*of_statistics, "--cpu").stderr == submit("run.yaml", "--dry-run").stderr == ""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--mem", "2G"], "#SBATCH --mem-per-cpu=2048M"),
        (["--mem", "900"], "#SBATCH --mem-per-cpu=900M"),
        (["--mem", "1000M", "--cpus-per-rank", "3"], "#SBATCH --mem-per-cpu=334M"),  # of a rank, rounded up
    ],
)
def test_memory_is_asked_for_as_it_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str
) -> None:
    monkeypatch.setenv("SBATCH_MEM_PER_CPU", "1G")
    monkeypatch.setenv("SBATCH_MEM_PER_NODE", "1G")
    done = submit("run.yaml", "--cpu", *arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    assert line in (folder / "sbatch.script").read_text().splitlines()
    assert "SBATCH_MEM" not in (folder / "sbatch.environment").read_text()


def test_memory_is_estimated_where_nobody_says_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = submit("run.yaml", "--cpu", "--dry-run").stdout
    assert int(re.findall(r"--mem-per-cpu=(\d+)M", text)[0]) > 300
    # a larger problem needs more, and less of it where more ranks share it
    large = ["run.yaml", "--cpu", "--dry-run", "--set", "problem.shared_dimension=3000"]
    sizes = [re.findall(r"--mem-per-cpu=(\d+)M", submit(*large, "--ranks", ranks).stdout) for ranks in ("1", "8")]
    assert int(sizes[0][0]) > int(sizes[1][0]) > 1000
    # a site that says what a CPU gets is heeded, and contradicted when it is too little
    monkeypatch.setenv("SBATCH_MEM_PER_CPU", "256M")
    done = submit("run.yaml", "--cpu", "--dry-run")
    assert "mem-per-cpu" not in done.stdout
    assert "SBATCH_MEM_PER_CPU=256M: a rank needs about" in done.stderr
    monkeypatch.setenv("SBATCH_MEM_PER_CPU", "4G")
    assert submit("run.yaml", "--cpu", "--dry-run").stderr == ""
    # where Slurm does not count memory it would refuse the job
    monkeypatch.delenv("SBATCH_MEM_PER_CPU")
    assert "--mem" not in submit("run.yaml", "--cpu", "--partition", "gpu", "--dry-run").stdout


def test_a_data_file_that_tells_nothing_leaves_the_memory_to_slurm(folder: Path) -> None:
    (folder / "data.h5").write_bytes(b"no HDF5 at all")
    model = "{name: supervised, dataset: {name: federated_hdf5, train: data.h5}, model: {name: mlp}, "
    text = TINY.replace(
        "{name: quadratic, generator: comparison, zeta: 1}", model + "split: {local: []}, batch_size: 1}"
    )
    (folder / "data.yaml").write_text(
        text.replace("lr: theory, fine_tuner: {name: exact}", "lr: 0.1, local_steps: 1").replace("ffgg", "fedavg")
    )
    done = submit("data.yaml", "--cpu", "--dry-run")
    assert (done.exit_code, "--mem" in done.stdout) == (0, False), done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--ranks", "9", "--cpu"], "--ranks 9: tiny has 8 clients in 8 chunk(s), and every rank needs one; at most"),
        (["--ranks", "5", "--set", "engine.clients_per_chunk=2"], "at most --ranks 4"),
        (["--gpus-per-node", "5"], "5 GPU(s) a node: nodes of partition main have 4; at most --gpus-per-node 4"),
        (["--nodes", "3", "--gpus-per-node", "1"], "3 nodes: partition main has 2 that fit; at most --nodes 2"),
        (["--nodes", "8", "--gpus-per-node", "1", "--ranks", "8", "--cpus-per-rank", "17"], "have 16 CPUs; fewer"),
        (["--partition", "gpu", "--ranks", "3"], "room for 2, each with 1 CPU(s) and a GPU; at most 2"),
        (["--cpu", "--cpus-per-rank", "65"], "65 CPU(s) each: nodes of partition main have 64 CPUs; fewer"),
        (["--cpu", "--cpus-per-rank", "60", "--ranks", "7"], "room for 6, each with 60 CPU(s); at most 6"),
        (["--time", "25:00:00"], "--time 25:00:00: partition main ends jobs after 1-00:00:00; ask for at most that"),
        (["--time", "soon"], "--time soon: allowed: minutes, hours:minutes:seconds or"),
        (["--partition", "mian"], "--partition mian: no such partition; allowed: main, gpu"),
        (["--cpu", "--gpus-per-node", "1"], "--cpu: not with --gpus-per-node"),
        (["--nodes", "2", "--ranks", "1"], "--nodes 2: only 1 rank(s)"),
        (["--nodes", "1", "--gpus-per-node", "2", "--ranks", "3"], "take 2 with 1 rank(s) a GPU; at most 2, or more"),
        (["--array", "2"], "--array: for grids alone"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_remedy(folder: Path, arguments: list[str], complaint: str) -> None:
    done = submit("run.yaml", *arguments)
    assert done.exit_code == 2, done.stdout
    assert done.stderr.startswith("ppfl: error: ")
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "sbatch.script").exists()


@pytest.mark.parametrize("file", ["run.yaml", "grid.yaml"])
@pytest.mark.parametrize("options", [["--dry-run"], []])
def test_what_cannot_work_with_so_many_clients_is_refused(folder: Path, file: str, options: list[str]) -> None:
    done = submit(file, "--cpu", "--set", "aggregator={name: krum, f: 10}", *options)
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"ppfl: error: {file}: aggregator: krum needs N >= 2f + 3 with f = 10")
    assert "there are 8" in line
    assert not (folder / "sbatch.script").exists()


def test_a_partition_without_gpus_names_the_remedy(folder: Path) -> None:
    program("sinfo", "echo 'cpu*|infinite|2|16|(null)'")
    assert "have none; add --cpu" in submit("run.yaml").stderr
    assert submit("run.yaml", "--cpu").stdout == "12\n"


def test_the_default_time_has_to_fit_too(folder: Path) -> None:
    program("sinfo", "echo 'short*|10:00|2|16|gpu:1'")
    assert "--time 01:00:00: partition short ends jobs after 10:00" in submit("run.yaml").stderr
    assert submit("run.yaml", "--time", "10").stdout == "12\n"


def test_clients_that_only_a_data_file_knows_are_left_to_the_run(folder: Path) -> None:
    (folder / "data.h5").write_bytes(b"")
    (folder / "file.yaml").write_text(FILE)
    assert submit("file.yaml", "--ranks", "60", "--cpu").exit_code == 0


def test_runs_with_plug_ins_of_a_folder_are_submitted_like_others(folder: Path) -> None:
    digest = load(project(folder)).digest
    done = submit("run.yaml", "--cpu", "--dry-run")
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"#SBATCH --comment=ppfl:outside:{digest}\n" in done.stdout
    assert "set -- run.yaml\n" in done.stdout
    (folder / "rules" / "aggregators" / "smallest.py").write_text("import no_such_thing")
    refused = submit("run.yaml", "--cpu", "--dry-run")
    assert (refused.exit_code, "smallest.py: line 1: No module named 'no_such_thing'" in refused.stderr) == (2, True)


def test_packed_runs_do_not_limit_the_ranks_but_an_array_does(folder: Path) -> None:
    assert submit("grid.yaml", "--ranks", "20", "--cpu").exit_code == 0
    assert "at most --ranks 8" in submit("grid.yaml", "--ranks", "20", "--cpu", "--array", "2").stderr


def test_a_slurm_that_does_not_answer_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program("sinfo", "echo 'sinfo: error: Unable to contact slurm controller' >&2; exit 1")
    done = submit("run.yaml")
    assert (done.exit_code, "Unable to contact slurm controller" in done.stderr) == (2, True)
    dry = submit("run.yaml", "--dry-run")
    assert (dry.exit_code, "ppfl: not checked whether this fits" in dry.stderr) == (0, True)
    program("sinfo", "exec sleep 60")
    monkeypatch.setattr("ppfl.jobs.slurm.TIMEOUT_SECONDS", 0.2)
    assert "Slurm does not answer: sinfo said nothing" in submit("run.yaml").stderr
    Path("bin", "sinfo").unlink()
    Path("bin", "bash").symlink_to(str(shutil.which("bash")))
    monkeypatch.setenv("PATH", str(folder / "bin"))
    assert "sinfo: not found; submit from a login node" in submit("run.yaml").stderr


def test_a_refusal_by_sbatch_is_passed_on(folder: Path) -> None:
    program("sbatch", "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1")
    done = submit("run.yaml")
    assert (done.exit_code, "Invalid account" in done.stderr, done.stdout) == (2, True, "")


def test_times_and_gpus_are_read_as_slurm_writes_them() -> None:
    assert [seconds(text) for text in ("30", "30:00", "1:00:00", "1-00:00:00", "2-1", "2-1:30")] == [
        1800, 1800, 3600, 86400, 176400, 178200,
    ]  # fmt: skip
    assert seconds("infinite") == float("inf")
    texts = ("(null)", "gpu:2", "gpu:a100:4(S:0-1)", "gpu:a100:4,gpu:v100:2", "lustre:1,gpu:3", "gpus:7")
    assert [num_gpus(text) for text in texts] == [0, 2, 4, 6, 3, 0]
