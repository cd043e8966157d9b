"""Stages, statistics and cost counters against values worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.errors import UserError
from ppfl.engine.evaluate import STATISTICS, mean_over_clients, means_over_clients, score_stages, summarize
from ppfl.engine.setup import who_counts
from ppfl.results.reader import open_result
from ppfl.runs.experiment import run as run_to_file
from ppfl.runs.progress import Silent
from tests.engine.build import COMPARISON, EXACT, config, engine, ffgg
from tests.grids import ppfl
from tests.numpy_reference import best_local, loss, random_clients, write_clients
from tests.ranks import on_ranks
from tests.supervised_problems import CONFIG as DIGITS

SMALL: dict[str, Any] = {
    **COMPARISON, "clients": 3, "rows": 40, "shared_dimension": 6, "local_dimension": 4,
}  # fmt: skip
GD = {"name": "gradient_descent", "steps": 5, "lr": "theory"}


class Weighted:
    """As much of a set-up as statistics need."""

    def __init__(self, weights: tuple[int, ...], byzantine: frozenset[int] = frozenset()) -> None:
        self.problem = self.scores = self.roles = self
        self.byzantine = self.not_counted = byzantine
        self._weights = weights

    def metric_weights(self, metric: str) -> tuple[int, ...]:
        return self._weights

    def counting(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        return who_counts(self._weights, self.byzantine)


def test_statistics() -> None:
    values = np.array([0.0, 1.0, 0.5, np.nan])
    found = summarize(Weighted((1, 2, 5, 0)), "accuracy", values)  # type: ignore[arg-type]
    assert list(found) == list(STATISTICS)
    assert found["mean"] == pytest.approx(0.5)
    assert found["weighted_mean"] == pytest.approx((2 * 1.0 + 5 * 0.5) / 8)
    assert (found["q10"], found["q50"], found["q90"]) == pytest.approx((0.1, 0.5, 0.9))


@pytest.mark.parametrize("num_clients", [1, 2, 7, 8, 9, 31, 127, 128, 129, 1000])
def test_means_of_many_runs_have_the_bits_of_one(num_clients: int) -> None:
    draw = np.random.default_rng(num_clients)
    values = draw.standard_normal((5, num_clients)) * 10.0 ** draw.uniform(-9, 9, (5, num_clients))
    values[1, 0], values[2, -1] = np.nan, np.inf
    everyone = Weighted((3,) * num_clients)
    kinds = [
        [everyone] * 5,
        [everyone] * 4 + [Weighted((0,) * num_clients)],
        [Weighted((1,) * num_clients, frozenset({0}))] * 5,
    ]
    for setups in kinds:
        for layout in (values, np.asfortranarray(values)):
            found = means_over_clients(setups, "loss", layout)  # type: ignore[arg-type]
            wanted = [
                mean_over_clients(setup, "loss", row.copy())  # type: ignore[arg-type]
                for setup, row in zip(setups, values, strict=True)
            ]
            assert np.array(found).tobytes() == np.array(wanted).tobytes()


def test_a_client_with_samples_and_a_score_of_nan_is_not_hidden() -> None:
    found = summarize(Weighted((1, 1)), "loss", np.array([0.0, np.nan]))  # type: ignore[arg-type]
    assert np.isnan(found["mean"])


def test_byzantine_clients_do_not_count() -> None:
    found = summarize(Weighted((1, 1, 9), frozenset({2})), "loss", np.array([1.0, 2.0, 50.0]))  # type: ignore[arg-type]
    assert (found["mean"], found["weighted_mean"]) == (1.5, 1.5)


def test_no_client_with_samples_is_nan() -> None:
    assert np.isnan(list(summarize(Weighted((0, 0)), "loss", np.array([1.0, 2.0])).values())).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("num_clients", [1, 2, 3, 7, 8, 9, 64, 100, 1001])
def test_stages_summarized_at_once_have_the_bits_of_each(num_clients: int) -> None:
    draw = np.random.default_rng(num_clients)
    weights = Weighted(tuple(draw.integers(0, 4, num_clients)) if num_clients > 3 else (1,) * num_clients)
    values = np.exp(8 * draw.standard_normal((4, num_clients)))
    values[2, draw.integers(num_clients)] = np.nan
    values[3] = 1.0
    at_once = summarize(weights, "loss", values)  # type: ignore[arg-type]
    for number, of_one in enumerate(values):
        found = summarize(weights, "loss", of_one)  # type: ignore[arg-type]
        assert [values[number].tobytes() for values in at_once.values()] == [x.tobytes() for x in found.values()]


def test_stages_are_theta_with_initial_own_and_tuned_local_parameters(tmp_path: Path) -> None:
    clients = random_clients(3)
    problem = {"name": "quadratic", "file": str(write_clients(tmp_path / "p.h5", clients))}
    tuned = {"every": 100, "tuned": {"epochs": 1, "fine_tuner": EXACT}}
    run = engine(problem=problem, algorithm=ffgg({**GD, "steps": 1}, 0.1), rounds=3, evaluate=tuned)
    list(run)
    theta = run.server["shared"]["theta"].numpy()
    own = [run.group.state(client)["local"]["w"].numpy() for client in range(3)]
    assert all(np.linalg.norm(w) > 0 for w in own)
    found = score_stages([run])[0].scores
    zero = np.zeros_like(own[0])
    expected = {
        "global": [loss(client, theta, zero) for client in clients],
        "personal": [loss(client, theta, w) for client, w in zip(clients, own, strict=True)],
        "tuned": [loss(client, theta, best_local(client, theta)) for client in clients],
    }
    assert list(found) == list(expected)
    for stage, values in expected.items():
        assert found[stage]["loss"] == pytest.approx(np.array(values), rel=1e-9)  # type: ignore[index]
    assert (found["tuned"]["loss"] < found["personal"]["loss"]).all()


@pytest.mark.parametrize(
    ("tuner", "gradients"),
    [(EXACT, 0), (GD, 5), ({"name": "conjugate_gradient", "steps": 3}, 4), ({**GD, "steps": 1}, 1)],
    ids=["exact", "five steps", "cg", "one step"],
)
@pytest.mark.parametrize(("cohort", "size"), [("all", 3), (2, 2)])
def test_costs(tuner: dict[str, Any], gradients: int, cohort: Any, size: int) -> None:
    """4 rounds, D = 6 numbers of 8 bytes each way a client and round."""
    run = engine(problem=SMALL, algorithm=ffgg(tuner), rounds=4, cohort=cohort)
    costs = list(run)[-1].costs
    assert costs["shared_gradients"] == 4 * size
    assert costs["local_gradients"] == 4 * size * gradients
    assert costs["uplink_bytes"] == costs["downlink_bytes"] == 4 * size * 6 * 8
    assert costs["seconds"] > costs["communication_seconds"] > 0


@pytest.mark.parametrize(("local", "counted"), [([], (6, 0)), (["*"], (0, 30)), (["w"], (6, 30))])
def test_gradients_of_nothing_are_not_counted(local: list[str], counted: tuple[int, int]) -> None:
    run = engine(problem={**SMALL, "split": {"local": local}}, algorithm=ffgg(GD), rounds=2)
    costs = list(run)[-1].costs
    assert (costs["shared_gradients"], costs["local_gradients"]) == counted


def test_unequal_weights_on_a_quadratic_are_refused(tmp_path: Path) -> None:
    """Its θ*, ‖F‖ and legal steps are those of the unweighted mean."""
    clients = random_clients(3)
    clients[0] = {**random_clients(1, rows=30)[0]}
    problem = {"name": "quadratic", "file": str(write_clients(tmp_path / "p.h5", clients))}
    with pytest.raises(UserError, match="weights: samples"):
        engine(problem=problem, algorithm=ffgg(EXACT, 0.1), weights="samples")


def test_the_servers_lr_does_not_slip_past_the_bound_of_theory() -> None:
    with pytest.raises(UserError, match="must diverge"):
        engine(problem=SMALL, algorithm=ffgg(EXACT), server_optimizer={"name": "sgd", "lr": 5.0})


@pytest.mark.parametrize(
    ("tuner", "a_call"),
    [
        ({"name": "gradient_descent", "steps": 2, "lr": 0.1}, 2),
        ({"name": "sgd", "lr": 0.1, "batch_size": 5, "epochs": 3}, 3),
        ({"name": "lbfgs", "steps": 1}, 2 + 11 / 3),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("name", ["fedbabu", "fedavg"])
def test_the_training_of_the_final_stage_is_counted(name: str, tuner: dict[str, Any], a_call: float) -> None:
    """Every batch of every epoch is a call of the fine-tuner; of whole models, where nothing is local. On all ranks."""
    is_whole = name == "fedavg"
    problem = {**DIGITS, "batch_size": 40, "split": {"local": [] if is_whole else ["head.*"]}}
    tuned: dict[str, Any] = {"epochs": 2, "fine_tuner": tuner}
    algorithm = {"name": name, "lr": 0.1, "epochs": 1, **({} if is_whole else {"fine_tuner": tuner})}

    def costs(communicator: Any) -> Any:
        running = engine(
            communicator, problem=problem, algorithm=algorithm, rounds=1, evaluate={"every": 1, "tuned": tuned}
        )
        list(running)
        return score_stages([running])[0].costs, running.setup.problem.client_data.num_train_samples

    found, sizes = on_ranks(1, costs)[0]
    num_calls = 2 * sum(-(-size // 40) for size in sizes)
    assert num_calls > 2 * len(sizes)
    counted = {stage: (cost.shared_gradients, cost.local_gradients) for stage, cost in found.items()}
    assert counted["global"] == counted["personal"] == (0, 0)
    assert counted["tuned"][1 - is_whole] == pytest.approx(num_calls * a_call, rel=1e-6)
    assert counted["tuned"][is_whole] == 0
    assert found["tuned"].seconds > found["personal"].seconds == 0
    for one, _ in on_ranks(3, costs):
        assert {stage: (cost.shared_gradients, cost.local_gradients) for stage, cost in one.items()} == counted


def test_costs_of_stages_are_in_the_result_and_shown(tmp_path: Path) -> None:
    tuned = {"epochs": 3, "fine_tuner": {**GD, "steps": 4}}
    document = config(problem=SMALL, algorithm=ffgg(EXACT), rounds=2, evaluate={"every": 1, "tuned": tuned})
    run_to_file(document, tmp_path / "r.h5", Silent(), SoloCommunicator())
    stages = open_result(tmp_path / "r.h5").stages
    assert stages.stage.to_numpy().tolist() == ["global", "personal", "tuned"]
    assert stages.local_gradients.to_numpy().tolist() == [0, 0, 3 * 3 * 4]
    assert stages.shared_gradients.to_numpy().tolist() == [0, 0, 0]
    assert float(stages.seconds[-1]) > 0
    shown = ppfl("show", tmp_path / "r.h5").output
    assert "Training for a stage" in shown
    row = next(line for line in shown.split("Training for a stage")[1].splitlines() if "tuned" in line)
    assert " 36 " in row
