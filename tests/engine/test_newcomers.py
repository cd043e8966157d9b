"""Clients that are held out of training: the others train as if these were not there, and what they score is checked
by other hands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.agree import SharedUserError
from ppfl.core.errors import UserError
from ppfl.engine.choose import open_engine
from ppfl.engine.evaluate import score_stages
from ppfl.engine.newcomers import with_newcomers
from ppfl.interfaces.client_data import join
from ppfl.interfaces.selection import Selection
from ppfl.results.parameters import load_shared
from ppfl.results.reader import Result, open_result
from ppfl.runs.assemble import build
from ppfl.runs.assemble import build_problem as plain
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests import examples
from tests.algorithms.cases import NAMES, is_gossip, settings_of, split_of, splits_of
from tests.engine.build import config
from tests.ranks import ThreadCommunicator, on_ranks

if TYPE_CHECKING:
    from ppfl.config.run import Config
    from ppfl.core.communicator import Communicator
    from ppfl.engine.evaluate import Stages

SIZES = {"a": (9, 4), "b": (5, 3), "c": (12, 0), "d": (7, 5), "e": (0, 2), "f": (10, 6), "g": (6, 3), "h": (8, 2)}
"""Samples of every client to train on, and to test on."""
HELD_OUT = ("b", "c", "f")
GD: dict[str, Any] = {"name": "gradient_descent", "steps": 1, "lr": 0.3}
FEDAVG: dict[str, Any] = {"name": "fedavg", "lr": 0.2, "local_steps": 2}
FEDREP: dict[str, Any] = {"name": "fedrep", "lr": 0.2, "local_steps": 2, "fine_tuner": {**GD, "steps": 2}}
HEAD: dict[str, Any] = {"split": {"local": ["head.*"]}}
EVALUATE: dict[str, Any] = {"every": 2, "tuned": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of eight clients, and one without those that are held out."""
    path = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(3, 5))
    for name, sizes in SIZES.items():
        for part, size in zip(("train", "test"), sizes, strict=True):
            y = np.arange(size) % 3
            x = centres[y] + draw.normal(size=(size, 5)) + draw.normal(size=5)
            for of in ("all", "others"):
                if of == "all" or name not in HELD_OUT:
                    with h5py.File(path / f"{of}_{part}.h5", "a") as file:
                        group = file.create_group(f"examples/{name}")
                        group["pixels"], group["label"] = x, y
    return path


def document(folder: Path, of: str = "all", **sections: Any) -> dict[str, Any]:
    files = {part: str(folder / f"{of}_{part}.h5") for part in ("train", "test")}
    problem = {
        "name": "supervised",
        "dataset": {"name": "federated_hdf5", "validation": 0.0, **files},
        "model": {"name": "mlp", "hidden": [4, 4]},
        "split": {"local": []},
        "batch_size": 4,
    }
    newcomers = {"newcomers": {"clients": list(HELD_OUT), "fine_tuner": GD}} if of == "all" else {}
    base = {"algorithm": FEDAVG, "rounds": 4, "seed": 5, "evaluate": {**EVALUATE, **newcomers}}
    changed = {**base, **{key: value for key, value in sections.items() if key != "problem"}}
    return {**changed, "problem": {**problem, **sections.get("problem", {})}}


def newcomers(**keys: Any) -> dict[str, Any]:
    return {**EVALUATE, "newcomers": {"clients": list(HELD_OUT), **keys}}


def ended(checked: Config, communicator: Communicator | None = None) -> tuple[Any, Stages]:
    """Run to the end; return the engine and its stages."""
    engine = open_engine(build(checked, communicator or SoloCommunicator()))
    list(engine)
    return engine, with_newcomers(engine, score_stages([engine])[0])


def result(checked: Config, out: Path) -> Result:
    run(checked, out, Silent(), SoloCommunicator())
    return open_result(out)


def assert_trained_alike(folder: Path, out: Path, **sections: Any) -> tuple[Result, Result]:
    """Run with the newcomers held out, and on a file that does not have them: all of training must be the same."""
    evaluate = sections.get("evaluate", {})
    held, alone = (document(folder, of, **sections) for of in ("all", "others"))
    held["evaluate"] = {**newcomers(fine_tuner=GD), **evaluate}
    alone["evaluate"] = {**EVALUATE, **{key: value for key, value in evaluate.items() if key != "newcomers"}}
    found, wanted = result(config(**held), out / "held.h5"), result(config(**alone), out / "alone.h5")
    for group in ("rounds", "clients", "arrivals"):
        theirs, ours = getattr(wanted, group), getattr(found, group)
        for name in {*theirs.data_vars, *theirs.coords} - {"seconds", "communication_seconds", "turnaround_seconds"}:
            assert ours[name].equals(theirs[name]), (group, name)
    theta, expected = load_shared(out / "held.h5"), load_shared(out / "alone.h5")
    assert theta.keys() == expected.keys()
    assert all(torch.equal(theta[name], value) for name, value in expected.items())
    stages = wanted.summary.stage.to_numpy()
    for name, values in wanted.summary.data_vars.items():
        assert np.array_equal(found.summary[name].sel(stage=stages), values, equal_nan=True)
    assert {key: value for key, value in found.problem.items() if key != "num_newcomers"} == wanted.problem
    return found, wanted


@pytest.mark.parametrize("name", NAMES)
def test_every_method_trains_as_if_they_were_not_there(folder: Path, tmp_path: Path, name: str) -> None:
    local = split_of(name, "digits")
    sections = {"algorithm": settings_of(name, "digits"), "problem": {"split": local}}
    if is_gossip(name):
        # one of these clients has nothing to train on, which no node can be
        graph = {"gossip": {"graph": {"name": "ring"}}}
        with pytest.raises(SharedUserError, match="client e has no training samples"):
            assert_trained_alike(folder, tmp_path, **sections, **graph)
        return
    found, _ = assert_trained_alike(folder, tmp_path, **sections)
    assert found.newcomers.client.to_numpy().tolist() == list(HELD_OUT)
    scores = found.newcomers.test_loss.to_numpy()
    assert scores.shape == (3, 3)
    assert np.isfinite(scores[[0, 2]]).all()
    # c has nothing to test on
    assert np.isnan(scores[1]).all()
    assert (scores[[0, 2], 0] != scores[[0, 2], 1]).all()


@pytest.mark.parametrize(
    "sections",
    [
        {"cohort": 0.5, "weights": "samples"},
        {"cohort": 3, "algorithm": FEDREP, "problem": HEAD, "engine": {"clients_per_chunk": 2}},
        {"byzantine": {"clients": 1, "attack": {"name": "sign_flip"}}, "aggregator": {"name": "median"}},
        {"byzantine": {"clients": 2, "attack": {"name": "label_flip"}}},
        {
            "asynchronous": {"engine": "virtual", "concurrency": 2},
            "compute_times": {"name": "exponential"},
            "rounds": 9,
            "evaluate": {"every": 3},
        },
        {"evaluate": {"clients": 2, "samples": 3, "parts": ["train", "test"], "reports": ["shared_gradients"]}},
        {"problem": {"name": "least_squares", **HEAD}, "algorithm": FEDREP},
    ],
    ids=["cohort", "chunks", "vectors", "data", "virtual clock", "selection", "least squares"],
)  # fmt: skip
def test_no_part_of_a_run_knows_of_them(folder: Path, tmp_path: Path, sections: dict[str, Any]) -> None:
    assert_trained_alike(folder, tmp_path, **sections)


def test_messages_in_real_time_leave_them_alone(folder: Path) -> None:
    asynchronous = {"engine": "messages", "concurrency": 2}
    engine, stages = ended(config(**document(folder, asynchronous=asynchronous, rounds=12)))
    assert set(engine.arrivals.arrays()["client"].tolist()) <= set(range(5))
    assert stages.newcomers["test_loss"].shape == (3, 3)


def test_scores_are_those_of_a_softmax_in_numpy(folder: Path, tmp_path: Path) -> None:
    """θ of a run on the file without newcomers; and n gradients of the mean loss over all of a newcomer's samples."""
    linear = {"model": {"name": "logistic_regression"}, "batch_size": "all"}
    sections: dict[str, Any] = {"problem": linear, "evaluate": {"newcomers": {"clients": [*HELD_OUT], "fine_tuner": GD,
                                                                              "steps": [7, 1]}}}  # fmt: skip
    found, _ = assert_trained_alike(folder, tmp_path, **sections)
    theta = {name: value.numpy() for name, value in load_shared(tmp_path / "alone.h5").items()}
    weight, bias = theta["head.weight"], theta["head.bias"]

    def read(part: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        with h5py.File(folder / f"all_{part}.h5") as file:
            return file[f"examples/{name}/pixels"][:], file[f"examples/{name}/label"][:]

    assert found.newcomers.steps.to_numpy().tolist() == [0, 1, 7]
    for name in ("b", "f"):
        (x, y), w, b = read("train", name), weight, bias
        test_x, test_y = read("test", name)
        for steps in range(8):
            if steps in (0, 1, 7):
                z = test_x @ w.T + b
                log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
                ours = found.newcomers.sel(client=name, steps=steps)
                assert float(ours.test_loss) == pytest.approx(-log_p[np.arange(len(test_y)), test_y].mean(), abs=1e-10)
                assert float(ours.test_accuracy) == (z.argmax(axis=1) == test_y).mean()
            p = np.exp(x @ w.T + b)
            error = p / p.sum(axis=1, keepdims=True) - np.eye(3)[y]
            w, b = w - 0.3 * error.T @ x / len(y), b - 0.3 * error.mean(axis=0)


def test_a_local_part_is_tuned_and_theta_left_as_it_is(folder: Path) -> None:
    """As written out for one client: w from the initial law, one batch after another, epoch after epoch."""
    sections = {"algorithm": FEDREP, "problem": HEAD}
    engine, stages = ended(config(**document(folder, **sections, evaluate=newcomers(steps=[1, 2, 3]))))
    problem = engine.setup.newcomers.problem
    objective, theta = problem.objective, engine.server["shared"]
    for client, name in enumerate(HELD_OUT):
        assert problem.client_data.client_names[client] == name
        w = objective.init_local(client)
        batches = [batch for epoch in range(3) for batch in problem.client_data.training_epoch(client, epoch)]
        for column in range(4):
            wanted = problem.scores.client_metrics(theta, w, client)
            for metric, of_all in stages.newcomers.items():
                np.testing.assert_allclose(of_all[client, column], wanted[metric], rtol=1e-10)
            for _ in range(2):
                gradient = objective.local_gradient(theta, w, batches[column])
                w = {key: value - 0.3 * gradient[key] for key, value in w.items()}
    # two gradients a call, of three newcomers
    assert [stages.costs[f"newcomers_{n}"].local_gradients for n in range(4)] == [0.0, 6.0, 12.0, 18.0]
    assert all(cost.shared_gradients == 0 for cost in stages.costs.values())


@pytest.mark.parametrize("name", [name for name in NAMES if splits_of(name) == "all shared"])
def test_methods_with_whole_models_give_a_newcomer_theta(folder: Path, name: str) -> None:
    engine, stages = ended(config(**document(folder, algorithm=settings_of(name, "digits"))))
    problem = engine.setup.newcomers.problem
    theta = engine.server["shared"]
    for client in range(3):
        wanted = problem.scores.client_metrics(theta, {}, client)["test_loss"]
        np.testing.assert_allclose(stages.newcomers["test_loss"][client, 0], wanted, rtol=1e-12)
    cost = stages.costs["newcomers_5"]
    assert (cost.shared_gradients, cost.local_gradients) == (15.0, 0.0)


def test_a_newcomer_of_ditto_is_one_of_fedavg(folder: Path) -> None:
    """θ takes FedAvg's steps, whatever penalty ties the clients' own models to it."""
    ditto = {**FEDAVG, "name": "ditto", "penalty": 0.7}
    one, other = (ended(config(**document(folder, algorithm=algorithm)))[1] for algorithm in (FEDAVG, ditto))
    assert not np.array_equal(one.scores["personal"]["test_loss"], other.scores["personal"]["test_loss"])
    for name, values in one.newcomers.items():
        np.testing.assert_array_equal(values, other.newcomers[name])


def test_without_federation_a_newcomer_begins_at_the_initial_model(folder: Path) -> None:
    engine, stages = ended(config(**document(folder, algorithm={**FEDAVG, "name": "local_only"})))
    problem = engine.setup.newcomers.problem
    wanted = problem.scores.client_metrics(problem.objective.init_shared(), {}, 0)["test_loss"]
    assert stages.newcomers["test_loss"][0, 0] == wanted


def test_an_exact_tuner_needs_one_step(folder: Path) -> None:
    problem = {"name": "least_squares", **HEAD}
    algorithm = {"name": "ffgg", "lr": 0.1, "fine_tuner": {"name": "exact"}}
    engine, stages = ended(config(**document(folder, problem=problem, algorithm=algorithm, evaluate=newcomers())))
    loss = stages.newcomers["test_loss"]
    np.testing.assert_allclose(loss[:, 1], loss[:, 2], rtol=1e-12)
    theirs = engine.setup.newcomers.problem
    every = join(theirs.client_data.training_epoch(0, 0))
    w = theirs.objective.exact_local(engine.server["shared"], every)
    wanted = theirs.scores.client_metrics(engine.server["shared"], w, 0)["test_loss"]
    assert loss[0, 1] == pytest.approx(wanted, rel=1e-10)


def test_who_has_nothing_to_train_on_stays_as_it_is(folder: Path) -> None:
    evaluate = {**EVALUATE, "newcomers": {"clients": ["e", "a"], "fine_tuner": GD}}
    engine, stages = ended(config(**document(folder, evaluate=evaluate)))
    of_a, of_e = stages.newcomers["test_loss"]
    assert of_e[0] == of_e[1] == of_e[2]
    assert len({*of_a.tolist()}) == 3
    assert stages.costs["newcomers_5"].shared_gradients == 5.0
    assert engine.setup.problem.client_data.client_names == ("b", "c", "d", "f", "g", "h")


def test_statistics_are_over_those_with_samples_weighted_by_them(folder: Path) -> None:
    _, stages = ended(config(**document(folder)))
    loss = stages.newcomers["test_loss"]
    assert list(stages.costs) == ["global", "personal", "newcomers_0", "newcomers_1", "newcomers_5"]
    for column, row in enumerate(stages.summary["test_loss"][2:]):
        b, f = loss[[0, 2], column]
        np.testing.assert_allclose(row[:2], [(b + f) / 2, (3 * b + 6 * f) / 9], rtol=1e-14)
        np.testing.assert_allclose(row[3], (b + f) / 2, rtol=1e-14)
    assert stages.summary["validation_loss"].shape == (5, 5)
    assert np.isnan(stages.summary["validation_loss"]).all()


def test_they_are_scored_with_the_rounds_only_where_that_is_asked_for(folder: Path) -> None:
    plain = list(open_engine(build(config(**document(folder)), SoloCommunicator())))
    engine = open_engine(build(config(**document(folder, evaluate=newcomers(fine_tuner=GD, in_rounds=True))),
                               SoloCommunicator()))  # fmt: skip
    told = list(engine)
    stages = with_newcomers(engine, score_stages([engine])[0])
    names = {f"newcomers_{n}_test_{metric}" for n in (0, 1, 5) for metric in ("loss", "accuracy")}
    for one, other in zip(plain, told, strict=True):
        more = {key: value for key, value in other.metrics.items() if key.startswith("newcomers_")}
        assert {key for key in more if "_test_" in key} == names
        assert {key: value for key, value in other.metrics.items() if key not in more}.items() >= {
            key: value for key, value in one.metrics.items() if value == value
        }.items()
        assert {key: value for key, value in other.costs.items() if "seconds" not in key} == {
            key: value for key, value in one.costs.items() if "seconds" not in key
        }
    for column, n in enumerate((0, 1, 5)):
        assert told[-1].metrics[f"newcomers_{n}_test_loss"] == stages.summary["test_loss"][2 + column, 0]
    assert told[0].metrics["newcomers_0_test_loss"] != told[-1].metrics["newcomers_0_test_loss"]


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("algorithm", [FEDAVG, FEDREP], ids=["whole models", "a local part"])
def test_ranks_change_no_bit(folder: Path, algorithm: dict[str, Any], chunk: int) -> None:
    problem, engine = HEAD if algorithm is FEDREP else {}, {"clients_per_chunk": chunk}
    evaluate = newcomers(fine_tuner=GD, in_rounds=True)
    checked = config(**document(folder, algorithm=algorithm, problem=problem, engine=engine, evaluate=evaluate))

    def found(communicator: ThreadCommunicator) -> dict[str, bytes]:
        engine = open_engine(build(checked, communicator))
        scores = {f"{scored.round} {key}": np.asarray(value).tobytes() for scored in engine
                  for key, value in scored.metrics.items()}  # fmt: skip
        stages = with_newcomers(engine, score_stages([engine])[0])
        scores |= {key: value.tobytes() for key, value in stages.newcomers.items()}
        scores |= {f"summary {key}": value.tobytes() for key, value in stages.summary.items()}
        return scores | {f"cost {stage}": repr((cost.shared_gradients, cost.local_gradients)).encode()
                         for stage, cost in stages.costs.items()}  # fmt: skip

    (wanted,) = on_ranks(1, found)
    # of three ranks one has no newcomer
    for ranks in (2, 3):
        assert all(of_rank == wanted for of_rank in on_ranks(ranks, found))


def test_what_is_scored_of_them_is_what_is_scored_of_others(folder: Path) -> None:
    keys = {"parts": ["train", "test"], "samples": 2, "clients": 1}
    engine, stages = ended(config(**document(folder, evaluate={**newcomers(fine_tuner=GD), **keys})))
    assert {"train_loss", "test_loss"} < set(stages.newcomers)
    assert not any(name.startswith("validation") for name in stages.newcomers)
    # all of them, however few of the others are
    assert np.isfinite(stages.newcomers["train_loss"]).all()
    problem = engine.setup.newcomers.problem
    rows = Selection(max_samples=2, seed=5).rows("train", 0, 5)
    chosen = problem.client_data.samples(0, "train", rows)
    wanted = float(problem.objective.loss(engine.server["shared"], {}, chosen))
    assert stages.newcomers["train_loss"][0, 0] == pytest.approx(wanted, rel=1e-12)


def test_texts_hold_clients_out_too() -> None:
    problem = {
        "name": "supervised",
        "dataset": {**examples.section("datasets", "text_hdf5")},
        "model": {"name": "lstm", "embedding": 4, "hidden": 5, "layers": 1},
        "task": {"name": "next_token"},
        "split": {"local": ["head.*"]},
        "batch_size": 2,
    }
    from ppfl.config.run import validate

    keys = {"problem": problem, "algorithm": FEDREP, "evaluate": {**EVALUATE, "newcomers": 0.3}}
    checked = validate({"name": "t", "rounds": 2, **keys}, examples.files("datasets", "text_hdf5"), "test")
    engine, stages = ended(checked)
    data = engine.setup.newcomers.problem.client_data
    facts = data.client_facts()
    assert facts["num_test_tokens"].shape == (data.num_clients,)
    assert np.isfinite(stages.newcomers["test_perplexity"]).any()


def test_a_problem_of_ones_own_that_holds_nobody_out_is_told(folder: Path) -> None:
    def build_problem(*arguments: Any) -> Any:
        return replace(plain(*arguments), newcomers=None)

    with pytest.raises(UserError, match=r"^evaluate.newcomers: problem 'supervised' holds nobody out; leave it out$"):
        build(config(**document(folder)), SoloCommunicator(), build_problem)


def test_a_name_that_nobody_has_is_told_before_training(folder: Path) -> None:
    evaluate = {**EVALUATE, "newcomers": {"clients": ["b", "z"], "fine_tuner": GD}}
    with pytest.raises(UserError, match=r"^evaluate.newcomers.clients: no client is called z; they are a, b, c"):
        build(config(**document(folder, evaluate=evaluate)), SoloCommunicator())


@pytest.mark.parametrize("of", ["newcomers", "tuned"])
def test_what_their_fine_tuner_cannot_do_is_told_where_it_is_named(folder: Path, of: str) -> None:
    theory = {**GD, "lr": "theory"}
    evaluate = newcomers(fine_tuner=theory) if of == "newcomers" else {**newcomers(), "tuned": {"fine_tuner": theory}}
    algorithm = {**FEDREP, "fine_tuner": GD}
    with pytest.raises(UserError, match=rf"^evaluate.{of}.fine_tuner.lr: 'theory' needs"):
        build(config(**document(folder, algorithm=algorithm, problem=HEAD, evaluate=evaluate)), SoloCommunicator())
