"""Histories of single clients: what the means are of, the same bits alone and together, and bounded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import ppfl
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import load
from ppfl.core.agree import SharedUserError
from ppfl.engine import history
from ppfl.engine.evaluate import mean_over_clients
from ppfl.engine.lockstep import Lockstep, kind_of
from ppfl.engine.synchronous import Synchronous
from ppfl.results import recorder
from ppfl.results.client_scores import worst_tenth
from ppfl.results.reader import open_result
from ppfl.runs.assemble import build
from ppfl.runs.experiment import run as run_experiment
from ppfl.runs.progress import Silent
from tests.engine.build import config, ffgg
from tests.engine.each_run import scores_of_each
from tests.grids import ppfl as command
from tests.supervised_problems import CONFIG

QUADRATIC = {"name": "quadratic", "generator": "comparison", "clients": 4, "rows": 20}
GD = {"name": "gradient_descent", "steps": 2, "lr": 0.1}
NETWORK: dict[str, Any] = {"problem": CONFIG, "algorithm": ffgg(GD, 0.1)}
ATTACKED: dict[str, Any] = {**NETWORK, "byzantine": {"attack": {"name": "sign_flip"}, "clients": 1}}


def setup(**sections: Any) -> Any:
    evaluate = {"every": 2, "history": True}
    return build(config(**{"rounds": 5, "evaluate": evaluate, **sections}), SoloCommunicator())


@pytest.mark.parametrize("sections", [NETWORK, ATTACKED, {"problem": QUADRATIC}], ids=["network", "attacked", "lanes"])
def test_means_are_of_them(sections: dict[str, Any]) -> None:
    """Of every score of single clients, at every evaluation; attackers are in the history, and not in the mean."""
    made = setup(**sections)
    scored = list(Synchronous(made))
    names = [name.removeprefix("client_") for name in scored[0].metrics if name.startswith("client_")]
    names = [name for name in names if name in scored[0].metrics]
    assert "loss" in names
    assert [one.round for one in scored] == [0, 2, 4, 5]
    for one in scored:
        for name in names:
            values = np.asarray(one.metrics[f"client_{name}"])
            assert values.shape == (made.problem.client_data.num_clients,)
            assert mean_over_clients(made, name, values) == one.metrics[name]


def test_runs_together_have_those_of_runs_alone() -> None:
    alone = [list(Synchronous(setup(problem=QUADRATIC, seed=seed))) for seed in (0, 1)]
    together = scores_of_each(Lockstep([setup(problem=QUADRATIC, seed=seed) for seed in (0, 1)]))
    for one, other in zip(alone, together, strict=True):
        assert [scored.metrics["client_loss"].tobytes() for scored in one] == [  # type: ignore[union-attr]
            np.asarray(scored.metrics["client_loss"]).tobytes() for scored in other
        ]


def test_runs_with_and_without_it_are_not_computed_together() -> None:
    made = setup(problem=QUADRATIC)
    assert kind_of(made) == kind_of(setup(problem=QUADRATIC, seed=1)) != kind_of(replace(made, history=False))


def test_too_much_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    # 5 scores of 6 clients at 0, 2, 4 and 5
    needed = 8 * 5 * 6 * 4
    monkeypatch.setattr(history, "MOST_BYTES", needed)
    list(Synchronous(setup(**NETWORK)))
    monkeypatch.setattr(history, "MOST_BYTES", needed - 1)
    with pytest.raises(
        SharedUserError, match=r"^evaluate.history: 5 scores of 6 clients at 4 evaluations are .*false$"
    ):
        next(iter(Synchronous(setup(**NETWORK))))


def test_they_are_in_the_file_and_large_ones_once_the_run_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = {"precision": "float64", "rounds": 4, "evaluate": {"every": 2, "history": True}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"name": "kept", **NETWORK, **sections}))
    seen: list[set[str]] = []
    image_of = recorder.image_of

    def noting(groups: Any) -> bytes:
        seen.append({variable.name for group in groups if group.name == "rounds" for variable in group.variables})
        return image_of(groups)

    monkeypatch.setattr(recorder, "image_of", noting)
    for most, is_early in ((1 << 24, True), (0, False)):
        monkeypatch.setattr(recorder, "_MOST_CLIENT_BYTES", most)
        seen.clear()
        out = tmp_path / f"{most}.h5"
        run_experiment(load(tmp_path / "run.yaml"), out, Silent())
        assert [("client_test_loss" in names) for names in (seen[0], seen[-1])] == [is_early, True]
        found = open_result(out).rounds
        assert found["client_test_loss"].dims == ("round", "client")
        np.testing.assert_array_equal(found["client_test_loss"].mean("client"), found["test_loss"])


def test_the_best_round_and_the_worst_clients_are_shown(tmp_path: Path) -> None:
    evaluate = {"every": 1, "history": True, "best_round": {"metric": "accuracy", "patience": 9}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"name": "shown", **NETWORK, "rounds": 2, "evaluate": evaluate}))
    run_experiment(load(tmp_path / "run.yaml"), tmp_path / "r.h5", Silent())
    lines = command("show", tmp_path / "r.h5").stdout.splitlines()
    best = open_result(tmp_path / "r.h5").best_round
    assert best["metric"] == "validation_accuracy"
    assert best["last_round"] == 2
    (title,) = [number for number, line in enumerate(lines) if line.startswith("Best round")]
    for name, value in best.items():
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        assert any(f"│ {name} " in line and f" {shown} " in line for line in lines[title : title + 6])
    values = open_result(tmp_path / "r.h5").rounds["client_test_loss"].to_numpy()
    (title,) = [number for number, line in enumerate(lines) if line.startswith("Worst 10 % of clients")]
    row = next(line for line in lines[title:] if "test_loss" in line)
    assert all(f" {worst_tenth('test_loss', values[at]).mean:.6g} " in row for at in (0, -1))


def test_the_face_for_python_yields_them() -> None:
    scored = list(ppfl.rounds({"name": "kept", "rounds": 1, **NETWORK, "evaluate": {"history": True}}))
    assert np.shape(scored[0].metrics["client_test_accuracy"]) == (6,)
