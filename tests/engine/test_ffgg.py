"""What theory says of FFGG on quadratics, run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from tests.engine.build import COMPARISON, EXACT, SLIM, engine, ffgg, norms, scores
from tests.numpy_reference import ffgg_reference, random_clients, write_clients

COMMON = {"targets": "common"}
MARGIN = 1.25
"""Of the rounds that the spectrum predicts."""


def test_follows_an_independent_implementation(tmp_path: Path) -> None:
    """θ to 1e-10 relative in every one of 200 rounds, the operator norm to 1e-8."""
    clients = random_clients(7)
    path = write_clients(tmp_path / "problem.h5", clients)
    thetas, operator_norms = ffgg_reference(clients, 0.05, 200)
    run = engine(
        problem={"name": "quadratic", "file": str(path)},
        algorithm=ffgg(EXACT, 0.05),
        rounds=200,
        evaluate={"every": 1, "tuned": {"epochs": 0}},
    )
    for round, scored in enumerate(run):
        theta = run.server["shared"]["theta"].numpy()
        error = np.linalg.norm(theta - thetas[round]) / max(np.linalg.norm(thetas[round]), 1e-300)
        assert error <= 1e-10, round
        norm = float(scored.metrics["operator_norm"])
        assert abs(norm - operator_norms[round]) <= 1e-8 * operator_norms[round], round
    assert round == 200


@pytest.mark.parametrize("zeta", [0, 1, 10])
def test_falls_at_the_rate_that_the_spectrum_predicts(zeta: int) -> None:
    """Full participation, exact w, γ = 1/L: F(θ_k) = (I − γ S̄)^k F(θ_0), S̄ the mean Hessian of F_m."""
    problem = {**COMPARISON, "zeta": zeta}
    run = engine(problem=problem, rounds=300, evaluate={"every": 100, "tuned": {"epochs": 0}})
    hessian = mean_hessian(run)
    lr = run.setup.algorithm.lr  # type: ignore[attr-defined]
    values, vectors = np.linalg.eigh(hessian)
    start = vectors.T @ hessian @ (0 - run.setup.problem.theory.theta_star["theta"].numpy())  # type: ignore[attr-defined]
    for scored in run:
        predicted = np.linalg.norm((1 - lr * values) ** scored.round * start)
        assert float(scored.metrics["operator_norm"]) == pytest.approx(predicted, rel=1e-8)


def mean_hessian(run) -> np.ndarray:  # type: ignore[no-untyped-def]
    """S̄ from the Gram blocks, column by column of ∇F(θ) = S̄θ − r."""
    problem = run.setup.problem
    length = len(problem.objective.init_shared()["theta"])

    def gradient(theta: torch.Tensor) -> torch.Tensor:
        rows = []
        for client in problem.client_data.clients:
            data = problem.client_data.data(client, 0)
            local = problem.objective.exact_local({"theta": theta}, data)
            rows.append(problem.objective.shared_gradient({"theta": theta}, local, data)["theta"])
        return torch.stack(rows).mean(dim=0)

    at_zero = gradient(torch.zeros(length, dtype=torch.float64))
    columns = [gradient(unit) - at_zero for unit in torch.eye(length, dtype=torch.float64)]
    return torch.stack(columns, dim=1).numpy()


def rounds_to_1e_10(problem: dict[str, object]) -> int:
    """Return the k after which (1 − γ λ_min)^k = 1e-10, for all clients and γ = 1/L, and the margin."""
    run = engine(problem=problem)
    slowest = 1 - run.setup.algorithm.lr * np.linalg.eigvalsh(mean_hessian(run))[0]  # type: ignore[attr-defined]
    return int(MARGIN * np.log(1e-10) / np.log(slowest))


@pytest.mark.slow
@pytest.mark.parametrize("zeta", [0, 1, 10])
def test_partial_participation_costs_no_round_when_overpersonalized(zeta: int) -> None:
    """2 of 8 clients a round reach ‖F‖ ≤ 1e-10 in about the rounds that all 8 need."""
    problem = {**SLIM, **COMMON, "zeta": zeta}
    rounds = rounds_to_1e_10(problem)
    assert norms(problem=problem, cohort=2, rounds=rounds)[rounds] <= 1e-10


@pytest.mark.slow
def test_full_participation_reaches_1e_10() -> None:
    problem = {**SLIM, **COMMON}
    rounds = rounds_to_1e_10(problem)
    assert norms(problem=problem, rounds=rounds, engine={"clients_per_chunk": 8})[rounds] <= 1e-10


@pytest.mark.slow
def test_partial_participation_stalls_when_not_overpersonalized() -> None:
    """2 of 8 clients: a floor that more rounds do not lower."""
    found = norms(problem=SLIM, cohort=2, rounds=1000, evaluate={"every": 100, "tuned": {"epochs": 0}})
    late = [norm for round, norm in found.items() if round >= 300]
    assert min(late) > 1e-3
    assert late[-1] > min(late) / 10


@pytest.mark.slow
def test_warm_starts_beat_many_steps_from_redrawn_ones() -> None:
    """With w kept, 1 step of GD a round has fallen in 1,200 rounds far below where 100 steps from fresh w come to rest;
    after 100 they are alike."""
    problem = {**COMPARISON, "rows": 400, "shared_dimension": 40, "local_dimension": 20}
    # the step of exact w for both: kept w are nearly exact, while `theory` guards against w that are not
    lr = 1.0 / engine(problem=problem).setup.problem.theory.constants().smoothness  # type: ignore[union-attr]

    def run(steps: int, start: str, rounds: int) -> dict[int, float]:
        tuner = {"name": "gradient_descent", "steps": steps, "lr": "theory", "start": start}
        evaluate = {"every": 100, "tuned": {"epochs": 0}}
        chunks = {"clients_per_chunk": 8}
        return norms(problem=problem, algorithm=ffgg(tuner, lr), rounds=rounds, evaluate=evaluate, engine=chunks)

    warm, redrawn = run(1, "warm", 1200), run(100, "redraw", 600)
    rest = [redrawn[round] for round in (400, 500, 600)]
    assert max(rest) <= 1.1 * min(rest)
    assert min(rest) >= 1000 * warm[1200]
    assert 0.1 <= redrawn[100] / warm[100] <= 10


def test_five_steps_of_conjugate_gradients_give_the_exact_curve() -> None:
    evaluate = {"every": 100, "tuned": {"epochs": 0}}
    few = {"name": "conjugate_gradient", "steps": 5, "start": "redraw"}
    lr = 0.3
    exact = norms(algorithm=ffgg(EXACT, lr), rounds=300, evaluate=evaluate)
    inexact = norms(algorithm=ffgg(few, lr), rounds=300, evaluate=evaluate)
    for round, norm in exact.items():
        assert inexact[round] == pytest.approx(norm, rel=2e-3)


def test_too_large_a_step_diverges_and_says_so() -> None:
    run = engine(algorithm=ffgg({"name": "gradient_descent", "steps": 1, "lr": "theory"}, 10.0), rounds=10_000)
    found = list(run)
    assert run.status == "diverged"
    assert found[-1].round <= 10_000
    assert found[0].round == 0


@pytest.mark.parametrize("cohort", ["all", 2])
@pytest.mark.parametrize("clients_per_chunk", [2, 3, 8])
def test_vectorized_chunks_equal_the_loop(clients_per_chunk: int, cohort: str | int) -> None:
    tuner = {"name": "conjugate_gradient", "steps": 3, "start": "redraw"}
    sections = {"algorithm": ffgg(tuner), "cohort": cohort, "rounds": 50}
    one = scores(**sections)[-1].metrics
    many = scores(**sections, engine={"clients_per_chunk": clients_per_chunk})[-1].metrics
    assert one.keys() == many.keys()
    for name, value in one.items():
        assert np.asarray(many[name]) == pytest.approx(np.asarray(value), rel=1e-10)


def test_messages_are_as_long_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def start_sum(communicator: SoloCommunicator, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        lengths.append(tensor.numel() * tensor.element_size())
        return tensor.clone

    monkeypatch.setattr(SoloCommunicator, "start_sum", start_sum)
    found = {}
    for size in (1024, 1 << 20):
        lengths.clear()
        found[size] = repr(scores(rounds=1, engine={"bucket_bytes": size})[-1].metrics)
        assert (1024 in lengths) == (size == 1024)  # of 100 shared parameters; scores have messages of their own
    assert found[1024] == found[1 << 20]
