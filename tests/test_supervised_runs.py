"""The classification problem in a run: scores, facts, ranks, and settings that are refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.communicator import Communicator
from ppfl.core.errors import UserError
from ppfl.networks.pieces import CPU
from ppfl.problems._supervised_problem import SupervisedProblem
from ppfl.problems.supervised import SupervisedSettings
from ppfl.runs.assemble import build
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.engine.build import config, ffgg
from tests.ranks import on_ranks
from tests.supervised_problems import CONFIG, PROBLEMS, make

torch.set_num_threads(1)

HEAD_STEPS = {"name": "gradient_descent", "steps": 1, "lr": 0.1}


def write_two_clients(folder: Path, num_test: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    for part, sizes in (("train", {"a": 40, "b": 1, "c": 0}), ("test", {"a": num_test})):
        with h5py.File(folder / f"{part}.h5", "w") as file:
            for name, size in sizes.items():
                file[f"examples/{name}/pixels"] = random.random((size, 3)).astype(np.float32)
                file[f"examples/{name}/label"] = random.integers(0, 4, size)
    return {
        "dataset": {
            "name": "federated_hdf5", "train": str(folder / "train.h5"), "test": str(folder / "test.h5"),
        },
        "model": {"name": "logistic_regression"},
        "split": {"local": ["head.bias"]},
    }  # fmt: skip


def test_scores_are_those_of_all_samples_at_once(tmp_path: Path) -> None:
    num_test = 2 * CPU.rows + 3
    problem = make(write_two_clients(tmp_path, num_test))
    with h5py.File(tmp_path / "test.h5") as file:
        x, y = (torch.from_numpy(file[f"examples/a/{field}"][()]) for field in ("pixels", "label"))
    shared, local = problem.objective.init_shared(), problem.objective.init_local(0)
    scores = problem.scores.client_metrics(shared, local, 0)
    logits = x.double() @ shared["head.weight"].T + local["head.bias"]
    assert scores["test_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, y)), rel=1e-12)
    assert scores["test_accuracy"] == int((logits.argmax(1) == y).sum()) / num_test
    assert 0 <= scores["validation_accuracy"] <= 1
    assert all(type(value) is float for value in scores.values())
    in_round = problem.scores.round_metrics(shared, local, 0, 4)
    assert in_round["loss"] == float(problem.objective.loss(shared, local, problem.client_data.data(0, 4)))
    assert {name: in_round[name] for name in scores} == scores
    assert problem.scores.metric_weights("loss") == problem.client_data.num_train_samples == (36, 1, 0)
    assert problem.scores.metric_weights("test_loss") == problem.client_data.num_test_samples == (num_test, 0, 0)
    assert (
        problem.scores.metric_weights("validation_accuracy") == problem.client_data.num_validation_samples == (4, 0, 0)
    )


def test_clients_without_samples_have_no_scores(tmp_path: Path) -> None:
    problem = make(write_two_clients(tmp_path, 5))
    shared, local = problem.objective.init_shared(), problem.objective.init_local(1)
    one_sample = problem.scores.round_metrics(shared, local, 1, 0)
    assert [name for name, value in one_sample.items() if not math.isnan(value)] == ["loss"]
    nothing = problem.scores.round_metrics(shared, local, 2, 0)
    assert list(nothing) == list(one_sample)
    assert all(math.isnan(value) for value in nothing.values())
    assert len(problem.client_data.data(2, 0)["y"]) == 0
    assert problem.client_data.training_epoch(2, 0) == []


@pytest.mark.parametrize("settings", PROBLEMS)
def test_accuracy_is_nan_where_a_logit_is_not_finite(tmp_path: Path, settings: dict[str, Any]) -> None:
    """None of them is the largest; argmax would name the first, and the share of its class is no accuracy."""
    problem = make({**write_two_clients(tmp_path, 50), **settings})
    shared, local = problem.objective.init_shared(), problem.objective.init_local(0)
    for value in (math.nan, math.inf):
        bad = {name: torch.full_like(of, value) for name, of in local.items()}
        bad["head.bias"][1:] = 0.0
        scores = problem.scores.client_metrics(shared, bad, 0)
        assert math.isnan(scores["test_accuracy"])
        assert math.isnan(scores["validation_accuracy"])


def test_accuracy_of_a_run_that_diverges_is_nan_in_every_stage(tmp_path: Path) -> None:
    document = {**CONFIG, **write_two_clients(tmp_path, 50), "batch_size": "all"}
    far = {"algorithm": ffgg(HEAD_STEPS, 1e45), "precision": "float32"}
    chosen = config(problem=document, rounds=6, evaluate={"every": 1}, **far)
    assert run(chosen, tmp_path / "out.h5", Silent()) == "diverged"
    with h5py.File(tmp_path / "out.h5") as file:
        for part in ("test", "validation"):
            series = file[f"rounds/{part}_accuracy"][()]
            assert 0 <= series[0] <= 1
            assert math.isnan(series[-1])
            assert np.isnan(file[f"summary/{part}_accuracy"]).all()
            for stage in ("global", "personal", "tuned"):
                assert math.isnan(file[f"clients/{stage}_{part}_accuracy"][0])


def test_facts_and_histogram() -> None:
    problem = make()
    facts = problem.theory.facts()
    assert facts["num_local_parameters"] == 7 * 10 + 10
    assert facts["num_shared_parameters"] == 64 * 12 + 12 + 12 * 7 + 7
    assert sum(facts[f"num_{part}_samples"] for part in ("train", "validation", "test")) == 1797
    histogram = problem.client_data.client_facts()["label_histogram"]
    assert histogram is problem.client_data.label_histogram
    assert histogram.shape == (6, 10)
    assert histogram.dtype == np.int64
    from sklearn.datasets import load_digits

    assert np.array_equal(histogram.sum(axis=0), np.bincount(load_digits().target))
    sizes = np.array(
        [
            problem.client_data.num_train_samples,
            problem.client_data.num_validation_samples,
            problem.client_data.num_test_samples,
        ]
    )
    assert np.array_equal(histogram.sum(axis=1), sizes.sum(axis=0))


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_ranks_have_the_bits_of_one_process(num_ranks: int) -> None:
    alone = make(dtype=torch.float32)
    problems = on_ranks(num_ranks, lambda communicator: make(communicator=communicator, dtype=torch.float32))
    assert [client for problem in problems for client in problem.client_data.clients] == list(range(6))
    for problem in problems:
        assert np.array_equal(problem.client_data.label_histogram, alone.client_data.label_histogram)
        assert problem.theory.facts() == alone.theory.facts()
        assert all(
            torch.equal(value, alone.objective.init_shared()[name])
            for name, value in problem.objective.init_shared().items()
        )
        for client in problem.client_data.clients:
            data, wanted = problem.client_data.data(client, 2), alone.client_data.data(client, 2)
            assert all(torch.equal(data[name], wanted[name]) for name in wanted)
            shared, local = alone.objective.init_shared(), alone.objective.redraw_local(client, 0)
            assert problem.scores.round_metrics(shared, local, client, 1) == alone.scores.round_metrics(
                shared, local, client, 1
            )


def test_number_of_classes_is_that_of_all_ranks(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "train.h5", "w") as file:
        for name, label in (("a", 0), ("b", 6)):
            file[f"examples/{name}/pixels"] = np.zeros((4, 3), np.uint8)
            file[f"examples/{name}/label"] = np.full(4, label)
    keys = {
        "dataset": {"name": "federated_hdf5", "train": str(tmp_path / "train.h5")},
        "model": {"name": "logistic_regression"},
        "split": {"local": ["head.bias"]},
    }
    for problem in on_ranks(3, lambda communicator: make(keys, communicator=communicator)):
        assert problem.client_data.label_histogram.tolist() == [[4, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 4]]
        assert problem.objective.init_shared()["head.weight"].shape == (7, 3)


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"split": {"local": ["hed.*"]}}, "split"),
        ({"split": {"local": ["head.*", "hidden1.*", "hidden2.*"]}}, "split"),
        ({"split": {"local": "head.*"}}, "split"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "some"}, "batch_size"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"model": {"name": "cnm"}}, "model"),
        ({"dataset": {"name": "digits"}}, "dataset"),
        ({"optimizer": {}}, "optimizer"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused_before_anything_is_loaded(keys: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SupervisedSettings.model_validate({**CONFIG, **keys})
    assert {error["loc"][0] for error in caught.value.errors()} == {field}


def test_a_glob_that_matches_nothing_is_told_with_the_names() -> None:
    with pytest.raises(ValidationError, match=r"'hed\.\*' matches no parameter; the parameters are hidden1\.weight"):
        SupervisedSettings.model_validate({**CONFIG, "split": {"local": ["hed.*"]}})


def test_models_that_the_samples_do_not_suit_are_refused_on_every_rank() -> None:
    def refused(communicator: Communicator) -> bool:
        with pytest.raises(UserError, match=r"problem\.model: the images \(1, 8, 8\)"):
            make({"model": {"name": "cnn"}}, communicator=communicator)
        return True

    assert on_ranks(2, refused) == [True, True]


def test_data_without_anything_to_train_on_is_refused(tmp_path: Path) -> None:
    keys = write_two_clients(tmp_path, 5)
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file["examples/a/pixels"] = np.zeros((0, 3), np.float32)
        file["examples/a/label"] = np.zeros(0, np.int64)
    with pytest.raises(UserError, match=r"problem\.dataset: no client has a training sample"):
        make(keys)


def test_what_a_run_asks_for_reaches_the_model_and_the_deal_of_clients() -> None:
    """Precision of the body, and the samples of a round, by which clients are dealt to ranks."""

    def build_with(communicator: Communicator, precision: str, batch_size: int | str) -> SupervisedProblem:
        dataset = {"name": "digits", "partition": {"name": "dirichlet", "clients": 6, "alpha": 0.1}}
        model = {"name": "cnn", "kernel_size": 3, "padding": 1}
        problem = {**CONFIG, "dataset": dataset, "model": model, "batch_size": batch_size}
        cpu = {"device": "cpu"}
        run = config(problem=problem, precision=precision, algorithm=ffgg(HEAD_STEPS, 0.1), engine=cpu)
        built = build(run, communicator).problem
        assert isinstance(built, SupervisedProblem)
        return built

    for precision, body in (("float32", None), ("bfloat16", torch.bfloat16)):
        built = build_with(SoloCommunicator(), precision, 20)
        assert built.objective._network.body_dtype == body
        assert {value.dtype for value in built.objective.init_shared().values()} == {torch.float32}
    with pytest.raises(UserError, match="tf32 is a number type of GPUs"):
        build_with(SoloCommunicator(), "tf32", 20)
    sizes = build_with(SoloCommunicator(), "float32", "all").client_data.num_train_samples
    for batch_size, used in (("all", list(sizes)), (5, [min(size, 5) for size in sizes])):
        deals = on_ranks(2, lambda c, size=batch_size: build_with(c, "float32", size).client_data.clients)
        busiest = max(sum(used[m] for m in clients) for clients in deals)
        least = min(max(sum(used[:cut]), sum(used[cut:])) for cut in range(1, len(used)))
        assert busiest == least, batch_size
