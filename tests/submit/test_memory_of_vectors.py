"""What a rank needs where the server looks at each vector that clients send."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ppfl.config.run import validate
from ppfl.submit.memory import memory_mb

MEDIAN: dict[str, Any] = {"aggregator": {"name": "median"}}
BUFFER: dict[str, Any] = {"asynchronous": {"engine": "messages", "buffer": 25}}
FLIP: dict[str, Any] = {"attack": {"name": "sign_flip"}, "clients": 5}
WIDTH = 20_000


def needed(ranks: int = 1, algorithm: str = "fedavg", **sections: Any) -> int:
    partition = {"name": "iid", "clients": 40}
    problem = {
        "name": "supervised", "dataset": {"name": "digits", "partition": partition}, "batch_size": 4,
        "model": {"name": "mlp", "hidden": [WIDTH]}, "split": {"local": []},
    }  # fmt: skip
    method = {"name": algorithm, "lr": 0.1, "epochs": 1, **({"penalty": 0.5} if algorithm == "pfedgraph" else {})}
    document = {"name": "x", "rounds": 60, "problem": problem, "algorithm": method, **sections}
    found = memory_mb([validate(document, Path(), "x")], ranks, gpus=False)
    assert found is not None
    return found


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize(
    ("sections", "num_vectors"),
    [
        (MEDIAN, 40),
        ({**MEDIAN, "cohort": 12}, 12),
        ({**MEDIAN, **BUFFER}, 25),
        ({**BUFFER, "byzantine": {**FLIP, "placement": "beside"}}, 30),
        ({"byzantine": FLIP}, 40),
        ({"byzantine": {"attack": {"name": "label_flip"}, "clients": 5}}, 0),
        (BUFFER, 0),
    ],
)
def test_a_rank_has_its_columns_of_what_is_looked_at(sections: dict[str, Any], num_vectors: int, ranks: int) -> None:
    """Twice, in float32, and a quarter more to be on the safe side; estimates are rounded to 50 MiB."""
    of_vector = 4 * (64 * WIDTH + WIDTH + 10 * WIDTH + 10) / 2**20
    more = needed(ranks, **sections) - needed(ranks)
    assert abs(more - 1.25 * 2 * num_vectors * of_vector / ranks) < 50


def test_a_mixture_looks_at_all_of_a_cohort() -> None:
    assert needed(algorithm="pfedgraph") > needed() + 400
