"""Steps, epochs and mini-batches of local training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ppfl.algorithms.fedavg import FedAvg
from ppfl.core.plugins import discover
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


def test_training_and_fine_tuning_see_other_orders() -> None:
    tuner = discover("ppfl.fine_tuners")["sgd"].model_validate({"name": "sgd", "lr": 0.1, "batch_size": 4})
    training = FedAvg.model_validate({"name": "fedavg", "lr": 0.1, "epochs": 1, "batch_size": 4})
    of_tuner = tuner.draws(PROBLEM.objective, 1, 0, 10)  # type: ignore[attr-defined]
    of_training = training.draws(PROBLEM.objective, 1, 0, 10)
    assert not of_tuner.keys() & of_training.keys()
    assert not torch.equal(next(iter(of_tuner.values())), next(iter(of_training.values())))
