"""What is scored is up to the configuration: parts, samples, clients, and whether anything is tuned at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.errors import ConfigError
from ppfl.config.yaml_file import parse_yaml
from ppfl.core.communicator import Communicator
from ppfl.core.errors import UserError
from ppfl.diagnose.command import Plan, diagnose
from ppfl.engine.evaluate import score_stages
from ppfl.interfaces.selection import Selection, draw_clients
from ppfl.results.reader import open_result
from ppfl.runs.experiment import run as run_to_file
from ppfl.runs.progress import Silent
from tests.engine.build import COMPARISON, EXACT, config, engine, ffgg
from tests.ranks import on_ranks
from tests.supervised_problems import CONFIG, make

GD: dict[str, Any] = {"name": "gradient_descent", "steps": 2, "lr": 0.1}


def document(**evaluate: Any) -> dict[str, Any]:
    """Return sections of a run on digits, six clients."""
    return {
        "problem": CONFIG,
        "algorithm": ffgg(GD, 0.1),
        "rounds": 2,
        "evaluate": {"every": 1, "tuned": {"epochs": 1}, **evaluate},
    }


def scores(communicator: Communicator | None = None, **evaluate: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the scores of the last round, and of the stages."""
    running = engine(communicator, **document(**evaluate))
    last = list(running)[-1].metrics
    return last, score_stages([running])[0].scores


def test_parts_are_scored_or_left_out() -> None:
    everything, stages = scores(parts=["train", "validation", "test"])
    default, default_stages = scores()
    assert [name for name in everything if name not in default] == ["train_loss", "train_accuracy"]
    assert {name: everything[name] for name in default} == default
    for stage, found in default_stages.items():
        for name, values in found.items():
            assert np.array_equal(stages[stage][name], values)
    alone, of_train = scores(parts=["train"])
    assert list(alone) == ["loss", "train_loss", "train_accuracy"]
    assert alone["train_loss"] == everything["train_loss"]
    assert np.array_equal(of_train["tuned"]["train_loss"], stages["tuned"]["train_loss"])
    assert (of_train["tuned"]["train_loss"] < of_train["personal"]["train_loss"]).all()


def test_the_score_of_training_is_that_of_all_training_samples() -> None:
    problem = make().scored_on(Selection(("train",)))
    shared, local = problem.objective.init_shared(), problem.objective.init_local(0)
    for client in range(6):
        data = problem.client_data
        whole = data.samples(client, "train", torch.arange(data.num_train_samples[client]))
        found = problem.scores.client_metrics(shared, local, client)
        assert found["train_loss"] == pytest.approx(float(problem.objective.loss(shared, local, whole)), rel=1e-12)
    assert problem.scores.metric_weights("train_loss") == problem.client_data.num_train_samples
    assert problem.all_local().scores.selection == problem.scores.selection


def test_at_most_so_many_samples_are_drawn_by_the_seed() -> None:
    selection = Selection(("test", "train"), max_samples=7, seed=3)
    problem = make().scored_on(selection)
    data, shared, local = problem.client_data, problem.objective.init_shared(), problem.objective.init_local(0)
    for client in range(6):
        found = problem.scores.client_metrics(shared, local, client)
        for part in ("test", "train"):
            rows = selection.rows(part, client, data.part_sizes(part)[client])
            assert (
                len(rows) == min(7, data.part_sizes(part)[client]) == problem.scores.metric_weights(f"{part}_x")[client]
            )
            assert sorted(set(rows.tolist())) == rows.tolist()
            assert rows.max() < data.part_sizes(part)[client]
            chosen = data.samples(client, part, rows)
            assert found[f"{part}_loss"] == pytest.approx(
                float(problem.objective.loss(shared, local, chosen)), rel=1e-12
            )
    drawn = [tuple(Selection(max_samples=7, seed=seed).rows("test", m, 50).tolist()) for seed in (3, 4) for m in (0, 1)]
    assert len(set(drawn)) == 4
    assert tuple(selection.rows("test", 0, 50).tolist()) == drawn[0] != tuple(selection.rows("train", 0, 50).tolist())


def test_more_samples_than_there_are_change_nothing_and_fewer_do() -> None:
    default = scores()[0]
    assert scores(samples=10_000)[0] == default
    assert scores(samples=5)[0]["loss"] == default["loss"]
    assert scores(samples=5)[0]["test_loss"] != default["test_loss"]


def test_means_are_over_the_clients_that_are_scored() -> None:
    running = engine(**document(clients=2))
    chosen = running.setup.problem.scores.selection.clients  # type: ignore[attr-defined]
    found = [dict(scored.metrics) for scored in running]
    stages = score_stages([running])[0]
    everyone = engine(**document())
    whole = [dict(scored.metrics) for scored in everyone]
    all_stages = score_stages([everyone])[0]
    assert len(chosen) == 2
    there = np.isin(np.arange(6), list(chosen))
    for stage, of_all in all_stages.scores.items():
        for name, values in of_all.items():
            assert np.array_equal(stages.scores[stage][name][there], values[there])
            assert np.isnan(stages.scores[stage][name][~there]).all()
    last = all_stages.scores["personal"]["test_accuracy"][there]
    assert found[-1]["test_accuracy"] == last.mean()
    assert found[-1]["loss"] != whole[-1]["loss"]
    assert 0 < stages.costs["tuned"].local_gradients < all_stages.costs["tuned"].local_gradients
    for one, other in zip(running.group.clients, everyone.group.clients, strict=True):
        states = running.group.state(one)["local"], everyone.group.state(other)["local"]
        assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_clients_that_are_scored_are_the_same_on_any_number_of_ranks() -> None:
    keys: dict[str, Any] = {"clients": 1, "samples": 9, "parts": ["test", "train"]}
    (wanted,) = on_ranks(1, lambda communicator: scores(communicator, **keys))
    for found in on_ranks(3, lambda communicator: scores(communicator, **keys)):
        assert found[0] == wanted[0]
        for stage, of_stage in wanted[1].items():
            for name, values in of_stage.items():
                assert np.array_equal(found[1][stage][name], values, equal_nan=True)


def test_clients_are_drawn_by_the_seed_among_those_that_may_be() -> None:
    choices = (1, 2, 5, 8, 13, 21, 34, 55)
    drawn = {seed: draw_clients(3, choices, seed) for seed in range(5)}
    assert all(len(clients) == 3 and clients <= set(choices) for clients in drawn.values())
    assert len(set(drawn.values())) > 1
    assert draw_clients(8, choices, 0) == set(choices)
    byzantine = {"clients": 2, "attack": {"name": "sign_flip"}, "placement": "among"}
    running = engine(**document(clients=4), byzantine=byzantine)
    chosen = running.setup.problem.scores.selection.clients  # type: ignore[attr-defined]
    assert chosen == set(range(6)) - running.setup.roles.byzantine
    with pytest.raises(
        UserError, match=r"^evaluate.clients: 5 of 4 honest clients with training samples; take at most"
    ):
        engine(**document(clients=5), byzantine=byzantine)


def test_without_tuning_the_stage_is_left_out(tmp_path: Path) -> None:
    chosen = config(**document(tuned=None))
    run_to_file(chosen, tmp_path / "r.h5", Silent(), SoloCommunicator())
    result = open_result(tmp_path / "r.h5")
    assert result.summary.stage.to_numpy().tolist() == ["global", "personal"]
    assert not [name for name in result.clients.data_vars if name.startswith("tuned_")]
    alone = engine(problem={**CONFIG, "split": {"local": []}}, algorithm={"name": "fedavg", "lr": 0.1, "epochs": 1},
                   rounds=1, evaluate={"tuned": None})  # fmt: skip
    list(alone)
    assert list(score_stages([alone])[0].scores) == ["global", "personal"]


def test_each_is_part_of_the_digest_where_it_says_something() -> None:
    default = config(**document())
    same = [{"parts": ["test", "validation"]}, {"parts": ["validation", "test", "test"]}, {"samples": None},
            {"clients": None}]  # fmt: skip
    for keys in same:
        assert config(**document(**keys)).digest == default.digest
    others = [{"parts": ["test"]}, {"samples": 3}, {"samples": 4}, {"clients": 2}, {"tuned": None}]
    assert len({config(**document(**keys)).digest for keys in [{}, *others]}) == 6
    for key in ("parts", "samples", "clients"):
        assert key not in default.scientific()["evaluate"]
        assert key not in parse_yaml(default.to_yaml(), "text")["evaluate"]


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"parts": ["train"]}, "evaluate.parts: .*nothing, since problem 'quadratic' has no samples to choose from"),
        ({"samples": 3}, "evaluate.samples: .*nothing, since problem 'quadratic' has no samples to choose from"),
        ({"clients": 3}, "evaluate.clients: .*nothing, since problem 'quadratic' has no samples to choose from"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_problem_without_samples_has_none_to_choose_from(keys: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        config(problem=COMPARISON, algorithm=ffgg(EXACT), evaluate=keys)
    with pytest.raises(ValueError, match="does not say what of its data is scored"):
        engine(problem=COMPARISON).setup.problem.scored_on(Selection())


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"parts": []}, "evaluate.parts"),
        ({"parts": ["tests"]}, "evaluate.parts"),
        ({"samples": 0}, "evaluate.samples"),
        ({"clients": 7}, "evaluate.clients: .*at most 6, the clients of the partition"),
    ],
    ids=str,
)
def test_what_cannot_be_scored_is_refused(keys: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        config(**document(**keys))


def test_a_diagnosis_looks_at_everything_whatever_a_run_scores() -> None:
    chosen = config(**document(parts=["train"], samples=3, clients=2, tuned=None))
    plain = config(**document())
    found, wanted = (
        diagnose(one, SoloCommunicator(), Silent(), Plan(Path("x"), (one,), trains=True)) for one in (chosen, plain)
    )
    assert found.train_loss == pytest.approx(wanted.train_loss, rel=1e-9)
    assert found.test_loss == pytest.approx(wanted.test_loss, rel=1e-9)
