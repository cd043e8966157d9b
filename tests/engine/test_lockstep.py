"""Runs that are computed together have the bits that they have alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.grid import load_cells
from ppfl.engine import evaluate
from ppfl.engine.evaluate import score_rounds, score_stages
from ppfl.engine.ledger import Scored, StageCosts
from ppfl.engine.lockstep import Lockstep, fits, kind_of, regrouped
from ppfl.engine.mapping.laned import Laned
from ppfl.engine.mapping.laned_servers import UnlikeRunsError
from ppfl.engine.mapping.lanes import Lanes, as_lanes, stack, take, values_of
from ppfl.engine.setup import Setup
from ppfl.engine.synchronous import Synchronous
from ppfl.interfaces.personal_aggregates import goes_with_others
from ppfl.interfaces.pruning import Pruned
from ppfl.rows.exact_sum import ExactSum, exact_sums
from ppfl.runs.assemble import build
from tests import examples
from tests.algorithms.cases import NAMES, sections
from tests.engine.each_run import scores_of_each

if TYPE_CHECKING:
    from ppfl.core.types import Draws
    from ppfl.interfaces.objective import Objective

CG = {"name": "conjugate_gradient", "steps": 3, "start": "redraw"}
BASE: dict[str, Any] = {
    "name": "together",
    "rounds": 7,
    "precision": "float64",
    "problem": {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 4, "rows": 120},
    "algorithm": {"name": "ffgg", "lr": "theory", "fine_tuner": CG},
    "evaluate": {"every": 3},
    "grid": {"seed": [0, 1], "problem.zeta": [0.5, 2], "algorithm.lr": ["theory", 0.01]},
}
TOGETHER = [name for name in NAMES if goes_with_others(examples.kind("algorithms", name))]
CASES: dict[str, dict[str, Any]] = {
    "conjugate gradients": {},
    "single precision": {"precision": "float32"},
    "exact": {"algorithm": {"name": "ffgg", "lr": "theory", "fine_tuner": {"name": "exact"}}},
    "gradient descent": {
        "algorithm": {
            "name": "ffgg",
            "lr": "theory",
            "fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": 0.01},
        },
    },
    "steps that follow schedules, those of the servers not the same": {
        "algorithm": {
            "name": "ffgg",
            "lr": 0.01,
            "fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": 0.01, "lr_schedule": {"name": "cosine"}},
        },
        "grid": {"seed": [0, 1], "algorithm.lr_schedule": [None, {"name": "linear"}, {"name": "cosine", "warmup": 3}]},
    },
    "clients whose steps follow a schedule": {
        "algorithm": {"name": "fedsim", "lr": 0.01, "local_steps": 2, "lr_schedule": {"name": "linear"}},
        "grid": {"seed": [0, 1], "problem.zeta": [0.5, 2]},
    },
    "a server with a memory": {"server_optimizer": {"name": "momentum"}, "weights": "samples"},
    "strategic clients, who lie each run in another way": {
        "evaluate": {"every": 3, "reports": ["squared_norm"]},
        "strategic": {"clients": 2},
        "grid": {"seed": [0, 1], "strategic.scale": [1, -2, 0], "strategic.noise": [0, 0.5]},
    },
    "adam as server": {"server_optimizer": {"name": "adam", "lr": 0.1}},
    "a method whose clients take the steps": {
        "algorithm": {"name": "fedsim", "lr": 0.01, "local_steps": 2},
        "grid": {"seed": [0, 1], "problem.zeta": [0.5, 2]},
    },
}


def setups(folder: Path, **sections: Any) -> list[Setup]:
    path = folder / "together.yaml"
    path.write_text(yaml.safe_dump(BASE | sections))
    return [build(cell.config, SoloCommunicator()) for cell in load_cells(path).values()]


def content(scored: Scored) -> dict[str, bytes]:
    values = {**scored.metrics, **scored.costs, "round": scored.round}
    return {
        name: np.asarray(value).tobytes()
        for name, value in values.items()
        if name not in ("seconds", "communication_seconds")
    }


def gradients_of(costs: StageCosts) -> tuple[float, float]:
    return costs.shared_gradients, costs.local_gradients


def assert_bits_of_single_runs(runs: list[Setup]) -> None:
    assert all(map(fits, runs))
    assert len({kind_of(setup) for setup in runs}) == 1
    together = Lockstep(runs)
    got = scores_of_each(together)
    stages = score_stages(regrouped(together.runs))
    for setup, member, scores, mine in zip(runs, together.runs, got, stages, strict=True):
        alone = Synchronous(setup)
        assert [content(scored) for scored in scores] == [content(scored) for scored in alone]
        assert member.status == alone.status
        for name, value in alone.server["shared"].items():
            assert torch.equal(member.server["shared"][name], value)
        for client in alone.group.clients:
            for name, value in alone.group.state(client)["local"].items():
                assert torch.equal(member.group.state(client)["local"][name], value)
        wanted = score_stages([alone])[0]
        assert mine.scores.keys() == wanted.scores.keys()
        for stage, metrics in wanted.scores.items():
            for name, values in metrics.items():
                assert mine.scores[stage][name].tobytes() == values.tobytes(), (stage, name)
            assert gradients_of(mine.costs[stage]) == gradients_of(wanted.costs[stage])


@pytest.mark.parametrize("case", CASES)
def test_scores_states_and_stages_have_the_bits_of_single_runs(case: str, tmp_path: Path) -> None:
    assert_bits_of_single_runs(setups(tmp_path, **CASES[case]))


LANED = [name for name in TOGETHER if not issubclass(examples.kind("algorithms", name), Pruned)]
"""Clients that prune are no lanes (test_mapping.py)."""


@pytest.mark.parametrize("name", LANED)
def test_every_method_that_does_not_branch_on_its_server_has_the_bits_of_single_runs(name: str, tmp_path: Path) -> None:
    """One that does and does not say so fails here."""
    runs = setups_of_method(name, tmp_path)
    assert len(runs) == 4
    assert_bits_of_single_runs(runs)


def setups_of_method(name: str, folder: Path, **others: Any) -> list[Setup]:
    document = sections(name, "quadratic", grid={"seed": [0, 1], "problem.zeta": [0.5, 2]}, **others)
    steps = {key: 0.01 for key in ("lr", "inner_lr") if key in document["algorithm"]}
    settings = document["algorithm"] | steps  # those by theory differ between problems
    if "fine_tuner" in settings:
        settings["fine_tuner"] = {**settings["fine_tuner"], "lr": 0.01}
    return setups(folder, **document | {"algorithm": settings})


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_scores_as_lanes_have_the_bits_of_one_client_after_another(
    name: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of one run after another, whether clients deploy the server's θ or one of their own."""
    together = Lockstep(setups_of_method(name, tmp_path, precision=precision))
    for _ in together.run():
        pass
    laned = together.runs[0].group.laned
    assert laned is not None
    assert (laned.scores is None) == (examples.kind("algorithms", name).splits == "all shared")
    scores, stages = score_rounds(together.runs, 7), score_stages(together.runs)
    monkeypatch.setattr(evaluate, "_at_once", lambda runs, score: None)
    alone = score_rounds(together.runs, 7), score_stages(together.runs)
    for found, wanted in zip(scores, alone[0], strict=True):
        assert {key: np.asarray(value).tobytes() for key, value in found.items()} == {
            key: np.asarray(value).tobytes() for key, value in wanted.items()
        }
        assert {key: type(value) for key, value in found.items()} == {key: type(v) for key, v in wanted.items()}
    for mine, of_one in zip(stages, alone[1], strict=True):
        assert {(stage, key): value.tobytes() for stage, of in mine.scores.items() for key, value in of.items()} == {
            (stage, key): value.tobytes() for stage, of in of_one.scores.items() for key, value in of.items()
        }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_norms_and_sums_of_lanes_are_those_of_vectors_in_memory_of_their_own(dtype: torch.dtype) -> None:
    for length in range(1, 140):
        values = torch.randn(7, length, generator=torch.Generator().manual_seed(length), dtype=dtype)
        lanes, rows = as_lanes(values), [row.clone() for row in values]
        norms = torch.stack([torch.linalg.vector_norm(row) for row in rows])
        assert torch.equal(values_of(torch.linalg.vector_norm(lanes)), norms), length
        assert torch.equal(values_of(lanes.sum()), torch.stack([row.sum() for row in rows])), length


def test_runs_that_send_different_names_are_refused(tmp_path: Path) -> None:
    """Also where the first run has the fewest."""
    for odd in (0, 1):
        together = Lockstep(setups(tmp_path, grid={"seed": [0, 1]}))
        server = together.runs[odd].server
        server["shared"] = {**server["shared"], "extra": torch.zeros(3)}
        with pytest.raises(UnlikeRunsError, match=r"one run has .*extra"):
            list(together.run())


def test_a_run_that_diverges_leaves_the_others_alone(tmp_path: Path) -> None:
    grid = {"algorithm.lr": [0.01, 1e6, 0.02, 1e200]}
    sections = {"server_optimizer": {"name": "momentum"}, "rounds": 40, "evaluate": {"every": 10}, "grid": grid}
    runs = setups(tmp_path, **sections)
    together = Lockstep(runs)
    got = scores_of_each(together)
    assert [member.status for member in together.runs] == ["complete", "diverged", "complete", "diverged"]
    for setup, scores in zip(runs, got, strict=True):
        assert [content(scored) for scored in scores] == [content(scored) for scored in Synchronous(setup)]


def test_runs_that_tell_other_things_are_of_other_kinds(tmp_path: Path) -> None:
    reports = [[], ["local_gradients"]]
    silent, telling = setups(tmp_path, grid={"evaluate.reports": reports})
    assert (silent.reports, telling.reports) == ((), ("local_gradients",))
    assert kind_of(silent) != kind_of(telling)


def test_runs_that_stop_are_left_running(tmp_path: Path) -> None:
    together = Lockstep(setups(tmp_path))
    asked = iter([False, False, True])
    for _ in together.run(lambda: next(asked)):
        pass
    assert {member.status for member in together.runs} == {"running"}


@pytest.mark.parametrize(
    "section",
    [
        {"engine": {"clients_per_chunk": 2}},
        {"cohort": 2},
        {"aggregator": {"name": "median"}},
        {"compute_times": {"name": "fixed", "mean_seconds": 1.0}},
        {"algorithm": {"name": "l2gd_theta", "lr": 0.01, "penalty": 0.5, "probability": 0.4}},
    ],
)
def test_what_has_other_bits_together_is_not_taken(section: dict[str, Any], tmp_path: Path) -> None:
    grid = {"seed": [0]}
    assert not any(map(fits, setups(tmp_path, grid=grid, **section)))


def test_kinds_tell_server_optimizers_apart(tmp_path: Path) -> None:
    """That of the first run takes the steps of all servers."""
    momentum = {"server_optimizer": {"name": "momentum"}, "grid": {"server_optimizer.beta": [0.5, 0.9]}}
    assert len({kind_of(setup) for setup in setups(tmp_path, **momentum)}) == 2


def test_kinds_tell_clients_apart_but_not_servers(tmp_path: Path) -> None:
    steps = {"algorithm.fine_tuner.steps": [1, 2], "algorithm.lr": [0.01, 0.02]}
    assert len({kind_of(setup) for setup in setups(tmp_path, grid=steps)}) == 2


@pytest.mark.parametrize("spread", [0.0, 20.0])
def test_many_exact_sums_are_those_of_one(spread: float) -> None:
    rng = np.random.default_rng(0)
    terms = torch.from_numpy(rng.standard_normal((5, 7, 30)) * 10.0 ** rng.uniform(-spread, spread, (5, 7, 30)))
    terms[1] = 0.0
    terms[2, 3, 4] = torch.inf
    terms[3, 0, 0] = torch.nan
    together = exact_sums(terms)
    for number, rows in enumerate(terms):
        one = ExactSum(30)
        for row in rows:
            one.add(row)
        assert one.reduce(SoloCommunicator()).numpy().tobytes() == together[number].numpy().tobytes(), number


def test_runs_of_one_seed_draw_once(tmp_path: Path) -> None:
    runs = setups(tmp_path, grid={"seed": [0, 1], "problem.zeta": [0.5, 2], "algorithm.lr": [0.01, 0.02]})
    asked: list[tuple[Objective, int]] = []

    def draw(objective: Objective, client: int) -> Draws:
        asked.append((objective, client))
        return objective.redraw_local(client, 3)

    drawn = values_of(Laned(*runs).drawn(draw)["w"])
    assert len(asked) == len(set(asked)) == 2 * 4
    clients = [(setup, client) for setup in runs for client in range(4)]
    assert torch.equal(
        drawn, torch.stack([setup.problem.objective.redraw_local(client, 3)["w"] for setup, client in clients])
    )


def test_lanes_are_taken_as_often_as_they_are_named_and_matrices_where_they_are() -> None:
    first, second = torch.eye(3), torch.ones(3, 3)
    lanes = stack([{"order": first, "mean": first[0]}, {"order": second, "mean": second[0]}])
    taken = take(lanes, torch.tensor([1, 0, 1]))
    assert [matrix is one for matrix, one in zip(taken["order"].matrices, (second, first, second), strict=True)] == [
        True
    ] * 3
    assert torch.equal(values_of(taken["mean"]), torch.stack([second[0], first[0], second[0]]))


def test_unknown_functions_are_computed_lane_by_lane() -> None:
    values = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = values_of(torch.logsumexp(as_lanes(values), 0))
    assert torch.equal(got, torch.stack([torch.logsumexp(row, 0) for row in values]))
    with pytest.raises(TypeError, match="branch"):
        bool(Lanes(values[:, 0]) > 0)
