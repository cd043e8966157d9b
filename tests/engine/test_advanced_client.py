"""Scores and fine-tuning from samples that are advanced once, against the same from the samples as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.communicator import Communicator
from ppfl.core.types import Data, Params
from ppfl.engine import evaluate
from ppfl.engine.evaluate import score_stages
from ppfl.engine.synchronous import Synchronous
from ppfl.interfaces import advanced_client
from ppfl.interfaces.client_data import join, num_samples
from ppfl.interfaces.method import ExactFineTuner
from ppfl.pack.cells import LastProblem
from ppfl.problems._supervised_objective import Supervised
from ppfl.runs.assemble import build
from tests.algorithms.cases import DIGITS, NAMES, sections
from tests.engine.build import config, engine, ffgg
from tests.ranks import on_ranks
from tests.supervised_problems import CNN, close, make

GD: dict[str, Any] = {"name": "gradient_descent", "steps": 2, "lr": 0.1}
SGD: dict[str, Any] = {"name": "sgd", "lr": 0.1, "batch_size": 5, "epochs": 1, "start": "zero"}
Scores = dict[str, dict[str, np.ndarray]]


def tuned(tuner: dict[str, Any], epochs: int = 2) -> dict[str, Any]:
    """Return a section `evaluate`."""
    return {"every": 100, "tuned": {"epochs": epochs, "fine_tuner": tuner}}


def plain_scores(objective: Supervised, data: Any, shared: Params, local: Params, client: int) -> dict[str, float]:
    """Loss and accuracy on the samples as they are, all at once."""
    scores: dict[str, float] = {}
    for part in ("test", "validation"):
        batch = data.samples(client, part, torch.arange(data.part_sizes(part)[client]))
        logits = objective._network.suffix({**shared, **local}, objective._network.prefix(shared, batch["x"]))
        loss = objective.criterion.mean(logits, batch) if len(batch["y"]) else torch.tensor(torch.nan)
        scores[f"{part}_loss"] = float(loss)
        scores[f"{part}_accuracy"] = float((logits.argmax(dim=1) == batch["y"]).double().mean())
    return scores


def plain_tuned(setup: Any, shared: Params, local: Params, client: int) -> tuple[Params, Params]:
    """Fine-tuning on batches of the samples as they are."""
    tuner, problem = setup.tuned_fine_tuner, setup.tuned_problem
    if problem is not setup.problem:
        shared, local = {}, {name: {**shared, **local}[name] for name in problem.local_names}
    calls = 0
    for epoch in range(setup.tuned_epochs):
        batches = problem.client_data.training_epoch(client, epoch)
        for data in [join(batches)] if isinstance(tuner, ExactFineTuner) else batches:
            draws = tuner.draws(problem.objective, client, setup.num_rounds + calls, num_samples(data))
            start = tuner.begin(local, draws) if calls == 0 else local
            local = tuner.tune(problem.objective, shared, start, data, draws).local
            calls += 1
    return shared, local


def plain(running: Synchronous) -> Scores:
    """Score every stage and client by itself."""
    setup, server = running.setup, running.server
    problem, found = setup.problem, []
    for client in running.group.clients:
        initial = setup.algorithm.init_client(server["shared"], problem.objective.init_local(client))
        personal = setup.algorithm.view(server, running.group.state(client))
        stages = {"global": setup.algorithm.view(server, initial), "personal": personal}
        stages["tuned"] = plain_tuned(setup, *personal, client)
        of_client = {}
        for stage, params in stages.items():
            objective = (setup.tuned_problem if stage == "tuned" else problem).objective
            of_client[stage] = plain_scores(objective, problem.client_data, *params, client)
        found.append(of_client)
    return {
        stage: {name: np.array([one[stage][name] for one in found]) for name in found[0][stage]} for stage in found[0]
    }


def refuse_differences(found: Scores, wanted: Scores) -> None:
    """Compare to 1e-10."""
    assert list(found) == list(wanted)
    for stage, scores in wanted.items():
        assert list(found[stage]) == list(scores)
        for name, values in scores.items():
            np.testing.assert_allclose(found[stage][name], values, rtol=1e-10, atol=1e-10, err_msg=f"{stage} {name}")


@pytest.fixture
def advanced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of samples that went through the shared stages, one a call; what is advanced already is not counted."""
    counts: list[int] = []
    original = Supervised.advance

    def counted(self: Supervised, shared: Params, data: Data) -> Data:
        if "features" not in data:
            counts.append(len(data["x"]))
        return original(self, shared, data)

    monkeypatch.setattr(Supervised, "advance", counted)
    return counts


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_of_every_method_is_that_of_the_samples_as_they_are(name: str) -> None:
    running = engine(**sections(name, "digits", rounds=2, evaluate=tuned(GD)))
    list(running)
    refuse_differences(score_stages([running])[0].scores, plain(running))


@pytest.mark.parametrize("local", [["head.*"], ["hidden2.*", "head.*"], ["hidden1.*"], ["*"], []], ids=str)
@pytest.mark.parametrize("tuner", [SGD, {"name": "lbfgs", "steps": 2}], ids=lambda tuner: tuner["name"])
def test_wherever_the_cut_is(tuner: dict[str, Any], local: list[str]) -> None:
    problem = {**DIGITS, "model": {"name": "mlp", "hidden": [12, 7]}, "split": {"local": local}}
    method = {"name": "fedavg", "lr": 0.1, "epochs": 1} if local == [] else ffgg(GD, 0.1)
    running = engine(problem=problem, algorithm=method, rounds=2, evaluate=tuned(tuner))
    list(running)
    refuse_differences(score_stages([running])[0].scores, plain(running))


def test_an_exact_tuner_sees_all_samples_at_once() -> None:
    problem = {**DIGITS, "name": "least_squares", "split": {"local": ["head.*"]}}
    exact = {"name": "exact"}
    running = engine(problem=problem, algorithm=ffgg(exact, 0.1), rounds=2, evaluate=tuned(exact))
    list(running)
    refuse_differences(score_stages([running])[0].scores, plain(running))


def test_samples_are_advanced_once_for_all_stages_and_epochs_at_one_theta(advanced: list[int]) -> None:
    def rows_of(name: str, *, anew: bool = True) -> tuple[int, int, int]:
        running = engine(**sections(name, "digits", evaluate=tuned(GD, epochs=4)))
        list(running)
        if anew:
            running.advanced.clear()
        data = running.setup.problem.client_data
        advanced.clear()
        score_stages([running])
        held_out = sum(data.num_test_samples) + sum(data.num_validation_samples)  # type: ignore[attr-defined]
        return sum(advanced), held_out, sum(data.num_train_samples)

    found, held_out, train = rows_of("ffgg")
    assert found == held_out + train
    # the last round has left the scored samples at the same θ
    found, _, train = rows_of("ffgg", anew=False)
    assert found == train
    # θ for one stage, what the client has made of it for the two others
    found, held_out, train = rows_of("local_only")
    assert found == 2 * held_out + train
    # the same, and whole models are tuned: nothing comes before the cut, and samples are brought into form once
    found, held_out, train = rows_of("ditto")
    assert found == 3 * held_out + train


def test_pieces_are_full_across_parts(advanced: list[int]) -> None:
    problem = make({"dataset": {"name": "digits", "partition": {"name": "iid", "clients": 2}}})
    shared, local = problem.objective.init_shared(), problem.objective.init_local(0)
    problem.scores.client_metrics(shared, local, 0)
    data = problem.client_data
    total = data.num_test_samples[0] + data.num_validation_samples[0]
    assert advanced == [128, 128, total - 256]
    assert data.num_test_samples[0] % 128
    list(problem.scores.advanced(0).epoch(shared, 0))
    assert set(advanced[3:-1]) == {128}
    assert sum(advanced[3:]) == data.num_train_samples[0]


def test_other_values_of_theta_are_seen_and_equal_ones_too(advanced: list[int]) -> None:
    problem = make()
    shared, client = problem.objective.init_shared(), problem.scores.advanced(1)
    first = list(client.epoch(shared, 0))
    copied = {name: value.clone() for name, value in shared.items()}
    done = len(advanced)
    for batch, again in zip(first, client.epoch(copied, 0), strict=True):
        close({name: batch[name] for name in ("features",)}, {name: again[name] for name in ("features",)})
    assert len(advanced) == done
    copied["hidden1.bias"] = copied["hidden1.bias"] + 1.0
    for batch, moved, raw in zip(first, client.epoch(copied, 0), problem.client_data.training_epoch(1, 0), strict=True):
        assert not torch.equal(batch["features"], moved["features"])
        wanted = problem.objective.advance(copied, raw)
        close({"features": moved["features"]}, {"features": wanted["features"]})
        assert torch.equal(moved["y"], raw["y"])


def test_what_is_beyond_the_budget_is_advanced_again(monkeypatch: pytest.MonkeyPatch, advanced: list[int]) -> None:
    """Scores have the same bits whatever is kept; batches that are tuned on equal others to rounding."""
    running = engine(**sections("ffgg", "digits", evaluate=tuned(GD, epochs=3)))
    list(running)
    running.advanced.clear()
    advanced.clear()
    kept, counts = score_stages([running])[0].scores, [sum(advanced)]
    for budget in (20_000, 2_000, 0):
        monkeypatch.setattr(advanced_client, "KEPT_BYTES", budget)
        advanced.clear()
        found = score_stages([running])[0].scores
        counts.append(sum(advanced))
        for stage in ("global", "personal"):
            for name, values in kept[stage].items():
                assert np.array_equal(found[stage][name], values, equal_nan=True)
        refuse_differences(found, kept)
    assert counts == sorted(counts)
    assert counts[0] < counts[1] < counts[2]


def test_what_waits_for_the_final_stages_is_bounded_and_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, waiting = None, []
    for budget in (1 << 28, 10_000, 0):
        monkeypatch.setattr(evaluate, "KEPT_BYTES", budget)
        running = engine(**sections("ffgg", "digits", precision="float32", evaluate=tuned(GD)))
        list(running)
        waiting.append(len(running.advanced))
        assert sum(client.kept_bytes for client in running.advanced.values()) <= budget
        found = score_stages([running])[0].scores
        assert not running.advanced
        wanted = wanted or found
        for stage, scores in wanted.items():
            assert all(found[stage][name].tobytes() == values.tobytes() for name, values in scores.items())
    assert waiting == sorted(waiting, reverse=True)
    assert waiting[0] == running.setup.problem.client_data.num_clients > waiting[1] > waiting[2] == 0


def bits(running: Synchronous) -> dict[tuple[str, str], bytes]:
    """Run to the end; the scores of all stages as bytes."""
    list(running)
    return {
        (stage, name): values.tobytes()
        for stage, scores in score_stages([running])[0].scores.items()
        for name, values in scores.items()
    }


@pytest.mark.parametrize("budget", [1 << 28, 3_000])
def test_ranks_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    monkeypatch.setattr(advanced_client, "KEPT_BYTES", budget)
    dataset = {"name": "digits", "partition": {"name": "dirichlet", "clients": 6, "alpha": 0.5}}
    problem = {**DIGITS, "dataset": dataset, "model": CNN, "split": {"local": ["head.*"]}}
    keys = {"problem": problem, "algorithm": ffgg(GD, 0.1), "rounds": 2, "precision": "float32", "evaluate": tuned(GD)}

    def on_rank(communicator: Communicator) -> dict[tuple[str, str], bytes]:
        return bits(engine(communicator, **keys))

    (alone,) = on_ranks(1, on_rank)
    for size in (2, 3):
        assert all(found == alone for found in on_ranks(size, on_rank))


def test_runs_that_share_a_problem_have_the_bits_of_runs_alone() -> None:
    """As in a pack, where one follows on the other."""
    build_problem = LastProblem()
    for name in ("ffgg", "ditto", "ffgg"):
        for samples in (None, 3):
            evaluate = {**tuned(GD), "parts": ["train", "test"], "samples": samples}
            document = config(**sections(name, "digits", precision="float32", evaluate=evaluate))
            packed = Synchronous(build(document, SoloCommunicator(), build_problem))
            alone = Synchronous(build(document, SoloCommunicator()))
            assert packed.setup.problem.client_data is not alone.setup.problem.client_data
            assert bits(packed) == bits(alone)
