"""What the plain way is given so that it does the same: samples, initial parameters and orders of mini-batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppfl.algorithms.ffgg import FFGG
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import Config, validate
from ppfl.core.types import Data, Draws, Params
from ppfl.engine.setup import Setup
from ppfl.engine.synchronous import Synchronous
from ppfl.fine_tuners.conjugate_gradient import ConjugateGradient
from ppfl.fine_tuners.gradient_descent import GradientDescent
from ppfl.pack.cells import LastProblem
from ppfl.runs.assemble import build

CHECKED_ROUNDS = 3
"""Of the first run, after which a plain loop must have the same θ."""

# names under which `draws` of a method hands over the samples of the steps of its two sides, and how many there are
_LOCAL_ORDER, _SHARED_ORDER, _SIZE = "order of samples", "order of samples for training", "number of samples"


def write_handover(config: dict[str, Any], side: int, num_classes: int, num_rounds: int, path: Path) -> None:
    """Write everything that `benchmarks.plain` needs for the first rounds of a configuration."""
    setup = build(validate(config, path.parent, "benchmark"), SoloCommunicator())
    problem, algorithm = setup.problem, config["algorithm"]
    samples = [problem.client_data.data(client, 0) for client in problem.client_data.clients]
    weights = torch.tensor(setup.client_weights, dtype=torch.float64)
    model = {name: config["problem"]["model"][name] for name in ("channels", "kernel_size", "hidden")}
    tuner = algorithm.get("fine_tuner", {})
    torch.save(
        {
            "method": "alternating" if algorithm["name"] in ("fedalt", "fedrep") else algorithm["name"],
            "model": {**model, "channels": list(model["channels"]), "side": side, "num_classes": num_classes},
            "shared": problem.objective.init_shared(),
            "local": problem.objective.init_local(0),
            "clients": [
                {**data, "weight": float(weight)} for data, weight in zip(samples, weights / weights.sum(), strict=True)
            ],
            "rounds": [_orders(setup, round) for round in range(num_rounds)],
            "settings": {
                "lr": algorithm["lr"],
                "batch_size": algorithm.get("batch_size"),
                "server_lr": algorithm["lr"] if algorithm["name"] == "ffgg" else None,
                "local_lr": tuner.get("lr"),
                "local_batch_size": tuner.get("batch_size"),
                "local_steps": tuner.get("steps"),
            },
        },
        path,
    )


def write_quadratic(config: dict[str, Any], path: Path) -> None:
    """Write what the plain way needs of a quadratic problem: Gram matrices, and the step sizes of `theory`."""
    setup = build(validate(config, path.parent, "benchmark"), SoloCommunicator())
    problem, algorithm = setup.problem, setup.algorithm
    assert isinstance(algorithm, FFGG)
    assert isinstance(algorithm.fine_tuner, GradientDescent)
    torch.save(
        {
            "method": "quadratic",
            "rounds_a_turn": config["evaluate"]["every"],
            "shared": problem.objective.init_shared(),
            "local": problem.objective.init_local(0),
            "clients": [_in_rows(problem.client_data.data(client, 0)) for client in problem.client_data.clients],
            "settings": {
                "server_lr": algorithm.lr,
                "local_lr": algorithm.fine_tuner.lr,
                "local_steps": algorithm.fine_tuner.steps,
            },
        },
        path,
    )


def write_runs(configs: Sequence[Config], path: Path) -> None:
    """Write what the plain loop over many runs needs: every problem once, and for a check θ of the first run."""
    build_problem, arrays = LastProblem(), dict[str, Any]()
    setups = [build(config, SoloCommunicator(), build_problem) for config in configs]
    problems = list({id(setup.problem): setup.problem for setup in setups}.values())
    for number, problem in enumerate(problems):
        data = problem.client_data
        for client in data.clients:
            of_client = _in_rows(data.data(client, 0))
            arrays |= {f"{number}/{client}/{name}": value.numpy() for name, value in of_client.items()}
    algorithm = configs[0].algorithm
    assert isinstance(algorithm, FFGG)
    assert isinstance(algorithm.fine_tuner, ConjugateGradient)
    np.savez(
        path,
        problem=[next(k for k, one in enumerate(problems) if one is setup.problem) for setup in setups],
        lr=[config.algorithm.model_dump()["lr"] for config in configs],
        rounds=setups[0].num_rounds,
        every=setups[0].evaluate_every,
        steps=algorithm.fine_tuner.steps,
        num_problems=len(problems),
        num_clients=problems[0].client_data.num_clients,
        **arrays,
        **_checked(configs[0]),
    )


def _checked(config: Config) -> dict[str, Any]:
    """Return θ of a run after some rounds, and the draws of w that it had, (rounds, M, d_w)."""
    setup = build(config.model_copy(update={"rounds": CHECKED_ROUNDS}), SoloCommunicator(), LastProblem())
    engine, problem = Synchronous(setup), setup.problem
    for _ in engine:
        pass
    draws = [
        [problem.objective.redraw_local(client, round)["w"].numpy() for client in problem.client_data.clients]
        for round in range(CHECKED_ROUNDS)
    ]
    return {"theta": engine.server["shared"]["theta"].numpy(), "draws": np.array(draws)}


def _in_rows(data: Data) -> dict[str, torch.Tensor]:
    """Return matrices as they are where nobody has thought of their layout."""
    return {name: value.contiguous() for name, value in data.items()}


def difference(handover: Path, shared: Params) -> dict[str, float]:
    """Compare θ with the plain way's after the first turn; return the largest differences of any tensor.

    `difference_from_plain`: ‖θ − θ_plain‖/‖θ_plain‖. `difference_in_steps`: ‖θ − θ_plain‖/‖θ_plain − θ_0‖.
    """
    plain: Params = torch.load(handover.with_suffix(".after"))
    start: Params = torch.load(handover)["shared"]
    assert plain.keys() == shared.keys() == start.keys()

    def largest(sizes: Params) -> float:
        return max(float((shared[k] - plain[k]).norm() / sizes[k].norm().clamp_min(1e-30)) for k in shared)

    steps = {name: plain[name] - start[name] for name in plain}
    return {"difference_from_plain": largest(plain), "difference_in_steps": largest(steps)}


def _orders(setup: Setup, round: int) -> list[Params]:
    problem = setup.problem
    sizes = [(client, problem.client_data.num_train_samples[client]) for client in problem.client_data.clients]
    return [_named(setup.algorithm.draws(problem.objective, client, round, size), size) for client, size in sizes]


def _named(draws: Draws, num_samples: int) -> Params:
    """Return orders of whole epochs, (epochs, S), made of the samples of steps."""
    names = {_LOCAL_ORDER: "local", _SHARED_ORDER: "shared"}
    unknown = draws.keys() - names.keys() - {_SIZE}
    assert not unknown, f"the plain way does not know {unknown}"
    rows = {names[key]: value for key, value in draws.items() if key in names}
    return {name: value[value >= 0].reshape(-1, num_samples) for name, value in rows.items()}
