"""Clients whose samples share one way through the body: the sum over them equals the sum of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ppfl.core.params import add_scaled, zeros_like
from ppfl.engine.mapping.joint import Joint
from ppfl.engine.run import play_round
from ppfl.interfaces.client_data import Joined, join
from ppfl.networks import network as _network
from ppfl.networks import pieces
from tests.engine.build import engine, ffgg, scores
from tests.ranks import on_ranks
from tests.supervised_problems import CNN, CONFIG, INNER_SPLITS, PROBLEMS, SPLITS, close, make

CLIENTS = (0, 2, 3)
WEIGHTS = [1.0, 3.0, 0.5]
STEPS = {"name": "gradient_descent", "steps": 3, "lr": 0.2}
TOGETHER = {"clients_per_chunk": 3}
RUN: dict[str, Any] = {"problem": {**CONFIG}, "algorithm": ffgg(STEPS, 0.3), "rounds": 4}


@pytest.mark.slow
@pytest.mark.parametrize("keys", PROBLEMS, ids=str)
@pytest.mark.parametrize("limits", [(128, 1 << 30), (7, 1 << 30), (7, 1)], ids=str)
@pytest.mark.parametrize(("model", "local_globs"), SPLITS + INNER_SPLITS, ids=str)
def test_the_gradient_of_a_sum_is_the_sum_of_gradients(
    model: dict[str, Any], local_globs: list[str], limits: tuple[int, int], keys: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Clients of different sizes, cut into pieces that belong to two of them."""
    monkeypatch.setattr(pieces, "CPU", pieces.Pieces(*limits))
    problem = make({**keys, "model": model, "split": {"local": local_globs}, "batch_size": "all"})
    shared = problem.objective.init_shared()
    datas = [problem.client_data.data(client, 0) for client in CLIENTS]
    assert len({len(data["y"]) for data in datas}) > 1
    locals = [problem.objective.redraw_local(client, 1) for client in CLIENTS]
    wanted = zeros_like(shared)
    for local, data, weight in zip(locals, datas, WEIGHTS, strict=True):
        wanted = add_scaled(wanted, problem.objective.shared_gradient(shared, local, data), weight)
    once = problem.objective.joint_pass(shared, Joined(join(datas), [len(data["y"]) for data in datas]))
    for row, (local, data) in enumerate(zip(locals, datas, strict=True)):
        close(
            problem.objective.local_gradient(shared, local, {name: value[row] for name, value in once.data.items()}),
            problem.objective.local_gradient(shared, local, data),
        )
    tuned = {name: torch.stack([local[name] for local in locals]) for name in locals[0]}
    close(once.shared_gradient(tuned, torch.tensor(WEIGHTS, dtype=torch.float64)), wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"cohort": 2},
        {"weights": "samples"},
        {"weights": "samples", "cohort": 3, "problem": {**CONFIG, "batch_size": "all"}},
        {"problem": {**CONFIG, "model": CNN}, "server_optimizer": {"name": "momentum"}},
        {"problem": {**CONFIG, "split": {"local": ["*"]}}},
        {"problem": {**CONFIG, "split": {"local": []}}},
        {"problem": {**CONFIG, "name": "least_squares"}, "algorithm": ffgg({"name": "exact"}, 0.3)},
        {"algorithm": ffgg({"name": "sgd", "epochs": 1, "batch_size": 7, "lr": 0.2}, 0.3)},
        {"byzantine": {"attack": {"name": "label_flip"}, "clients": 2}},
        {"algorithm": ffgg({**STEPS, "lr_schedule": {"name": "linear"}}, 0.3) | {"lr_schedule": {"name": "cosine"}}},
    ],
    ids=str,
)
@pytest.mark.parametrize("clients_per_chunk", [2, 3, 5, 6])
def test_runs_equal_the_loop(sections: dict[str, Any], clients_per_chunk: int) -> None:
    """Also their costs; and clients outside of the cohort keep their w."""
    loop = scores(**{**RUN, **sections})
    sums = scores(**{**RUN, **sections}, engine={"clients_per_chunk": clients_per_chunk})
    assert len(loop) == len(sums) == 2
    for one, other in zip(loop, sums, strict=True):
        for name, value in one.metrics.items():
            assert other.metrics[name] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), name
        for name, cost in one.costs.items():
            assert "seconds" in name or other.costs[name] == pytest.approx(cost, rel=1e-12), name


def test_one_way_forth_and_back_for_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three clients of 20 samples go through the body as 60."""
    seen: list[int] = []
    prefix = _network.Network.prefix

    def noting(network: _network.Network, params: Any, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(len(x))
        return prefix(network, params, x, *rest)

    running = engine(**RUN, engine=TOGETHER)
    monkeypatch.setattr(_network.Network, "prefix", noting)
    play_round(running, 0)
    sizes = [min(20, size) for size in running.setup.problem.client_data.num_train_samples]
    assert seen == [sum(sizes[:3]), sum(sizes[3:])]


@pytest.mark.parametrize(
    "sections",
    [
        {"aggregator": {"name": "median"}},
        {"byzantine": {"attack": {"name": "sign_flip"}, "clients": 2}},
        {"algorithm": {"name": "fedper", "lr": 0.1, "local_steps": 1}},
    ],
    ids=str,
)
def test_single_uplinks_are_computed_where_they_are_needed(sections: dict[str, Any]) -> None:
    whole = {**CONFIG, "dataset": {**CONFIG["dataset"], "partition": {"name": "iid", "clients": 6}}}
    running = engine(**{**RUN, "problem": whole, **sections}, engine=TOGETHER)
    assert not isinstance(running.group.mapping, Joint)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("cohort", ["all", 3])
def test_ranks_have_the_bits_of_one_process(cohort: str | int, precision: str) -> None:
    run = {
        **RUN, "cohort": cohort, "precision": precision, "engine": {"clients_per_chunk": 2}, "weights": "samples",
        "problem": {**CONFIG, "model": {**CNN, "channels": [16, 16], "normalization": "none"}},
    }  # fmt: skip

    def theta(communicator: Any = None) -> bytes:
        running = engine(communicator, **run)
        list(running)
        return b"".join(value.numpy().tobytes() for value in running.server["shared"].values())

    alone = theta()
    for num_ranks in (2, 3):
        assert on_ranks(num_ranks, theta) == [alone] * num_ranks
