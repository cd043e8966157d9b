"""Every reader, every partition of files and every shift: the same bytes on 1, 2 and 3 MPI ranks, and in a pack."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from ppfl.catalogue.index import find, names
from ppfl.catalogue.tiny import make_tiny
from ppfl.config.grid import load_cells
from ppfl.datasets._flatten import flatten
from ppfl.pack import cells
from ppfl.pack.run_queue import ONE_RANK
from ppfl.results.reader import open_result
from tests import examples
from tests.mpi.jobs import MPIEXEC, arrays

pytestmark = [pytest.mark.mpi, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("PPFL_DATA", ""))
RANK_COUNTS = (1, 2, 3)
SEEDS = (0, 1)
SGD = {"name": "sgd", "lr": 0.1, "batch_size": 8}
IMAGES: dict[str, Any] = {
    "model": {"name": "mlp", "hidden": [8]},
    "split": {"local": ["head.bias"]},
    "batch_size": 8,
}
TEXTS: dict[str, Any] = {
    "model": {"name": "transformer", "width": 8, "heads": 2, "feed_forward": 8, "layers": 1, "positions": 80},
    "task": {"name": "next_token"},
    "split": {"local": ["layers.0.linear2.*"]},
    "batch_size": 8,
}
STUDIES = ("femnist", "gldv2", "stackoverflow")
"""Those of Pillutla et al., whose rules the configurations have."""


@dataclass(frozen=True)
class Case:
    """A data set, and where its files come from: the folder of a tiny set, of an example, or PPFL_DATA."""

    section: dict[str, Any]
    tiny: str = ""
    example: str = ""
    needs: tuple[str, ...] = ()
    """Files of PPFL_DATA."""

    @property
    def problem(self) -> dict[str, Any]:
        of_kind = TEXTS if self.section["name"] in ("text_hdf5", "merchants") else IMAGES
        # the same samples for all seeds, so that runs of a pack share them
        return {"name": "supervised", "dataset": self.section, "seed": 0, **of_kind}

    @property
    def folder(self) -> str:
        return self.tiny or (f"example_{self.example}" if self.example else "others")


def of_study(name: str) -> dict[str, Any]:
    """Return the data set of its configuration, whose limits are those of the made-up files."""
    document = yaml.safe_load((ROOT / "configs" / "tiny" / name / "pretrain.yaml").read_text(encoding="utf-8"))
    section: dict[str, Any] = document["problem"]["dataset"]
    return section


def section_of(name: str) -> dict[str, Any]:
    section: dict[str, Any] = yaml.safe_load(find(name).section)
    return section


def partitioned(data_set: str, **partition: Any) -> dict[str, Any]:
    return section_of(data_set) | {"partition": partition}


WITH_FILES = sorted(examples.names_of_files("datasets") - {"digits"})
PARQUET = {**examples.section("datasets", "table"), "train": "train.parquet", "test": 0.2, "standardize": True}
CASES: dict[str, Case] = {
    **{f"tiny_{name}": Case(section_of(name), tiny=name) for name in names() if name not in STUDIES},
    **{f"study_{name}": Case(of_study(name), tiny=name) for name in STUDIES},
    **{f"reader_{name}": Case(examples.section("datasets", name), example=name) for name in WITH_FILES},
    "coarse_labels": Case(section_of("fed_cifar100") | {"label": "coarse_label"}, tiny="fed_cifar100"),
    "flat": Case(
        {"name": "federated_hdf5", "train": "flat.h5", "clients": {"first": 5},
         "normalize": {"mean": [0.5], "std": [2]}},
        tiny="femnist",
    ),
    "parquet": Case(PARQUET, example="table"),
    "by_label": Case(partitioned("mnist", name="label_quantity", clients=5, labels_per_client=3), tiny="mnist"),
    "by_size": Case(partitioned("mnist", name="by_size", clients=4, sizes="log_normal"), tiny="mnist"),
    "rotated_digits": Case(
        {"name": "digits", "partition": {"name": "label_quantity", "clients": 9, "labels_per_client": 3},
         "shift": {"name": "rotation", "clusters": 4, "order": "drawn"}}
    ),
    "breast_cancer": Case({"name": "breast_cancer", "partition": {"name": "sorted", "clients": 9}}),
    "a9a": Case(
        {"name": "libsvm", "train": "a9a.svm.gz",
         "partition": {"name": "shards", "clients": 20, "shards_per_client": 1}},
        needs=("a9a.svm.gz",),
    ),
    "mnist20": Case(
        {"name": "federated_hdf5", "train": "mnist20_train.h5", "test": "mnist20_test.h5",
         "shift": {"name": "label_permutation", "clusters": 4}},
        needs=("mnist20_train.h5", "mnist20_test.h5"),
    ),
}  # fmt: skip
HERE = [name for name, case in CASES.items() if all((DATA / needed).is_file() for needed in case.needs)]


def test_every_reader_is_here() -> None:
    read = {case.section["name"] for case in CASES.values()}
    assert examples.names_of_files("datasets") <= read
    assert {*names()} == {case.tiny for case in CASES.values() if case.tiny}


@dataclass
class Done:
    """What was computed: of a case, a seed and a number of ranks the result; or of a case and a seed that of a pack."""

    results: Path
    grids: dict[str, Path] = field(default_factory=dict)

    def on_ranks(self, count: int, case: str, seed: int = 0) -> Path:
        return self.results / f"ranks-{count}" / f"{case}-{seed}.h5"

    def packed(self, case: str, seed: int) -> Path:
        return self.results / "packed" / f"{case}-{seed}.h5"


def configuration(name: str) -> dict[str, Any]:
    return {
        "name": name, "rounds": 3, "precision": "float32", "save": {"local": True}, "server_optimizer": {"name": "sgd"},
        "evaluate": {"every": 3, "samples": 50, "tuned": None}, "problem": CASES[name].problem,
        "algorithm": {"name": "ffgg", "lr": 0.1, "fine_tuner": SGD},
    }  # fmt: skip


def write_files(folder: Path) -> None:
    for name in names():
        make_tiny(name, folder)
    flatten(folder / "femnist" / "femnist_train.h5", folder / "femnist" / "flat.h5")
    for name in WITH_FILES:
        shutil.copytree(examples.files("datasets", name), folder / f"example_{name}")
    pd.read_csv(folder / "example_table" / "train.csv").to_parquet(folder / "example_table" / "train.parquet")
    (folder / "others").mkdir()


def write_yaml(path: Path, document: dict[str, Any]) -> Path:
    # as JSON, which makes lists of tuples, and is YAML
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("data")
    write_files(folder)
    found = Done(folder / "results")
    paths: dict[int, list[Path]] = {seed: [] for seed in SEEDS}
    for name in HERE:
        place = folder / CASES[name].folder
        for seed in SEEDS:
            paths[seed].append(write_yaml(place / f"{name}-{seed}.yaml", configuration(name) | {"seed": seed}))
        found.grids[name] = write_yaml(place / f"{name}.yaml", configuration(name) | {"grid": {"seed": [*SEEDS]}})
    for count in RANK_COUNTS:
        out = found.results / f"ranks-{count}"
        out.mkdir(parents=True)
        start = [MPIEXEC, "-n", str(count), sys.executable, "-m", "mpi4py", "-m", "tests.mpi.run_many", str(out)]
        which = [*paths[0], *(paths[1] if count == 1 else [])]
        ran = subprocess.run([*start, *map(str, which)], cwd=ROOT, text=True, capture_output=True, timeout=300)
        assert ran.returncode == 0, ran.stderr
    return found


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of what is not the same in two results, parameters of all clients included."""
    found, wanted = arrays(one), arrays(other)
    assert len(wanted) > 20
    assert found.keys() == wanted.keys()
    return [name for name, value in wanted.items() if found[name] != value]


@pytest.mark.parametrize("count", RANK_COUNTS[1:])
@pytest.mark.parametrize("case", CASES)
def test_ranks_change_no_byte(done: Done, case: str, count: int) -> None:
    if case not in HERE:
        pytest.skip(f"{case} NOT TESTED: set PPFL_DATA to the folder of {', '.join(CASES[case].needs)}")
    assert differences(done.on_ranks(count, case), done.on_ranks(1, case)) == []
    assert (
        open_result(done.on_ranks(count, case)).attrs["digest"] == open_result(done.on_ranks(1, case)).attrs["digest"]
    )


@pytest.mark.parametrize("case", CASES)
def test_packs_change_no_byte(done: Done, case: str) -> None:
    """Two seeds in one child, which reads the samples once."""
    if case not in HERE:
        pytest.skip(f"{case} NOT TESTED: set PPFL_DATA to the folder of {', '.join(CASES[case].needs)}")
    grid = load_cells(done.grids[case])
    seeds = {digest: cell.config.seed for digest, cell in grid.items()}
    given = [ONE_RANK.payload(cell, done.packed(case, seeds[digest])) for digest, cell in grid.items()]
    work = cells.make_work()
    answers = work(given)
    assert answers == ["complete"] * len(SEEDS)
    for seed in SEEDS:
        assert differences(done.packed(case, seed), done.on_ranks(1, case, seed)) == []


def test_the_comparison_sees_differences(done: Done) -> None:
    assert differences(done.on_ranks(1, "tiny_mnist", 0), done.on_ranks(1, "tiny_mnist", 1))
    assert differences(done.on_ranks(1, "tiny_emnist"), done.on_ranks(1, "tiny_emnist", 1))
