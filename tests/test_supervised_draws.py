"""What the classification problem draws: batches, epochs, initial values."""

from __future__ import annotations

import math

import numpy as np
import torch

from ppfl.core.types import Data
from tests.supervised_problems import make

torch.set_num_threads(1)


def rows_of(data: Data) -> set[bytes]:
    return {row.numpy().tobytes() for row in data["x"]}


def test_batches_are_drawn_without_replacement_and_by_key() -> None:
    problem, everything = make(), make({"batch_size": "all"})
    assert not problem.client_data.fixed_data
    assert everything.client_data.fixed_data
    for client in range(6):
        data = problem.client_data.data(client, 0)
        size = min(20, problem.client_data.num_train_samples[client])
        assert data["x"].shape == (size, 1, 8, 8)
        assert data["x"].dtype == torch.float64
        assert data["y"].dtype == torch.int64
        assert len(rows_of(data)) == size
        assert rows_of(data) <= rows_of(everything.client_data.data(client, 0))
        assert 0 <= float(data["x"].min()) <= float(data["x"].max()) <= 1
    client = int(np.argmax(problem.client_data.num_train_samples))
    same, other_round, other_seed = (
        problem.client_data.data(client, 0),
        problem.client_data.data(client, 1),
        make(seed=1),
    )
    assert torch.equal(same["x"], make().client_data.data(client, 0)["x"])
    assert not torch.equal(same["x"], other_round["x"])
    assert not torch.equal(
        problem.objective.init_shared()["hidden1.weight"], other_seed.objective.init_shared()["hidden1.weight"]
    )
    whole = everything.client_data.data(client, 0)
    assert len(whole["y"]) == everything.client_data.num_train_samples[client]
    assert torch.equal(whole["x"], everything.client_data.data(client, 7)["x"])
    assert torch.equal(whole["x"], make({"batch_size": 10**6}).client_data.data(client, 0)["x"])


def test_batches_are_fresh_memory() -> None:
    problem = make({"batch_size": "all"})
    first = problem.client_data.data(0, 0)
    assert all(value.is_contiguous() and value.storage_offset() == 0 for value in first.values())
    kept = {name: value.clone() for name, value in first.items()}
    for value in first.values():
        value.zero_()
    assert all(torch.equal(problem.client_data.data(0, 0)[name], value) for name, value in kept.items())


def test_training_epoch_covers_every_sample_once() -> None:
    problem, everything = make(), make({"batch_size": "all"})
    for client in range(6):
        batches = problem.client_data.training_epoch(client, 0)
        assert [len(b["y"]) for b in batches[:-1]] == [20] * (len(batches) - 1)
        assert sum(len(b["y"]) for b in batches) == problem.client_data.num_train_samples[client]
        assert set().union(*map(rows_of, batches)) == rows_of(everything.client_data.data(client, 0))
    one, again, other = (problem.client_data.training_epoch(0, epoch)[0]["x"] for epoch in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert len(everything.client_data.training_epoch(0, 0)) == 1


def test_initial_values() -> None:
    problem = make()
    shared, local = problem.objective.init_shared(), problem.objective.init_local(0)
    assert list(shared) == ["hidden1.weight", "hidden1.bias", "hidden2.weight", "hidden2.bias"]
    assert list(local) == ["head.weight", "head.bias"]
    assert all(torch.equal(value, problem.objective.init_local(5)[name]) for name, value in local.items())
    all_shared = make({"split": {"local": []}}).objective.init_shared()
    assert all(torch.equal(all_shared[name], value) for name, value in {**shared, **local}.items())
    shared["hidden1.weight"].zero_()
    assert problem.objective.init_shared()["hidden1.weight"].abs().max() > 0


def test_parameters_of_one_shape_are_drawn_apart() -> None:
    problem = make({"model": {"name": "mlp", "hidden": [6, 6, 6]}})
    for params in (problem.objective.init_shared(), make({"split": {"local": ["*"]}}).objective.redraw_local(0, 0)):
        scaled = [value.flatten()[:6] * value.abs().max() ** -1 for value in params.values()]
        assert all(not torch.allclose(scaled[a], scaled[b], atol=0.1) for a in range(len(scaled)) for b in range(a))


def test_redrawn_values_differ_by_round_and_client() -> None:
    problem = make()
    draws = [
        problem.objective.init_local(0),
        *(problem.objective.redraw_local(m, k) for m in range(2) for k in range(2)),
    ]
    assert torch.equal(problem.objective.redraw_local(1, 1)["head.weight"], draws[-1]["head.weight"])
    for a in range(5):
        assert float(draws[a]["head.weight"].abs().max()) <= 1 / math.sqrt(7)
        for b in range(a):
            assert not torch.equal(draws[a]["head.weight"], draws[b]["head.weight"])
