"""The exchange on a device: as many operations for 200 clients as for 20, and no wait but for what the host decides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch

from ppfl.attacks._among_honest import AmongHonest
from ppfl.comm.solo import SoloCommunicator
from ppfl.core.params import all_finite, unflatten
from ppfl.core.types import Params
from ppfl.engine.exchange.rows import by_rule
from ppfl.engine.exchange.sums import weighted_mean
from ppfl.engine.mapping.mapping import Uplink, UplinkRows, UplinkSum
from ppfl.interfaces.byzantine import Byzantine
from tests import examples
from tests.aggregators.tables import BEFORE, ON_VECTORS, RULES, attack, rule
from tests.engine.build import ffgg, scores
from tests.operations import Counts, counted, on_a_device

SHAPES = [(8, 1, 5, 5), (8,), (16, 8, 3, 3), (16,), (12, 16), (12,), (3, 12), (3,)]
LIKE = {f"p{number}": torch.zeros(shape) for number, shape in enumerate(SHAPES)}


class _Sent(list[Any]):
    is_weighed = False
    weights_of: Mapping[str, str] = MappingProxyType({})


def _setup(number: int, aggregator: Any = None, attack_name: str | None = None) -> Any:
    clients = SimpleNamespace(clients=range(number), client_names=[f"c{client}" for client in range(number)])
    hostile = frozenset({0, 1} if attack_name else ())
    return SimpleNamespace(
        problem=SimpleNamespace(client_data=clients, objective=SimpleNamespace(seed=1)),
        communicator=SoloCommunicator(),
        bucket_bytes=1 << 23,
        client_weights=[float(1 + client % 7) for client in range(number)],
        aggregator=aggregator,
        byzantine=Byzantine(attack=attack(attack_name), clients=2) if attack_name else None,
        roles=SimpleNamespace(byzantine=hostile),
    )


def _rows(number: int) -> Params:
    generator = torch.Generator().manual_seed(number)
    return {name: torch.randn(number, *value.shape, generator=generator) for name, value in LIKE.items()}


def _block(number: int) -> Any:
    return _Sent([UplinkRows(range(number), _rows(number), [{}] * number)])


def _mean(number: int) -> Counts:
    setup, sent = _setup(number), _block(number)
    with on_a_device(), counted() as counts:
        mean = unflatten(weighted_mean(setup, sent, frozenset(range(number)), LIKE), LIKE)
        assert all_finite(mean)
    return counts


def _ruled(number: int, aggregator: Any, attack_name: str | None = None) -> Counts:
    setup, sent = _setup(number, aggregator, attack_name), _block(number)
    with on_a_device(), counted() as counts:
        by_rule(setup, sent, list(range(number)), LIKE, 0)
    return counts


def test_the_mean_of_any_number_of_clients_takes_as_many_operations_and_one_wait() -> None:
    _mean(1)
    few, many = _mean(20), _mean(200)
    assert few.by_name == many.by_name
    assert few.waits == 1
    # 55 to add, 27 to round, 1 to divide, 17 to cut into eight parameters, 15 to see that they are finite
    assert few.operations <= 120


def test_the_mean_has_the_bits_of_clients_one_by_one() -> None:
    number = 20
    setup, block = _setup(number), _block(number)
    cohort = frozenset(range(number))
    wanted = weighted_mean(setup, _Sent(block[0].one_by_one()), cohort, LIKE)
    assert torch.equal(weighted_mean(setup, block, cohort, LIKE), wanted)
    with on_a_device():
        assert torch.equal(weighted_mean(setup, block, cohort, LIKE), wanted)
        one_by_one = [
            Uplink(one.client, one.params, one.report) if one.client % 2 else UplinkSum([one.client], one.params, [{}])
            for one in block[0].one_by_one()
        ]
        setup.client_weights[::2] = [1.0] * (number // 2)
        mixed = weighted_mean(setup, _Sent(one_by_one), cohort, LIKE)
    assert torch.equal(mixed, weighted_mean(setup, block, cohort, LIKE))


def test_what_a_chunk_has_added_up_waits_for_nothing() -> None:
    sent = _Sent([UplinkSum(range(20), {name: value[0] for name, value in _rows(1).items()}, [{}] * 20)])
    with on_a_device(), counted() as counts:
        weighted_mean(_setup(20), sent, frozenset(range(20)), LIKE)
    assert counts.waits == 0
    assert counts.operations <= 110


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_found_in_any_parameter(value: float) -> None:
    assert all_finite({})
    for name in LIKE:
        params = {key: value.clone() for key, value in LIKE.items()}
        assert all_finite(params)
        params[name].view(-1)[-1] = value
        assert not all_finite(params)
        with on_a_device(), counted() as counts:
            assert not all_finite(params)
        assert counts.waits == 1


MOST_WAITS = 2
"""For products: what a few coordinates suggest as a centre, and then all of them. Others wait once for their numbers,
or to know which rows are finite."""


@pytest.mark.parametrize("name", RULES)
def test_rules_take_as_many_operations_of_the_device_for_many_rows(name: str) -> None:
    few, many = _ruled(20, rule(name, 20)), _ruled(200, rule(name, 200))
    assert few.of_device == many.of_device <= 200
    assert few.waits == many.waits <= MOST_WAITS


@pytest.mark.parametrize("name", BEFORE)
def test_what_comes_before_a_rule_takes_as_many_for_many_rows(name: str) -> None:
    few, many = (_ruled(number, rule("trimmed_mean", number, name)) for number in (20, 200))
    assert few.of_device == many.of_device <= 200
    assert few.waits == many.waits <= MOST_WAITS


@pytest.mark.parametrize("name", ON_VECTORS)
def test_attacks_take_as_many_for_many_rows(name: str) -> None:
    few, many = (_ruled(number, rule("median", number), name) for number in (20, 200))
    # who hides among honest vectors takes products of them as rules do
    by_distances = issubclass(examples.kind("attacks", name), AmongHonest)
    assert few.of_device == many.of_device <= (200 if by_distances else 150)
    # the rows as they came, their products where an attack takes them, and the rows as they are after the attack
    assert few.waits == many.waits == 2 + by_distances


def test_clients_in_several_blocks_make_the_same_matrix() -> None:
    number, cohort = 9, list(range(9))
    params = _rows(number)
    wanted = by_rule(_setup(number, rule("krum", number)), _block(number), cohort, LIKE, 0)
    blocks: list[Any] = []
    for clients in ([0, 1, 2], [3], [4, 5, 6, 7, 8]):
        rows = {name: value[clients] for name, value in params.items()}
        alone = Uplink(clients[0], {name: value[0] for name, value in rows.items()}, {})
        blocks.append(UplinkRows(clients, rows, [{}] * len(clients)) if len(clients) > 1 else alone)
    found = by_rule(_setup(number, rule("krum", number)), _Sent(blocks), cohort, LIKE, 0)
    assert torch.equal(found[0], wanted[0])


DIGITS: dict[str, Any] = {
    "name": "supervised",
    "dataset": {"name": "digits", "partition": {"name": "iid", "clients": 6}},
    "model": {"name": "logistic_regression"},
    "split": {"local": ["*.bias"]},
    "batch_size": 16,
}
RUNS: dict[str, dict[str, Any]] = {
    "mean": {},
    "mean of chunks": {"engine": {"clients_per_chunk": 3}},
    "mixed": {"aggregator": {"name": "trimmed_mean", "f": 1, "before": [{"name": "nnm"}]}},
    "attacked": {
        "aggregator": {"name": "krum", "f": 1},
        "byzantine": {"attack": {"name": "gaussian", "standard_deviation": 1.0}, "clients": 1},
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_runs_with_the_exchange_of_a_device_score_what_those_of_a_cpu_do(name: str) -> None:
    """Exactly, where it is a sum."""
    algorithm = ffgg({"name": "gradient_descent", "steps": 1, "lr": 0.1}, 0.1)
    sections = {"problem": DIGITS, "algorithm": algorithm, "rounds": 4, "evaluate": {"every": 2}, **RUNS[name]}
    wanted = [float(scored.metrics["loss"]) for scored in scores(**sections)]
    with on_a_device():
        found = [float(scored.metrics["loss"]) for scored in scores(**sections)]
    assert found == (wanted if name.startswith("mean") else pytest.approx(wanted, rel=1e-10))
