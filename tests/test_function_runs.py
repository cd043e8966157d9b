"""Runs on the samples that a function returns: its calls, the digest, other processes, ranks and packs."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.errors import ConfigError
from ppfl.config.grid import load_cells
from ppfl.config.run import load
from ppfl.datasets import _calls
from ppfl.jobs.attempt import Caller
from ppfl.results.reader import open_result
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from ppfl.submit.memory import memory_mb
from tests.grids import ppfl
from tests.mpi.jobs import arrays
from tests.ranks import on_ranks

DATA = """\
import os
from pathlib import Path

import numpy as np
from .helpers import image

print("imported")


def build(clients, scale=1.0):
    print("called")
    with Path(__file__).with_name("calls").open("a") as file:
        file.write(f"{clients} ")
    draw = np.random.default_rng(0)
    return [(scale * image(draw, 20 + n), draw.integers(0, 3, 20 + n)) for n in range(clients)]


def of_a_file():
    x = np.load(Path(__file__).with_name("a.npy"))
    return {"a": (x, np.arange(len(x)) % 2), "b": (x[:2], [0, 1])}


def of_the_process():
    return [(np.full((9, 2), float(os.getpid())), np.arange(9) % 2)] * 2


def of_the_call():
    number = Path(__file__).with_name("number")
    number.write_text(str(int(number.read_text()) + 1 if number.exists() else 0))
    return [(np.full((9, 2), float(number.read_text())), np.arange(9) % 2)] * 2


def texts():
    ids = np.random.default_rng(0).integers(1, 9, (4, 12, 6))
    return [(of_client[:, :-1], of_client[:, 1:]) for of_client in ids]
"""
HELPERS = "def image(draw, size):\n    return draw.random((size, 4, 4))\n"
DOCUMENT: dict[str, Any] = {
    "name": "own", "rounds": 4, "precision": "float64",
    "problem": {
        "name": "supervised", "dataset": {"name": "function", "from": "my_data:build", "arguments": {"clients": 4}},
        "model": {"name": "mlp", "hidden": [5]}, "split": {"local": ["head.*"]}, "batch_size": 8,
    },
    "algorithm": {"name": "ffgg", "lr": 0.1, "fine_tuner": {"name": "sgd", "lr": 0.1, "batch_size": 4}},
    "evaluate": {"every": 2}, "save": {"local": True},
}  # fmt: skip
GRID = {"seed": [0, 1], "problem.dataset.arguments.clients": [3, 4]}


@pytest.fixture(autouse=True)
def _as_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_calls, "_hashes", {})
    monkeypatch.setattr(_calls, "_kept", {})


def written(folder: Path, grid: dict[str, Any] | None = None, **dataset: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "my_data.py").write_text(DATA, encoding="utf-8")
    (folder / "helpers.py").write_text(HELPERS, encoding="utf-8")
    document = DOCUMENT | ({"grid": grid} if grid else {})
    if dataset:
        document |= {"problem": DOCUMENT["problem"] | {"dataset": {"name": "function", **dataset}}}
    (folder / "own.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder / "own.yaml"


def calls(folder: Path) -> list[str]:
    """Return the arguments of all calls of `build` so far."""
    return (folder / "calls").read_text().split() if (folder / "calls").exists() else []


def test_a_process_calls_it_once_for_the_same_arguments(tmp_path: Path) -> None:
    path = written(tmp_path, GRID)
    cells = load_cells(path)
    for number, cell in enumerate(cells.values()):
        run(cell.config, tmp_path / f"{number}.h5", Silent(), SoloCommunicator())
    assert load_cells(path).keys() == cells.keys()
    assert sorted(calls(tmp_path)) == ["3", "4"]


def test_arrays_of_earlier_calls_are_forgotten_where_they_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_calls, "MOST_KEPT_BYTES", 5 * 20 * 16 * 8)
    path = written(tmp_path, GRID)
    cells = load_cells(path)
    for number, cell in enumerate(cells.values()):
        run(cell.config, tmp_path / f"{number}.h5", Silent(), SoloCommunicator())
    assert len(calls(tmp_path)) > 2
    assert len(_calls._kept) == 1
    assert load_cells(path).keys() == cells.keys()


def test_an_array_changes_the_digest_and_the_place_of_the_file_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = []
    for number, x in enumerate((np.ones((6, 2)), np.ones((6, 2)), np.ones((6, 2), np.float32), np.ones((3, 4)), None)):
        folder = tmp_path / str(number)
        path = written(folder, **{"from": "my_data:of_a_file"})
        np.save(folder / "a.npy", np.ones((6, 2)) if x is None else x)
        if x is None:
            (folder / "helpers.py").write_text(HELPERS + "# another file\n", encoding="utf-8")
        digests.append(load(path).digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4
    path = tmp_path / "0" / "own.yaml"
    for section in ("test=0.3", "validation=0.3", "arguments={}"):
        changed = load(path, [f"problem.dataset.{section}"]).digest != digests[0]
        assert changed == (section != "arguments={}")
    np.save(tmp_path / "0" / "a.npy", np.zeros((6, 2)))
    assert load(path).digest == digests[0]
    forget(monkeypatch)
    assert load(path).digest != digests[0]


def test_the_full_text_is_the_same_run(tmp_path: Path) -> None:
    config = load(written(tmp_path))
    (tmp_path / "again.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert "returned" not in config.to_yaml()
    assert load(tmp_path / "again.yaml").digest == config.digest
    assert config.model_copy().digest == config.digest


def in_another_process(config: Any, folder: Path) -> str:
    """Return the digest and what a process that was sent the configuration says of its first client."""
    (folder / "config.bin").write_bytes(pickle.dumps(config))
    script = (
        "import pickle, sys, torch; from ppfl.comm.solo import SoloCommunicator;"
        "from ppfl.interfaces.placement import Placement; from ppfl.core.errors import UserError\n"
        "config = pickle.load(open(sys.argv[1], 'rb'))\n"
        "here = Placement(SoloCommunicator(), 0, 0, torch.float64, torch.device('cpu'))\n"
        "try: found = config.problem.dataset.load(here, 1).samples[0].train.x.sum()\n"
        "except UserError as error: found = error\n"
        "print(config.digest, found)"
    )
    command = [sys.executable, "-c", script, str(folder / "config.bin")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_another_process_has_the_file_as_it_was_read_and_calls_it_again(tmp_path: Path) -> None:
    config = load(written(tmp_path))
    for name in ("my_data.py", "helpers.py"):
        (tmp_path / name).unlink()
    digest, total = in_another_process(config, tmp_path).split()
    assert digest == config.digest
    assert 0 < float(total) < 23 * 16
    assert calls(tmp_path) == ["4", "4"]


def test_another_process_must_get_the_same_arrays(tmp_path: Path) -> None:
    config = load(written(tmp_path, **{"from": "my_data:of_the_process"}))
    said = in_another_process(config, tmp_path)
    assert said.startswith(f"{config.digest} problem.dataset.from: ")
    assert "of_the_process: returns other arrays than when it was called before; allowed: the same for the same" in said


def test_a_call_that_is_made_again_must_return_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, **{"from": "my_data:of_the_call"})
    digest = load(path).digest
    assert load(path).digest == digest
    monkeypatch.setattr(_calls, "_kept", {})
    with pytest.raises(ConfigError, match="of_the_call: returns other arrays than when it was called before"):
        load(path)


@pytest.mark.parametrize("chunk", [1, 2])
def test_same_bits_on_ranks(tmp_path: Path, chunk: int) -> None:
    config = load(written(tmp_path), [f"engine.clients_per_chunk={chunk}"])
    run(config, tmp_path / "1.h5", Silent(), SoloCommunicator())
    assert on_ranks(2, lambda rank: run(config, tmp_path / "2.h5", Silent(), rank)) == ["complete"] * 2
    assert arrays(tmp_path / "1.h5") == arrays(tmp_path / "2.h5")


def test_a_run_goes_on(tmp_path: Path) -> None:
    path = written(tmp_path)
    run(load(path), tmp_path / "whole.h5", Silent(), SoloCommunicator())
    rounds: list[int] = []
    stops = Caller(wants_stop=lambda: len(rounds) > 2, told=rounds.append)
    assert run(load(path), tmp_path / "half.h5", Silent(), SoloCommunicator(), caller=stops) == "stopped"
    assert run(load(path), tmp_path / "half.h5", Silent(), SoloCommunicator()) == "complete"
    assert arrays(tmp_path / "half.h5") == arrays(tmp_path / "whole.h5")


def test_tokens_are_trained_on(tmp_path: Path) -> None:
    path = written(tmp_path, **{"from": "my_data:texts", "vocabulary": 9})
    of_tokens = Path(__file__).parent / "examples" / "tokens"
    changes = [f"plugins=['{of_tokens}']", "problem.model={name: tiny_tokens}", "problem.task={name: next_token}"]
    assert run(load(path, changes), tmp_path / "r.h5", Silent(), SoloCommunicator()) == "complete"
    assert np.isfinite(open_result(tmp_path / "r.h5").rounds["loss"]).all()


def test_what_a_function_prints_is_no_output_of_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = ppfl("grid", written(tmp_path), "--json")
    (cell,) = json.loads(done.stdout)
    assert cell["digest"] == load(tmp_path / "own.yaml").digest
    assert "imported\ncalled\n" in done.stderr


def test_the_run_of_a_grid_that_is_wrong_is_named(tmp_path: Path) -> None:
    done = ppfl("grid", written(tmp_path, {"problem.dataset.arguments.clients": [3, 0]}))
    assert done.exit_code == 2
    assert "problem.dataset.from: wrong value (given 'my_data:build'); allowed: a function that" in done.stderr
    assert "build: returned no client; allowed: at least one [in the run with problem.dataset.arguments.clients=0]" in (
        done.stderr
    )


def test_what_it_takes_nobody_estimates(tmp_path: Path) -> None:
    config = load(written(tmp_path))
    digits = ["problem.dataset={name: digits, partition: {name: iid, clients: 4}}"]
    assert memory_mb([load(tmp_path / "own.yaml", digits)], 1, gpus=False) is not None
    assert memory_mb([config], 1, gpus=False) is None


@pytest.mark.slow
def test_packed_runs_have_the_bytes_of_single_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, GRID)
    for digest in load_cells(path):
        assert ppfl("run", path, "--cell", digest, "--out", f"alone/{digest}.h5").exit_code == 0
    command = [sys.executable, "-m", "ppfl", "pack", path, "--out", "packed"]
    packed = subprocess.run(command, capture_output=True, text=True)
    assert packed.returncode == 0, packed.stderr
    alone, together = ({one.name: arrays(one) for one in Path(name).glob("*.h5")} for name in ("alone", "packed"))
    assert len(alone) == 4
    assert alone == together


@pytest.mark.mpi
def test_a_rank_with_other_arrays_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, **{"from": "my_data:of_the_process"})
    ranks = [str(Path(sys.executable).with_name("mpiexec")), "-n", "2", sys.executable, "-m", "mpi4py"]
    command = [*ranks, "-m", "ppfl", "run", path, "--out", tmp_path / "r.h5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert "of_the_process: returns other arrays on rank 1 than on rank 0; allowed: the same for the same" in line
