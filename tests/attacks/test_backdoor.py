"""Backdoors: what is stamped, what is scored, compared with NumPy, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ppfl.attacks.backdoor import Backdoor
from ppfl.config.errors import ConfigError
from ppfl.core.agree import SharedUserError
from ppfl.core.communicator import Communicator
from ppfl.engine.evaluate import score_stages
from ppfl.interfaces.client_data import LabelledData
from ppfl.interfaces.trigger import SampleFacts, square
from tests.engine.build import config, engine, scores
from tests.ranks import on_ranks

FACTS = SampleFacts((1, 4, 4), num_classes=10, num_attackers=3)
ATTACK: dict[str, Any] = {"name": "backdoor", "target": 2}
RUN: dict[str, Any] = {
    "problem": {
        "name": "supervised",
        "dataset": {"name": "digits", "partition": {"name": "dirichlet", "clients": 6, "alpha": 1.0}},
        "model": {"name": "logistic_regression"},
        "split": {"local": ["*.bias"]},
        "batch_size": 16,
    },
    "algorithm": {"name": "fedsim", "lr": 0.1, "local_steps": 2, "batch_size": 8},
    "byzantine": {"attack": ATTACK, "clients": 2},
    "rounds": 4,
    "evaluate": {"every": 2, "tuned": {"epochs": 0}},
}


def backdoor(**fields: Any) -> Backdoor:
    return Backdoor.model_validate({**ATTACK, **fields})


def with_attack(**fields: Any) -> dict[str, Any]:
    return {**RUN, "byzantine": {"attack": {**ATTACK, **fields}, "clients": 2}}


def test_a_share_of_samples_gets_the_trigger_and_the_target() -> None:
    data = {"x": torch.zeros(10, 1, 4, 4), "y": torch.arange(10), "key": torch.arange(10)}
    poisoned = backdoor(share=0.3, value=0.5).poison(data, 10)
    is_poisoned = np.isin(np.arange(10), [0, 3, 6])
    wanted = np.zeros((10, 1, 4, 4))
    wanted[is_poisoned, :, 2:, 2:] = 0.5
    assert (poisoned["x"].numpy() == wanted).all()
    assert (poisoned["y"].numpy() == np.where(is_poisoned, 2, np.arange(10))).all()
    assert poisoned["key"] is data["key"]
    assert not data["x"].any()


@pytest.mark.parametrize("num_samples", [0, 1, 2])
def test_with_few_samples_one_is_poisoned_if_there_is_any(num_samples: int) -> None:
    data = {"x": torch.zeros(num_samples, 8), "y": torch.full((num_samples,), 1)}
    poisoned = backdoor(share=0.01).poison(data, 10)
    assert (poisoned["y"] == 2).sum() == min(num_samples, 1)
    assert (poisoned["x"][:, 6:] == 1.0).all(dim=1).sum() == min(num_samples, 1)
    assert not poisoned["x"][:, :6].any()


def test_parts_of_attackers_make_up_the_whole_trigger() -> None:
    chosen = backdoor(trigger="parts")
    parts = [chosen.trigger_of(number, FACTS).places for number in range(3)]
    assert sorted(place for part in parts for place in part) == list(square((1, 4, 4), 2))
    (whole,) = chosen.probe(FACTS).triggers
    assert whole.places == square((1, 4, 4), 2)


def test_attackers_with_triggers_of_their_own_have_other_squares() -> None:
    chosen = backdoor(trigger="own")
    own = [chosen.trigger_of(number, FACTS) for number in range(3)]
    assert not set(own[0].places) & set(own[1].places)
    assert chosen.probe(FACTS).triggers == tuple(own)
    assert chosen.trigger_of(4, FACTS) == own[0]


def test_squares_are_in_all_channels() -> None:
    stamped = np.zeros((3, 5, 6))
    stamped[:, 3:, 2:4] = 1.0
    assert square((3, 5, 6), 2, number=1) == tuple(np.flatnonzero(stamped))


@pytest.mark.parametrize("trigger", ["common", "own", "parts"])
def test_success_is_what_numpy_finds(trigger: str) -> None:
    running = engine(**with_attack(trigger=trigger))
    rows = list(running)
    setup, data = running.setup, running.setup.problem.client_data
    assert isinstance(data, LabelledData)
    squares = {"own": [(6, 6), (6, 4)]}.get(trigger, [(6, 6)])
    found, sizes = [], []
    of_clients = score_stages([running])[0].scores["personal"]["test_backdoor_success"]
    for client in data.clients:
        shared, local = setup.algorithm.view(running.server, running.group.state(client))
        weight, bias = shared["head.weight"].numpy(), local["head.bias"].numpy()
        test = data.samples(client, "test", torch.arange(data.part_sizes("test")[client]))
        x, y = test["x"].numpy()[:, 0], test["y"].numpy()
        guesses = []
        for row, column in squares:
            stamped = x[y != 2].copy()
            stamped[:, row : row + 2, column : column + 2] = 1.0
            guesses.append((stamped.reshape(len(stamped), -1) @ weight.T + bias).argmax(axis=1))
        found.append(np.mean(np.concatenate(guesses) == 2))
        sizes.append(int((y != 2).sum()))
    np.testing.assert_array_equal(of_clients, found)
    assert setup.problem.scores.metric_weights("test_backdoor_success") == tuple(sizes)
    honest = [client for client in data.clients if client not in setup.roles.byzantine]
    assert float(rows[-1].metrics["test_backdoor_success"]) == pytest.approx(np.mean(np.array(found)[honest]))


def test_every_attacker_stamps_what_is_its_own() -> None:
    setup = engine(**with_attack(trigger="own", share=1.0)).setup
    first, second = sorted(setup.roles.byzantine)
    for client, (row, column) in ((first, (6, 6)), (second, (6, 4))):
        plain = setup.problem.client_data.data(client, 0)
        seen = setup.roles.seen_by(client, plain)
        wanted = plain["x"].clone()
        wanted[:, :, row : row + 2, column : column + 2] = 1.0
        assert torch.equal(seen["x"], wanted)
        assert (seen["y"] == 2).all()
    honest = min(setup.roles.honest)
    plain = setup.problem.client_data.data(honest, 0)
    assert setup.roles.seen_by(honest, plain) is plain


@pytest.mark.parametrize("evaluate", [{"samples": 3}, {"samples": 9, "clients": 2}])
def test_where_few_samples_are_scored_success_is_of_those(evaluate: dict[str, Any]) -> None:
    running = engine(**{**RUN, "evaluate": {"every": 2, "tuned": {"epochs": 0}, **evaluate}})
    rows = list(running)
    setup, data = running.setup, running.setup.problem.client_data
    assert isinstance(data, LabelledData)
    scored, weights = setup.problem.scores, []
    for client in data.clients:
        chosen = setup.problem.scores.selection.rows("test", client, data.part_sizes("test")[client])
        others = int((data.samples(client, "test", chosen)["y"] != 2).sum())
        weights.append(others if client in scored.scored_clients(data.clients) else 0)
    assert scored.metric_weights("test_backdoor_success") == tuple(weights)
    assert 0.0 <= float(rows[-1].metrics["test_backdoor_success"]) <= 1.0


def numbers(found: Any) -> list[tuple[Any, ...]]:
    return [(one.round, *((name, np.asarray(value).tobytes()) for name, value in one.metrics.items())) for one in found]


@pytest.mark.parametrize("sections", [{}, {"aggregator": {"name": "krum", "f": 1}}], ids=["mean", "krum"])
def test_ranks_have_the_bits_of_one_process(sections: dict[str, Any]) -> None:
    run = {**with_attack(trigger="own"), **sections}
    alone = numbers(scores(**run))
    assert on_ranks(2, lambda communicator: numbers(scores(communicator, **run))) == [alone, alone]


def test_chunks_of_clients_have_the_scores_of_the_loop() -> None:
    run = {**with_attack(trigger="parts"), "precision": "float64"}
    loop, chunks = scores(**run), scores(**run, engine={"clients_per_chunk": 3})
    assert loop[-1].metrics["loss"] == pytest.approx(chunks[-1].metrics["loss"], rel=1e-9)
    assert loop[-1].metrics["test_backdoor_success"] == chunks[-1].metrics["test_backdoor_success"]


def test_asynchronous_runs_are_attacked_and_scored() -> None:
    virtual = {"compute_times": {"name": "exponential"}, "asynchronous": {"engine": "virtual", "concurrency": 4}}
    sections: dict[str, Any] = {**RUN, **virtual, "rounds": 60, "evaluate": {"every": 60, "tuned": {"epochs": 0}}}
    sections["problem"] = {**RUN["problem"], "split": {"local": []}}
    sections["algorithm"] = {**RUN["algorithm"], "name": "fedavg", "lr": 0.5}
    first, *_, last = scores(**sections)
    assert 0.0 <= float(first.metrics["test_backdoor_success"]) < float(last.metrics["test_backdoor_success"]) <= 1.0


def test_other_attacks_are_not_scored_so() -> None:
    found = scores(**{**RUN, "byzantine": {"attack": {"name": "label_flip"}, "clients": 2}})
    assert not [name for name in found[-1].metrics if "backdoor" in name]


@pytest.mark.parametrize("fields", [{"share": 0.0}, {"share": 1.5}, {"target": -1}, {"size": 0}, {"trigger": "all"}])
def test_settings_that_mean_nothing_are_refused(fields: dict[str, Any]) -> None:
    (key,) = fields
    with pytest.raises(ConfigError, match=rf"byzantine\.attack\.{key}: "):
        config(**with_attack(**fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": 10}, "byzantine.attack.target: is 10, and there are 10 classes; allowed: at most 9"),
        ({"size": 9}, "byzantine.attack.size: is 9, and samples have 8 × 8 pixels; allowed: at most 8"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_on_all_ranks(fields: dict[str, Any], message: str) -> None:
    def refused(communicator: Communicator) -> str:
        with pytest.raises(SharedUserError) as error:
            engine(communicator, **with_attack(**fields))
        return str(error.value)

    assert on_ranks(2, refused) == [message, message]


def test_tokens_and_long_runs_of_numbers_are_refused() -> None:
    with pytest.raises(SharedUserError, match="samples are tokens"):
        backdoor().refuse_samples(SampleFacts(None, 10, 1))
    with pytest.raises(SharedUserError, match="is 5, and samples have 4 numbers; allowed: at most 4"):
        backdoor(size=5).refuse_samples(SampleFacts((4,), 10, 1))
