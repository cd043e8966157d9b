"""Steps, epochs and mini-batches of local training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ppfl.algorithms.fedavg import FedAvg
from ppfl.core.plugins import discover
from ppfl.core.rng import generator
from ppfl.engine.mapping.padding import stack_draws
from ppfl.interfaces.mini_batches import draw_rows
from tests.softmax_problem import softmax

PROBLEM = softmax()
NUM_SAMPLES = 10


def batches(round: int = 0, client: int = 1, **settings: Any) -> list[torch.Tensor]:
    """Return the x of every step on the data of a client, (B, 4) each."""
    algorithm = FedAvg.model_validate({"name": "fedavg", "lr": 0.1, **settings})
    draws = algorithm.draws(PROBLEM.objective, client, round, NUM_SAMPLES)
    return [batch["x"] for batch in algorithm.batches(PROBLEM.client_data.data(client, round), draws)]


def rows(batch: torch.Tensor) -> list[tuple[float, ...]]:
    return [tuple(row) for row in batch.tolist()]


ALL = sorted(rows(PROBLEM.client_data.data(1, 0)["x"]))


@pytest.mark.parametrize(
    ("settings", "sizes", "passes"),
    [
        ({"local_steps": 3}, [10] * 3, 3.0),
        ({"epochs": 2}, [10] * 2, 2.0),
        ({"epochs": 2, "batch_size": 4}, [4, 4, 2] * 2, 2.0),
        ({"epochs": 1, "batch_size": 20}, [10], 1.0),
        ({"local_steps": 2, "batch_size": 4}, [4, 4], 0.8),
        ({"local_steps": 5, "batch_size": 4}, [4, 4, 2, 4, 4], 1.8),
        ({"local_steps": 6, "batch_size": 4}, [4, 4, 2] * 2, 2.0),
    ],
)
def test_sizes_and_costs(settings: dict[str, Any], sizes: list[int], passes: float) -> None:
    assert [len(batch) for batch in batches(**settings)] == sizes
    algorithm = FedAvg.model_validate({"name": "fedavg", "lr": 0.1, **settings})
    draws = algorithm.draws(PROBLEM.objective, 1, 0, NUM_SAMPLES)
    assert algorithm.report(draws, of_shared=1) == {"shared_gradients": pytest.approx(passes), "local_gradients": 0.0}
    assert passes == pytest.approx(sum(sizes) / NUM_SAMPLES)


def test_an_epoch_sees_every_sample_once_in_a_new_order() -> None:
    found = batches(epochs=2, batch_size=4)
    epochs = [torch.cat(found[:3]), torch.cat(found[3:])]
    assert all(sorted(rows(epoch)) == ALL for epoch in epochs)
    assert not torch.equal(*epochs)


def test_orders_are_keyed_by_round_and_client() -> None:
    draw = FedAvg.model_validate({"name": "fedavg", "lr": 0.1, "epochs": 1, "batch_size": 4}).draws
    orders = [draw(PROBLEM.objective, client, round, 10) for client in range(2) for round in range(2)]
    assert len({draws["order of samples for training"].numpy().tobytes() for draws in orders}) == 4
    again = draw(PROBLEM.objective, 1, 1, 10)
    assert all(torch.equal(value, again[key]) for key, value in orders[-1].items())


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "num_steps", "shape"),
    [
        (10, 4, 6, (6, 4)),
        (10, 4, 5, (5, 4)),
        (10, 5, 3, (3, 5)),
        (3, 4, 2, (2, 3)),
        (4, 4, 1, (1, 4)),
        (0, 4, 2, (2, 0)),
    ],
    ids=str,
)
def test_samples_of_steps_are_those_of_whole_permutations(
    num_samples: int, batch_size: int, num_steps: int, shape: tuple[int, int]
) -> None:
    """Filled with −1 where an epoch ends with fewer."""
    found = draw_rows(PROBLEM.objective, "purpose", 2, 1, num_samples, batch_size, num_steps)
    draw = generator(PROBLEM.objective.seed, "purpose", round=1, client=2)
    steps: list[list[int]] = []
    while num_samples and len(steps) < num_steps:
        order = draw.permutation(num_samples).tolist()
        steps += [order[first : first + batch_size] for first in range(0, num_samples, batch_size)]
    filled = [step + [-1] * (shape[1] - len(step)) for step in steps[:num_steps]]
    assert found.shape == shape
    assert found.dtype == torch.int64
    assert found.tolist() == (filled or [[]] * num_steps)


@pytest.mark.parametrize("settings", [{"epochs": 3}, {"local_steps": 1}, {"local_steps": 7}], ids=str)
def test_clients_side_by_side_count_their_own_steps(settings: dict[str, Any]) -> None:
    """What is counted is exactly what the steps of each saw."""
    algorithm = FedAvg.model_validate({"name": "fedavg", "lr": 0.1, "batch_size": 4, **settings})
    sizes = [1, 3, 4, 7, 8, 20, 21]
    draws = [algorithm.draws(PROBLEM.objective, client, 0, size) for client, size in enumerate(sizes)]
    stacked = stack_draws(draws)
    steps, passes = (
        torch.func.vmap(lambda draw, of=of: torch.as_tensor(of(draw), dtype=torch.float64))(stacked)
        for of in (algorithm.num_steps, algorithm.num_passes)
    )
    for row, (size, draw) in enumerate(zip(sizes, draws, strict=True)):
        batches = [len(batch["x"]) for batch in algorithm.batches({"x": torch.zeros(size)}, draw)]
        assert steps[row] == algorithm.num_steps(draw) == len(batches)
        assert passes[row] == algorithm.num_passes(draw)
        assert passes[row] == pytest.approx(sum(batches) / size, rel=1e-12)


def test_training_and_fine_tuning_see_other_orders() -> None:
    tuner = discover("ppfl.fine_tuners")["sgd"].model_validate({"name": "sgd", "lr": 0.1, "batch_size": 4})
    training = FedAvg.model_validate({"name": "fedavg", "lr": 0.1, "epochs": 1, "batch_size": 4})
    of_tuner = tuner.draws(PROBLEM.objective, 1, 0, 10)  # type: ignore[attr-defined]
    of_training = training.draws(PROBLEM.objective, 1, 0, 10)
    assert not of_tuner.keys() & of_training.keys()
    assert not torch.equal(next(iter(of_tuner.values())), next(iter(of_training.values())))
