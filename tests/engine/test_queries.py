"""Query points: who asks, who answers, what leaves a client, and the same bits however a run is mapped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.agree import SharedUserError
from ppfl.core.communicator import LocalParameterError
from ppfl.core.rng import generator
from ppfl.engine.mapping.laned import Laned
from ppfl.engine.synchronous import Synchronous
from ppfl.interfaces.pre_aggregator import RandomKey
from tests.engine.build import engine
from tests.engine.interrupted import fingerprint, go_on
from tests.ranks import on_ranks

NNM_TRIMMED = {"name": "trimmed_mean", "f": 2, "before": [{"name": "nnm"}]}
MEANS = {"name": "quadratic", "generator": "means", "clients": 9, "shared_dimension": 4}
DIGITS = {
    "name": "supervised",
    "model": {"name": "mlp", "hidden": [5]},
    "dataset": {"name": "digits", "partition": {"name": "dirichlet", "clients": 9, "alpha": 1.0, "min_samples": 8}},
    "split": {"local": ["head.*"]},
    "batch_size": "all",
}
FLIP = {"attack": {"name": "sign_flip"}, "clients": 2, "placement": "among"}


def asking(problem: dict[str, Any] = MEANS, rounds: int = 3, others: Any = None, **settings: Any) -> dict[str, Any]:
    """Return the sections of a run of interpolation under attack."""
    method = {"name": "interpolation", "lr": 0.3, "collaboration": 0.5, **settings}
    base = {"problem": problem, "rounds": rounds, "algorithm": method, "aggregator": NNM_TRIMMED, "byzantine": FLIP}
    return {**base, **(others or {})}


def personal(running: Any) -> dict[int, np.ndarray]:
    """Run to the end and return θ_i of each client of this rank."""
    list(running)
    return {
        client: np.concatenate([x.numpy().ravel() for x in running.group.state(client)["personal"].values()])
        for client in running.group.clients
    }


RUNS = {
    "lanes": asking(),
    "some are main": asking(main_clients=3),
    "part of the clients": asking(main_clients=4, others={"cohort": 8}),
    "networks in mini-batches": asking(DIGITS, rounds=2, batch_size=5, main_clients=2, lr=0.1),
}


@pytest.mark.parametrize("name", RUNS)
def test_three_ranks_give_the_bits_of_one(name: str) -> None:
    def bits(communicator: Any = None) -> dict[Any, bytes]:
        running = engine(communicator, **RUNS[name])
        return fingerprint(running, list(running))

    alone, covered = bits(), set()
    for found in on_ranks(3, bits):
        assert all(alone[key] == value for key, value in found.items())
        covered |= found.keys()
    assert covered == alone.keys()


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_was_interrupted_goes_on_with_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = engine(**RUNS[name])
    expected = fingerprint(whole, list(whole))
    go_on(SoloCommunicator(), tmp_path, 1, **RUNS[name])
    running, scores = go_on(SoloCommunicator(), tmp_path, None, **RUNS[name])
    found = fingerprint(running, scores)
    assert found
    assert all(expected[key] == value for key, value in found.items())


@pytest.mark.parametrize("name", ["some are main", "networks in mini-batches"])
def test_vectorized_chunks_equal_the_loop(name: str) -> None:
    one = personal(engine(**RUNS[name]))
    three = personal(engine(**RUNS[name], engine={"clients_per_chunk": 3}))
    for client, value in one.items():
        np.testing.assert_allclose(three[client], value, rtol=1e-10, atol=1e-10)


def test_lanes_have_the_bits_of_the_loop() -> None:
    lanes, stored = engine(**RUNS["lanes"]), engine(**RUNS["lanes"], engine={"client_state": "file"})
    assert isinstance(lanes.group.mapping, Laned)
    assert not isinstance(stored.group.mapping, Laned)
    in_lanes, looped = personal(lanes), personal(stored)
    assert all(in_lanes[client].tobytes() == looped[client].tobytes() for client in in_lanes)


def test_fewer_main_clients_are_where_they_would_be_among_all() -> None:
    some, everyone = engine(**asking(main_clients=3)), engine(**asking())
    few, many = personal(some), personal(everyone)
    mains = some.setup.algorithm.mains
    assert len(mains) == 3
    assert not set(mains) & some.setup.roles.byzantine
    assert len(everyone.setup.algorithm.mains) == 7
    for client in mains:
        np.testing.assert_allclose(few[client], many[client], rtol=1e-12)


def test_who_only_answers_is_alone_and_counts_in_no_mean() -> None:
    running = engine(**asking(main_clients=["3", "4"], others={"byzantine": {**FLIP, "clients": ["0", "1"]}}))
    (*_, last) = running
    assert running.setup.algorithm.mains == (3, 4)
    alone = personal(engine(**asking(collaboration=0.0)))
    np.testing.assert_allclose(running.group.state(7)["personal"]["theta"], alone[7], rtol=1e-12)
    scores = running.setup.problem.scores
    losses = [
        scores.client_metrics(running.group.state(m)["personal"], {"w": torch.zeros(1)}, m)["loss"] for m in (3, 4)
    ]
    assert last.metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-12)


def test_means_over_main_clients_are_the_same_in_lanes_and_client_by_client() -> None:
    """With attackers beside them all clients are honest, and scored as lanes."""
    beside = {"byzantine": {**FLIP, "placement": "beside"}}
    lanes, stored = (
        list(engine(**asking(main_clients=2, others=beside), engine={"client_state": kind}))[-1].metrics
        for kind in ("device", "file")
    )
    everyone = list(engine(**asking(others=beside)))[-1].metrics
    assert lanes["loss"] == stored["loss"]
    assert lanes["loss"] != everyone["loss"]


def test_costs_are_those_of_reports_and_of_all_that_is_told() -> None:
    costs = list(engine(**asking(rounds=2, main_clients=3)))[-1].costs
    # nine answer at each of three query points, and take a step of their own
    assert costs["shared_gradients"] == 2 * (3 * 9 + 9)
    assert costs["local_gradients"] == 2 * 9
    of_theta = 4 * 8
    assert costs["uplink_bytes"] == costs["downlink_bytes"] == 2 * (3 * 9 + 3) * of_theta


NOISE = {"attack": {"name": "gaussian", "standard_deviation": 1.0}, "clients": 2, "placement": "among"}
RANDOM: dict[str, dict[str, Any]] = {
    "attack": {"byzantine": NOISE, "aggregator": {"name": "mean"}},
    "buckets": {"aggregator": {"name": "median", "before": [{"name": "bucketing", "size": 2}]}},
}


@pytest.mark.parametrize("others", RANDOM.values(), ids=list(RANDOM))
def test_random_choices_differ_between_query_points(others: dict[str, Any]) -> None:
    """From one common θ all would receive the same, were it not for what is drawn."""
    drawn = personal(engine(**asking(rounds=1, collaboration=1.0, others=others)))
    same = personal(engine(**asking(rounds=1, collaboration=1.0)))
    honest = engine(**asking()).setup.algorithm.mains
    assert len({same[client].tobytes() for client in honest}) == 1
    assert len({drawn[client].tobytes() for client in honest}) == 7


def test_without_query_points_keys_are_those_of_seed_round_and_client() -> None:
    first, second = RandomKey(3, 5).generator("bucketing", 2), generator(3, "bucketing", round=5, client=2)
    assert first.random() == second.random()
    assert RandomKey(3, 5, query=0).generator("bucketing", 2).random() != second.random()


def changed(running: Synchronous, **methods: Any) -> Synchronous:
    """Return the same run with other methods of the clients."""
    kind = type("Changed", (type(running.setup.algorithm),), methods)
    algorithm = kind.model_construct(**vars(running.setup.algorithm))
    return Synchronous(replace(running.setup, algorithm=algorithm))


def test_names_of_a_query_point_may_stand_in_any_order() -> None:
    document = asking({**DIGITS, "split": {"local": []}}, rounds=1)
    backwards = changed(engine(**document), query=lambda self, state: dict(reversed(state["personal"].items())))
    assert len(backwards.server["shared"]) > 1
    found, expected = personal(backwards), personal(engine(**document))
    assert all(found[client].tobytes() == value.tobytes() for client, value in expected.items())


def test_vectors_that_are_left_out_are_counted_at_every_query_point() -> None:
    inf = {"byzantine": {**FLIP, "attack": {"name": "inf"}}}
    costs = list(engine(**asking(rounds=2, main_clients=3, others=inf)))[-1].costs
    assert costs["nonfinite_clients"] == 2 * 3 * 2


def test_where_one_answer_cannot_be_told_nobody_has_moved() -> None:
    """The query point of the last one alone: what others would receive is known by then."""
    document = asking(rounds=3, others={"byzantine": None, "aggregator": {"name": "mean"}})
    running = engine(**document)
    seen: list[int] = []

    def query(self: Any, state: Any) -> Any:
        seen.append(len(seen))
        of_last = len(seen) == 2 * 9
        return {name: value * (np.nan if of_last else 1.0) for name, value in state["personal"].items()}

    broken = changed(running, query=query)
    found, expected = personal(broken), personal(engine(**{**document, "rounds": 1}))
    assert broken.status == "diverged"
    assert all(found[client].tobytes() == value.tobytes() for client, value in expected.items())


@pytest.mark.parametrize("how", ["by name", "instead of θ"])
def test_a_query_point_with_local_parameters_is_refused(how: str) -> None:
    def query(self: Any, state: Any) -> Any:
        own = state["personal"]
        return {**own, **state["local"]} if how == "by name" else dict.fromkeys(own, state["local"]["w"])

    with pytest.raises(LocalParameterError, match="only theta may leave a client"):
        list(changed(engine(**asking()), query=query))


def test_what_no_rule_can_aggregate_is_a_run_that_has_diverged() -> None:
    running = engine(**asking(others={"byzantine": None, "aggregator": {"name": "mean"}}, lr=1e200, rounds=9))
    list(running)
    assert running.status == "diverged"


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            asking(main_clients=8),
            "algorithm.main_clients: more main clients than there are (given 8); allowed: at most 7",
        ),
        (asking(others={"cohort": 3, "aggregator": {"name": "median"}}), "allowed: at least 4, so that two honest"),
        (
            asking(DIGITS, main_clients=["nobody"]),
            "main_clients: no honest client with training samples is called nobody",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(sections: Any, words: str) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011
        engine(**sections)
    assert words in str(raised.value)


def test_main_clients_are_the_first_honest_ones_with_samples() -> None:
    setup = engine(**asking(main_clients=2)).setup
    asks: Any = setup.algorithm
    names, samples = ("a", "b", "c", "d", "e"), (0, 4, 4, 4, 4)
    assert asks.chosen(names, samples, byzantine={2}).mains == (1, 3)
    everybody = asks.model_copy(update={"main_clients": "all"})
    assert everybody.chosen(names, samples, byzantine={2}).mains == (1, 3, 4)
    named = asks.model_copy(update={"main_clients": ("d", "a")})
    with pytest.raises(ValueError, match=r"samples is called a$"):
        named.chosen(names, samples, byzantine=())


def test_two_honest_clients_are_also_asked_for_where_only_the_data_know_how_many_there_are() -> None:
    from ppfl.engine.exchange.queries import check_query_points

    setup = engine(**asking()).setup
    many = type(setup.roles)(frozenset(range(8)), (8,), 1)
    with pytest.raises(ValueError, match="two honest clients have to answer"):
        check_query_points(setup.algorithm, many, setup.cohort)
    alone = setup.algorithm.model_copy(update={"collaboration": 0.0})
    check_query_points(alone, many, setup.cohort)


def test_names_of_main_clients_have_to_be_honest_ones() -> None:
    others = {"byzantine": {**FLIP, "clients": ["0", "1"]}}
    with pytest.raises(SharedUserError, match="no honest client with training samples is called 0"):
        engine(**asking(main_clients=["0", "3"], others=others))
