"""ρ of a split: exact on quadratics, unbiased on drawn batches, cut by groups, the same on any number of ranks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.diagnose import measure as measuring
from ppfl.diagnose.command import Plan, diagnose
from ppfl.diagnose.measure import NUM_BATCHES, gradient_pair, group_of, measure
from ppfl.diagnose.verdict import SAFE_BELOW, UNSAFE_ABOVE, Diagnosis, Ratio, level, ratio_of_means, show_ratio, verdict
from ppfl.runs.assemble import build
from ppfl.runs.progress import Silent
from tests.engine.build import COMPARISON, config, ffgg
from tests.ranks import on_ranks
from tests.softmax_problem import SoftmaxData, softmax

DIGITS: dict[str, Any] = {
    "name": "supervised",
    "dataset": {"name": "digits", "partition": {"name": "dirichlet", "clients": 5, "alpha": 0.3}},
    "model": {"name": "mlp", "hidden": [16]},
    "split": {"local": ["head.*"]},
    "batch_size": 16,
}
GD = {"name": "gradient_descent", "steps": 3, "lr": 0.3}


def diagnosed(communicator: Any = None, **sections: Any) -> Diagnosis:
    chosen = config(**sections)
    return diagnose(chosen, communicator or SoloCommunicator(), Silent(), Plan(Path("test.yaml"), (chosen,)))


def digits(local: list[str], rounds: int = 8, **sections: Any) -> dict[str, Any]:
    problem = {**DIGITS, "split": {"local": local}, **sections.pop("problem", {})}
    tuned = {"every": 1_000, "tuned": {"epochs": 2}}
    return {"problem": problem, "algorithm": ffgg(GD, 0.1), "rounds": rounds, "evaluate": tuned, **sections}


def test_scores_of_a_run_that_diverged_are_nan() -> None:
    """And not means over the clients whose logits are still numbers, or the share of class 0."""
    found = diagnosed(**digits(["head.*"], algorithm=ffgg(GD, 1e30), precision="float32"))
    assert found.status == "diverged"
    assert [math.isnan(score) for score in (found.test_accuracy, found.test_loss, found.gap)] == [True, True, True]


@pytest.mark.parametrize(("zeta", "precision"), [(0, "float64"), (1, "float32"), (10, "float64")])
def test_a_common_solution_is_told_from_own_ones(zeta: float, precision: str) -> None:
    """ρ < 1e-20 with a common θ*, > 0.3 without, and σ²(θ*) is what the problem itself says."""
    common = diagnosed(problem={**COMPARISON, "zeta": zeta, "targets": "common"}, precision=precision)
    own = diagnosed(problem={**COMPARISON, "zeta": zeta}, precision=precision)
    assert common.rho.value < 1e-20
    assert own.rho.value > 0.3
    assert (common.status, common.rho.standard_error, level(common.rho), level(own.rho)) == (
        "exact",
        0,
        "safe",
        "unsafe",
    )
    facts = build(config(problem={**COMPARISON, "zeta": zeta}), SoloCommunicator()).problem.theory.facts()
    assert own.rho.at_end == pytest.approx(facts["sigma_star_squared"], rel=1e-12)
    assert own.common_share < 1e-20


def test_the_byzantine_problem_and_other_splits_of_a_quadratic() -> None:
    small = {"name": "quadratic", "generator": "byzantine", "clients": 6, "rows": 300}
    assert diagnosed(problem=small).rho.value < 1e-20
    shared = diagnosed(problem={**small, "split": {"local": []}})
    assert set(shared.groups) == {"theta", "w"}
    assert (shared.shared, shared.local) == (("theta", "w"), ())
    assert level(shared.rho) != "safe"


class Scattered(SoftmaxData):
    """Batches of 2 of the 10 samples of `SoftmaxData`, drawn with replacement, so that gradients are noisy."""

    def data(self, client: int, round: int) -> dict[str, torch.Tensor]:
        whole = super().data(client, 0)
        draw = torch.Generator().manual_seed(100_003 * client + round)
        samples = torch.randint(10, (2,), generator=draw)
        return {name: value.index_select(0, samples) for name, value in whole.items()}


def test_two_halves_are_unbiased_where_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """E⟨g, g'⟩ = ‖∇_1 f‖²; E‖g‖² is larger by the variance of g, most of all with one batch in each half."""
    monkeypatch.setattr(measuring, "NUM_BATCHES", 1)
    problem = softmax(Scattered())
    shared, local = problem.objective.init_shared(), problem.objective.redraw_local(1, 3)
    truth = float(
        (problem.objective.shared_gradient(shared, local, softmax().client_data.data(1, 0))["scale"] ** 2).sum()
    )
    pairs = [gradient_pair(problem, shared, local, 1, 1000 * draw) for draw in range(300)]
    two = np.array([float((g["scale"] * h["scale"]).sum()) for g, h in pairs])
    one = np.array([float((g["scale"] ** 2).sum()) for g, _ in pairs])
    two_error, one_error = (float(values.std()) / math.sqrt(len(values)) for values in (two, one))
    assert abs(two.mean() - truth) < 3 * two_error
    assert one.mean() - truth > 5 * one_error


def test_halves_are_means_of_different_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = build(config(**digits(["head.*"])), SoloCommunicator())
    problem = setup.problem
    data, seen = problem.client_data.data, []

    def spied(client: int, round: int) -> dict[str, torch.Tensor]:
        seen.append(round)
        return data(client, round)

    monkeypatch.setattr(problem.client_data, "data", spied)
    shared, local = problem.objective.init_shared(), problem.objective.init_local(0)
    one, other = gradient_pair(problem, shared, local, 0, 100)
    assert seen == list(range(100, 100 + 2 * NUM_BATCHES))
    mean = sum(
        problem.objective.shared_gradient(shared, local, data(0, 100 + k))["hidden1.bias"] for k in range(NUM_BATCHES)
    )
    torch.testing.assert_close(one["hidden1.bias"], mean / NUM_BATCHES)
    assert not torch.equal(one["hidden1.bias"], other["hidden1.bias"])


def test_gradients_of_f_itself_are_measured_where_training_clips_them() -> None:
    plain = digits(["head.*"])
    clipped = {**plain, "problem": {**plain["problem"], "training": {"clip_norm": 1e-3}}}
    pairs = []
    for sections in (plain, clipped):
        problem = build(config(**sections), SoloCommunicator()).problem
        pairs.append(gradient_pair(problem, problem.objective.init_shared(), problem.objective.init_local(0), 0, 100))
    for one, other in zip(*pairs, strict=True):
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6)


def test_losses_are_of_samples_as_they_are_stored() -> None:
    plain = digits(["head.*"])
    changes = {"model": {"name": "mlp", "hidden": [16], "dropout": 0.5}, "training": {"augmentation": {"crop": 2}}}
    losses = []
    for of_problem in ({"model": {"name": "mlp", "hidden": [16]}}, changes):
        sections = {**plain, "problem": {**plain["problem"], **of_problem}, "evaluate": {"every": 1, "tuned": None}}
        setup = build(config(**sections), SoloCommunicator())
        shared = setup.problem.objective.init_shared()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measuring, "tuned_local", lambda setup, shared, local, client, data: local)
            losses.append(measure(setup, shared, setup.problem.objective.init_local, 100).scores)
    np.testing.assert_allclose(losses[0]["train_loss"], losses[1]["train_loss"], rtol=1e-5)
    np.testing.assert_allclose(losses[0]["test_loss"], losses[1]["test_loss"], rtol=1e-5)


def test_the_square_is_the_inner_product_of_the_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = build(config(**digits([])), SoloCommunicator())
    shared = setup.problem.objective.init_shared()
    monkeypatch.setattr(measuring, "gradient_pair", lambda *_: (shared, {name: -2.0 * v for name, v in shared.items()}))
    found = measure(setup, shared, setup.problem.objective.init_local, 0)
    for group, squares in found.squares.items():
        expected = -2.0 * sum(float((v**2).sum()) for name, v in shared.items() if group_of(name) == group)
        assert squares == pytest.approx(np.full(5, expected))
    assert found.common == pytest.approx(found.client_squares.mean())


def test_batches_of_the_training_are_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = []

    def spy(setup: Any, shared: Any, start: Any, first_draw: int) -> Any:
        first.append(first_draw)
        return measure(setup, shared, start, first_draw)

    monkeypatch.setattr("ppfl.diagnose.command.measure", spy)
    diagnosed(**digits(["head.*"], rounds=3))
    assert min(first) >= 3


def test_groups_add_up_to_the_whole() -> None:
    whole = {"batch_size": "all"}
    setup = build(config(**digits(["hidden1.bias"], problem=whole)), SoloCommunicator())
    problem, shared = setup.problem, setup.problem.objective.init_shared()
    found = measure(setup, shared, problem.objective.init_local, 0)
    assert list(found.squares) == ["hidden1", "head"]
    for position, client in enumerate(problem.client_data.clients):
        data = problem.client_data.data(client, 0)
        local = measuring.tuned_local(setup, shared, problem.objective.init_local(client), client, data)
        gradient = problem.objective.shared_gradient(shared, local, data)
        for group, squares in found.squares.items():
            mine = [value for name, value in gradient.items() if group_of(name) == group]
            assert squares[position] == pytest.approx(sum(float((g**2).sum()) for g in mine), rel=1e-10)
        assert found.client_squares[position] == pytest.approx(sum(float((g**2).sum()) for g in gradient.values()))
    one = diagnosed(**digits([]))
    for side in ("at_start", "at_end"):
        assert sum(getattr(r, side) for r in one.groups.values()) == pytest.approx(getattr(one.rho, side), rel=1e-12)


def test_common_part_is_the_mean_gradient() -> None:
    setup = build(config(**digits([], problem={"batch_size": "all"})), SoloCommunicator())
    problem, shared = setup.problem, setup.problem.objective.init_shared()
    gradients = [
        problem.objective.shared_gradient(shared, {}, problem.client_data.data(client, 0))
        for client in problem.client_data.clients
    ]
    mean = [sum(g[name] for g in gradients) / len(gradients) for name in shared]
    expected = sum(float((value**2).sum()) for value in mean)
    found = measure(setup, shared, problem.objective.init_local, 0)
    assert found.common == pytest.approx(expected, rel=1e-10)
    assert 0 < found.common < found.client_squares.mean()


def test_w_is_tuned_at_fixed_shared_parameters() -> None:
    """More calls of the fine-tuner: less loss on the training samples, at the same θ."""
    losses = []
    for epochs in (1, 20):
        tuned = {"every": 1_000, "tuned": {"epochs": epochs}}
        setup = build(config(**{**digits(["head.*"]), "evaluate": tuned}), SoloCommunicator())
        found = measure(setup, setup.problem.objective.init_shared(), setup.problem.objective.init_local, 0)
        losses.append(found.scores["train_loss"].mean())
    assert losses[1] < 0.8 * losses[0]


def test_memorizing_shows_in_the_gap() -> None:
    """Nearly everything local, tuned for long on few samples: ρ is small and says little, which the verdict says."""
    few = {"dataset": {"name": "digits", "partition": DIGITS["dataset"]["partition"], "test": 0.9, "validation": 0.0}}
    tuner = {"name": "adam", "lr": 0.02, "batch_size": "all", "epochs": 30}
    evaluate = {"every": 1_000, "tuned": {"epochs": 3, "fine_tuner": tuner}}
    memorized = diagnosed(**digits(["hidden1.*", "head.weight"], rounds=1, problem=few, evaluate=evaluate))
    assert memorized.rho.value < SAFE_BELOW or memorized.rho.at_end < 1e-4
    assert memorized.train_loss < 0.01
    assert memorized.gap > 0.7
    assert "memorized" in verdict(memorized)
    assert "memorized" not in verdict(diagnosed(**digits(["head.*"], rounds=1)))


def test_how_large_a_gap_is_depends_on_the_loss() -> None:
    """0.3 nats are little; 0.3 of a squared error are more than half of what predicting 0 costs."""
    nats = diagnosed(**digits(["head.*"], rounds=1))
    squares = diagnosed(**digits(["head.*"], rounds=1, problem={"name": "least_squares"}))
    assert "memorized" not in verdict(replace(nats, gap=0.3))
    assert "memorized" in verdict(replace(squares, gap=0.3))
    assert "memorized" not in verdict(replace(squares, gap=0.2))


def test_sharing_nothing_is_said_plainly() -> None:
    found = diagnosed(**digits(["*"], rounds=1))
    assert found.groups == {}
    assert math.isnan(found.rho.value)
    assert level(found.rho) == "unknown"
    assert "sharing nothing" in verdict(found)


@pytest.mark.parametrize(("local", "byzantine"), [(["head.*"], None), ([], None), (["head.*"], ("0",))])
def test_the_same_bits_on_three_ranks(local: list[str], byzantine: tuple[str, ...] | None) -> None:
    """Also when a rank has no honest client: of five clients the first rank has one."""
    attacked = {"byzantine": {"attack": {"name": "sign_flip"}, "clients": byzantine}} if byzantine else {}

    def run(communicator: Any) -> Diagnosis:
        return diagnosed(communicator, **digits(local, rounds=2), **attacked)

    alone = on_ranks(1, run)[0]
    assert math.isfinite(alone.rho.standard_error)
    assert on_ranks(3, run) == [alone] * 3


def test_attackers_among_the_clients_are_left_out() -> None:
    flip = {"attack": {"name": "sign_flip"}, "clients": 2}
    setup = build(config(**digits(["head.*"]), byzantine=flip), SoloCommunicator())
    found = measure(setup, setup.problem.objective.init_shared(), setup.problem.objective.init_local, 0)
    assert len(found.client_squares) == 3
    everybody = build(config(**digits(["head.*"])), SoloCommunicator())
    all_five = measure(
        everybody, setup.problem.objective.init_shared(), setup.problem.objective.init_local, 0
    ).client_squares
    assert [x for client, x in enumerate(all_five) if client not in setup.roles.byzantine] == list(found.client_squares)


def test_error_of_a_ratio() -> None:
    """The standard error is what ρ scatters by over draws of the clients."""
    draw = np.random.default_rng(0)
    start = draw.gamma(2.0, 1.0, size=(4000, 50))
    end = 0.1 * start + draw.normal(0.0, 0.05, size=start.shape)
    ratios = [ratio_of_means(a, b) for a, b in zip(end, start, strict=True)]
    scatter = float(np.std([ratio.value for ratio in ratios]))
    assert np.mean([ratio.standard_error for ratio in ratios]) == pytest.approx(scatter, rel=0.05)
    assert np.mean([ratio.value for ratio in ratios]) == pytest.approx(0.1, rel=0.01)
    assert math.isnan(ratio_of_means(end[0, :1], start[0, :1]).standard_error)


@pytest.mark.parametrize(
    ("value", "error", "expected", "shown"),
    [
        (0.03, 0.01, "safe", "0.03 ± 0.01"),
        (0.08, 0.02, "between", "0.08 ± 0.02"),
        (SAFE_BELOW, 0.0, "safe", "0.1 ± 0"),
        (0.5, 0.08, "unsafe", "0.50 ± 0.08"),
        (0.5, 0.2, "between", "0.5 ± 0.2"),
        (UNSAFE_ABOVE, 0.0, "unsafe", "0.3 ± 0"),
        (0.0, 0.0, "unknown", "0 ± 0"),
        (13.8, 4.2, "unsafe", "14 ± 4"),
        (2e-6, 3e-7, "safe", "2e-06 ± 3e-07"),
        (0.01, math.nan, "safe", "0.01 (one client, no error)"),
        (math.nan, math.nan, "unknown", ""),
    ],
)
def test_levels(value: float, error: float, expected: str, shown: str) -> None:
    ratio = Ratio(value, error, 1.0, value)
    assert level(ratio) == expected
    assert not shown or show_ratio(ratio) == shown


def test_dead_units_are_not_taken_for_agreement() -> None:
    """A step so large that no ReLU lets anything through: no gradient, no ρ."""
    dead = diagnosed(**digits(["head.*"], rounds=3), server_optimizer={"name": "sgd", "lr": 1e6})
    assert (dead.status, dead.rho.at_end, level(dead.rho)) == ("complete", 0.0, "unknown")
    assert "no gradient reaches θ" in verdict(dead)
    exact = diagnosed(problem={**COMPARISON, "clients": 1, "rows": 200})
    assert level(exact.rho) == "safe"
    assert "(exact)" in verdict(exact)


def test_a_run_that_diverges_has_no_verdict() -> None:
    linear = {"model": {"name": "logistic_regression"}}
    found = diagnosed(**digits(["head.bias"], problem=linear), server_optimizer={"name": "sgd", "lr": 1e12})
    assert (found.status, found.rounds) == ("diverged", 8)
    assert "unknown" in verdict(found)
