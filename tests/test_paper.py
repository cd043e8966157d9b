"""What the paper's figures predict is what runs do; steps are tuned by the rule that is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ppfl.analysis.paper.runs import Run, late_mean, spread
from ppfl.analysis.paper.theory import Affine, System, system_of
from ppfl.analysis.paper.tuning import choose, write_comparison
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.grid import load_cells
from ppfl.config.run import validate
from ppfl.engine.choose import open_engine
from ppfl.runs.assemble import build
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.engine.build import EXACT, config, ffgg

SMALL = {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 4, "rows": 60, "shared_dimension": 8,
         "local_dimension": 4}  # fmt: skip
ALL_SHARED = {**SMALL, "split": {"local": []}}
ROUNDS = 60


def measured(**sections: Any) -> tuple[dict[int, float], System, float]:
    """Run on the small problem; return {round: ‖F(θ)‖}, what theory knows of the problem, and γ."""
    document = {"problem": SMALL, "rounds": ROUNDS, "evaluate": {"every": 10, "tuned": {"epochs": 0}}, **sections}
    settings = config(**document)
    engine = open_engine(build(settings, SoloCommunicator()))
    found = {}
    for scored in engine:
        name = "personalized_operator_norm" if "personalized_operator_norm" in scored.metrics else "operator_norm"
        found[scored.round] = float(scored.metrics[name])
    return found, system_of(settings), engine.setup.algorithm.lr  # type: ignore[attr-defined]


def assert_follows(found: dict[int, float], predicted: np.ndarray, relative: float = 1e-8) -> None:
    assert list(found.values()) == pytest.approx(predicted.tolist(), rel=relative)
    assert len(set(found.values())) > 3


def test_all_clients_and_exact_w_follow_the_predicted_curve() -> None:
    found, system, lr = measured()
    clients = system.personalized
    assert lr == pytest.approx(1.0 / clients.smoothness, rel=1e-12)
    assert_follows(found, clients.norms(clients.gradient_descent(lr), list(found)))


def test_local_ffgg_follows_the_predicted_curve() -> None:
    algorithm = {"name": "local_ffgg", "lr": "theory", "local_steps": 5, "fine_tuner": EXACT}
    found, system, lr = measured(algorithm=algorithm)
    assert_follows(found, system.personalized.norms(system.personalized.local_steps(lr, 5), list(found)))


def follows_recursion(found: dict[int, float], system: System, recursion: Affine) -> None:
    norms = [system.personalized.norm(x) for x in recursion.iterates(list(found))]
    assert_follows(found, np.array(norms))


def test_local_gd_follows_the_recursion_of_its_floor_with_w_shared_and_with_w_local() -> None:
    """Both are scored by the same F, which personalizes w."""
    found, system, lr = measured(problem=ALL_SHARED, algorithm={"name": "local_gd", "lr": "theory", "local_steps": 3})
    follows_recursion(found, system, system.whole.local_steps(lr, 3))
    found, system, lr = measured(algorithm={"name": "fedsim", "lr": "theory", "local_steps": 3})
    follows_recursion(found, system, system.whole.local_steps(lr, 3, num_shared=8))


def test_scaffold_comes_to_rest_where_theory_says() -> None:
    """All shared: at the solution with one w for all; θ shared: at θ*."""
    settings = {"lr": "theory", "local_steps": 3}
    late = {"rounds": 600, "evaluate": {"every": 600, "tuned": {"epochs": 0}}, "engine": {"clients_per_chunk": 4}}
    problem = {**SMALL, "zeta": 10, "shared_dimension": 2, "local_dimension": 1}
    all_shared = {**problem, "split": {"local": []}}
    found, system, _ = measured(problem=all_shared, algorithm={"name": "scaffold", **settings}, **late)
    floor = system.personalized.norm(system.whole.solution)
    assert floor > 1e-3
    assert found[600] == pytest.approx(floor, rel=1e-6)
    found, _, _ = measured(problem=problem, algorithm={"name": "scaffold_theta", **settings}, **late)
    assert found[600] < 1e-8 * found[0]


def test_the_mean_under_sign_flips_grows_as_predicted() -> None:
    flips = {"attack": {"name": "sign_flip", "factor": 3}, "clients": 2, "placement": "beside"}
    found, system, lr = measured(byzantine=flips)
    weights = np.array([1.0 - 3.0, 1.0 - 3.0, 1.0, 1.0]) / 6.0
    clients = system.personalized
    assert_follows(found, clients.norms(clients.gradient_descent(lr, weights), list(found)))


@pytest.mark.slow
def test_equal_compute_times_lead_to_the_fixed_point_of_proximal_steps() -> None:
    rounds = {"rounds": 80_000 // 4, "evaluate": {"every": 4000, "tuned": {"epochs": 0}}}
    asynchronous = {"engine": "virtual", "step": "constant"}
    problem = {**SMALL, "zeta": 10}
    found, system, lr = measured(problem=problem, compute_times={"name": "fixed"}, asynchronous=asynchronous, **rounds)
    floor = system.personalized.norm(system.personalized.cyclic_arrivals(lr / 4).fixed_point)
    assert floor > 1e-3
    assert found[20_000] == pytest.approx(floor, rel=1e-6)


@pytest.mark.slow
def test_sampling_rests_at_the_predicted_floor() -> None:
    """Exact when all S_m agree, up to chance: the root mean square over 2,500 rounds, to 10 %."""
    problem = {**SMALL, "zeta": 0}
    every = {"rounds": 3000, "evaluate": {"every": 2, "tuned": {"epochs": 0}}}
    found, system, lr = measured(problem=problem, cohort=2, algorithm=ffgg(EXACT), **every)
    late = np.array([norm for round, norm in found.items() if round > 500])
    assert np.sqrt(np.mean(late**2)) == pytest.approx(system.personalized.sampling_floor(lr, 2), rel=0.1)


def test_l2gd_approaches_the_mean_of_the_penalized_problem() -> None:
    clients = measured(rounds=1)[1].whole
    penalty, eye = 0.7, np.eye(12)
    mean = clients.penalized_mean(penalty)
    own = [np.linalg.solve(S + penalty * eye, r + penalty * mean) for S, r in zip(clients.hessians, clients.linears,
           strict=True)]  # fmt: skip
    np.testing.assert_allclose(np.mean(own, axis=0), mean, rtol=1e-9)


def test_theory_sees_honest_clients_alone() -> None:
    flips = {"attack": {"name": "sign_flip"}, "clients": ["1"], "placement": "among"}
    found, system, lr = measured(byzantine=flips, aggregator={"name": "median"})
    assert system.personalized.number == 3
    assert system.personalized.norm(np.zeros(8)) == pytest.approx(found[0], rel=1e-8)
    assert lr == pytest.approx(1.0 / system.personalized.smoothness)


def made_up(lr: float, norms: Sequence[float], status: str = "complete", name: str = "fedsim") -> Run:
    algorithm = {"name": name, "lr": lr, "local_steps": 2}
    document = {"name": "x", "rounds": 10, "seed": 100, "problem": SMALL, "algorithm": algorithm}
    series = {"round": np.arange(0.0, 11.0, 2.0), "operator_norm": np.array(norms)}
    return Run(validate(document, Path(), "test"), status, series)


def test_final_is_over_the_last_fifth_and_infinite_after_divergence() -> None:
    norms = [9.0, 9.0, 9.0, 9.0, 3.0, 4.0]
    assert made_up(0.1, norms).final == pytest.approx(np.sqrt(12.5))
    assert late_mean(np.array(norms), [0, 2, 4, 6, 8, 10]) == pytest.approx(np.sqrt(12.5))
    assert made_up(0.1, norms, "diverged").final == np.inf


def test_each_method_gets_the_step_with_the_least_final_norm() -> None:
    runs = [made_up(0.1, [3.0] * 6), made_up(0.2, [2.0] * 6), made_up(0.4, [0.0] * 6, "diverged"),
            made_up(0.4, [7.0] * 6, name="scaffold_theta"), made_up(0.2, [7.0] * 6, name="scaffold_theta")]  # fmt: skip
    chosen = [(run.config.algorithm.name, run.config.model_dump()["algorithm"]["lr"]) for run in choose(runs)]
    assert chosen == [("fedsim", 0.2), ("scaffold_theta", 0.2)]


def test_the_comparison_has_the_chosen_steps_on_other_seeds(tmp_path: Path) -> None:
    tuning = tmp_path / "tuning.yaml"
    grid = {"algorithm.lr": [1e-4, 0.05], "problem.zeta": [0, 1]}
    document = {"name": "t", "seed": 7, "rounds": 40, "precision": "float64", "problem": SMALL, "grid": grid}
    tuning.write_text(yaml.safe_dump({**document, "algorithm": {"name": "fedsim", "local_steps": 2}}))
    for digest, cell in load_cells(tuning).items():
        run(cell.config, tmp_path / f"{digest}.h5", Silent(), SoloCommunicator())
    write_comparison([(tuning, tmp_path)], [0, 1], tmp_path / "comparison.yaml")
    cells = [cell.config.model_dump() for cell in load_cells(tmp_path / "comparison.yaml").values()]
    assert sorted((c["seed"], c["problem"]["seed"], c["problem"]["zeta"], c["algorithm"]["lr"]) for c in cells) == [
        (0, 0, 0.0, 0.05), (0, 0, 1.0, 0.05), (1, 1, 0.0, 0.05), (1, 1, 1.0, 0.05)]  # fmt: skip
    with pytest.raises(ValueError, match="seed 7 is to be shown"):
        write_comparison([(tuning, tmp_path)], [7], tmp_path / "other.yaml")


def test_seeds_are_summarized_on_what_all_have() -> None:
    summary = spread([np.array([1.0, 5.0, 9.0]), np.array([2.0, 3.0]), np.array([4.0, 4.0, 4.0])])
    assert (summary.median.tolist(), summary.lowest.tolist(), summary.highest.tolist()) == ([2, 4], [1, 3], [4, 5])
