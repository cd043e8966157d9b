"""Rounds scored by what is minimized: f and its gradient over all training samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ppfl.config.errors import ConfigError
from tests.engine.build import config, engine, ffgg
from tests.ranks import on_ranks
from tests.supervised_problems import CONFIG

TUNER = {"name": "gradient_descent", "steps": 1, "lr": 0.1}
TRAINING = {"weight_decay": 0.1, "nonconvex_penalty": 0.2, "clip_norm": 0.01}


def going(communicator: Any = None, **sections: Any) -> Any:
    chosen = {
        "problem": {**CONFIG, "training": TRAINING, "batch_size": 4}, "algorithm": ffgg(TUNER, 0.3), "rounds": 2,
        "evaluate": {"every": 1, "objective": True},
    }  # fmt: skip
    return engine(communicator, **{**chosen, **sections})


@pytest.mark.parametrize("weights", ["uniform", "samples"])
def test_it_is_f_and_its_gradient_with_all_terms_on_all_samples(weights: str) -> None:
    ran = going(weights=weights)
    last = list(ran)[-1].metrics
    setup, data = ran.setup, ran.setup.problem.client_data
    share = torch.tensor(setup.client_weights, dtype=torch.float64)
    assert len(set(data.num_train_samples)) > 1
    share = share / share.sum()

    of_clients = [
        data.samples(client, "train", torch.arange(number)) for client, number in enumerate(data.num_train_samples)
    ]

    def f(shared: Any) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for client in range(data.num_clients):
            _, w = setup.algorithm.view(ran.server, ran.group.state(client))
            loss = setup.problem.objective.data_loss(shared, w, of_clients[client])
            for value in (*shared.values(), *w.values()):
                loss = loss + 0.05 * value.square().sum() + 0.2 * (value.square() / (1 + value.square())).sum()
            total = total + share[client] * loss
        return total

    gradient = torch.func.grad(f)(ran.server["shared"])
    wanted = sum(float(value.square().sum()) for value in gradient.values())
    assert last["objective"] == pytest.approx(float(f(ran.server["shared"])), rel=1e-12)
    assert last["squared_gradient_norm"] == pytest.approx(wanted, rel=1e-10)


def test_attackers_do_not_count_and_others_are_scored_as_before() -> None:
    attack = {"attack": {"name": "sign_flip"}, "clients": ["0"]}
    of_all, plain = going(), going(evaluate={"every": 1})
    without = next(iter(of_all)).metrics
    assert without.items() > next(iter(plain)).metrics.items()
    attacked = next(iter(going(byzantine=attack, aggregator={"name": "trimmed_mean", "f": 1}))).metrics
    assert attacked["objective"] != without["objective"]


def test_the_same_bits_on_any_number_of_ranks() -> None:
    alone = [scored.metrics["squared_gradient_norm"] for scored in going()]

    def of_rank(communicator: Any) -> list[float]:
        return [scored.metrics["squared_gradient_norm"] for scored in going(communicator)]

    assert on_ranks(3, of_rank) == [alone] * 3


def test_silent_unless_it_is_wanted_and_refused_without_samples() -> None:
    said, silent = (config(problem=CONFIG, algorithm=ffgg(TUNER, 0.1), evaluate=section)
                    for section in ({"objective": False}, {}))  # fmt: skip
    assert said.digest == silent.digest
    with pytest.raises(ConfigError, match="has no samples"):
        config(evaluate={"objective": True})
