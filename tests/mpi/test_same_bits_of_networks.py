"""Networks, splits, tasks and stages that start from one another: byte-identical on 1, 2 and 3 MPI ranks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from tests.examples import published
from tests.mpi.test_same_bits import start_ranks
from tests.mpi.test_same_bits import test_parameters_are_byte_identical as parameters_are_byte_identical
from tests.mpi.test_same_bits import test_result_arrays_are_byte_identical as result_arrays_are_byte_identical

pytestmark = [pytest.mark.mpi, pytest.mark.slow]

TINY = Path(__file__).parents[2] / "configs" / "tiny"
SHAKESPEARE = Path(os.environ.get("PPFL_DATA", "")) / "shakespeare40_train.h5"
RANK_COUNTS = (1, 2, 3)
SGD = {"name": "sgd", "lr": 0.1, "batch_size": 4}
FFGG = {"name": "ffgg", "lr": 0.1, "fine_tuner": SGD}
FEDALT = {"name": "fedalt", "lr": 0.1, "epochs": 1, "batch_size": 4, "fine_tuner": SGD}
OWN = {"local": ["*adapter*", "*norm*"]}
WORDS = {"name": "text_hdf5", "unit": "words", "train": "stackoverflow_train.h5", "words": 40, "length": 6}
CHARACTERS = {"name": "text_hdf5", "unit": "characters", "train": "snippets.h5", "length": 8}
TRANSFORMER = {"name": "transformer", "width": 8, "layers": 1, "heads": 2, "feed_forward": 8}


def stage(name: str, number: str, algorithm: dict[str, Any], **problem: Any) -> dict[str, Any]:
    """Return a stage of a tiny pipeline, with a choice made for what its grid varies."""
    document = yaml.safe_load((TINY / name / f"{number}.yaml").read_text())
    document.pop("grid", None)
    document.pop("start", None)
    return {**document, "algorithm": algorithm, "problem": {**document["problem"], **problem}}


def model(name: str, **settings: Any) -> dict[str, Any]:
    document = yaml.safe_load((TINY / name / "pretrain.yaml").read_text())
    return {**document["problem"]["model"], **settings}


def run(dataset: dict[str, Any], model: dict[str, Any], local: list[str], **others: Any) -> dict[str, Any]:
    problem = {"name": "supervised", "dataset": dataset, "model": model, "split": {"local": local}, "batch_size": "all"}
    problem |= others.pop("problem", {})
    return {"problem": problem, "algorithm": FFGG, "cohort": 3, "evaluate": {"every": 2}, **others}


NEXT = {"task": {"name": "next_token"}}
FEDAVG = {"name": "fedavg", "lr": 0.1, "epochs": 1, "batch_size": 4}
CASES: dict[str, dict[str, Any]] = {
    "femnist-pretrain": stage("femnist", "pretrain", FEDAVG),
    "femnist-adapters": {
        **stage(
            "femnist", "personalize", FEDALT, model=model("femnist", adapters=True),
            split={"local": ["*adapter*", "*bn1.*", "*bn2.*"]},
            training={"augmentation": {"crop": 2}, "clip_norm": 1.0},
        ),
        "start": {"result": "ranks-1/femnist-pretrain.h5", "new": ["*adapter*"]},
    },
    "gldv2-output": stage("gldv2", "personalize", FFGG, split={"local": ["fc.*"]}),
    "stackoverflow-pretrain": stage("stackoverflow", "pretrain", FEDAVG),
    "stackoverflow-adapters": {
        **stage("stackoverflow", "personalize", FFGG, split=OWN, model=model("stackoverflow", adapters=3)),
        "start": {"result": "ranks-1/stackoverflow-pretrain.h5", "new": ["*adapter*"]},
    },
    "stackoverflow-finetune": {
        **stage("stackoverflow", "finetune", FEDALT, split=OWN, model=model("stackoverflow", adapters=3)),
        "start": {"result": "ranks-1/stackoverflow-adapters.h5"},
    },
    "snippets-lstm": run(CHARACTERS, {"name": "lstm", "embedding": 3, "hidden": 5}, ["head.*"], problem=NEXT),
    "lora": run(
        CHARACTERS, {**TRANSFORMER, "dropout": 0.2}, ["*.lora_*"], algorithm=FEDALT,
        problem={
            **NEXT,
            "split": {
                "local": ["*.lora_*"], "frozen": ["layers.*.weight"],
                "lora": {"layers": ["layers.*.q_proj", "layers.*.linear1"], "rank": 2},
            },
            "training": {"clip_norm": 0.5, "weight_decay": 0.01},
        },
    ),
    "ranking": run(WORDS, TRANSFORMER, ["*norm*"], problem={"task": {"name": "ranking", "padding": 0, "at": [1, 3]}}),
    "newcomers": run(
        CHARACTERS, {"name": "lstm", "embedding": 3, "hidden": 5}, ["head.*"],
        problem=NEXT, evaluate={"every": 1, "newcomers": {"clients": 0.2, "in_rounds": True}},
    ),
    "phases": run(
        {"name": "digits", "partition": {"name": "iid", "clients": 5}}, {"name": "mlp", "hidden": [4]}, ["head.*"],
        problem={
            "phases": {"classes": [[0, 1, 2, 3], [4, 5, 6]], "rounds": 1}, "rehearsal": {"samples": 2},
            "batch_size": 16,
        },
    ),
    "regression": run(
        {"name": "federated_hdf5", "train": "numbers.h5"}, {"name": "mlp", "hidden": [4]}, ["head.*"],
        problem={"task": {"name": "regression"}},
    ),
}  # fmt: skip
if SHAKESPEARE.is_file():
    dataset = {"name": "text_hdf5", "unit": "characters", "train": str(SHAKESPEARE), "length": 80}
    evaluate = {"every": 1, "clients": 4, "tuned": None}
    CASES["shakespeare40"] = run(
        dataset, {**TRANSFORMER, "positions": 80}, ["*norm*"], problem=NEXT, rounds=1, evaluate=evaluate
    )


def write_files(folder: Path) -> None:
    draw = np.random.default_rng(0)
    published.write(folder)
    with h5py.File(folder / "snippets.h5", "w") as texts, h5py.File(folder / "numbers.h5", "w") as numbers:
        for client, size in enumerate((5, 9, 7, 12, 6)):
            lines = ["".join(draw.choice([*"abcdé .\n"], draw.integers(0, 40))) for _ in range(size)]
            texts.create_dataset(f"examples/c{client}/snippets", data=lines, dtype=h5py.string_dtype())
            x = draw.normal(size=(size, 5))
            numbers[f"examples/c{client}/pixels"] = x
            numbers[f"examples/c{client}/label"] = np.stack([x[:, 0] - x[:, 1], x[:, 2]], axis=1)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("same-bits-of-networks")
    write_files(folder)
    for name, case in CASES.items():
        config = {"seed": 3, "rounds": 2, "save": {"local": True}, **case, "name": name}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    for count in RANK_COUNTS:
        start_ranks(count, folder, CASES)
    return folder


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", RANK_COUNTS[1:])
@pytest.mark.parametrize("same", [result_arrays_are_byte_identical, parameters_are_byte_identical])
def test_results_are_byte_identical(
    results: Path, name: str, count: int, same: Callable[[Path, str, int], None]
) -> None:
    same(results, name, count)
