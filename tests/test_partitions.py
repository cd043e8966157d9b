"""Partitions: properties that hold for every one, and what each is meant to do."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ppfl.core.plugins import discover
from ppfl.interfaces.dataset import Samples
from ppfl.interfaces.partition import Partition, Pool, fill_up
from tests import examples

NAMES = [name for name in examples.names("partitions") if examples.make("partitions", name).clients]
"""Those that make as many clients as one says; others go by the data."""


def make(name: str, **keys: Any) -> Partition:
    return discover("ppfl.partitions")[name].model_validate({"name": name, **keys})


def own_keys(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return values for the keys beside `clients`: small counts; the example, and the ends of an interval."""
    kind = examples.kind("partitions", name)
    drawn: dict[str, st.SearchStrategy[Any]] = {}
    for key, node in kind.model_json_schema()["properties"].items():
        if key in ("name", "clients"):
            continue
        if node.get("type") == "integer":
            low = node.get("minimum", node.get("exclusiveMinimum", 0) + 1)
            drawn[key] = st.integers(low, min(low + 3, node.get("maximum", low + 3)))
        else:
            known = {**node, **({"example": kind.example[key]} if key in kind.example else {})}
            words = [word for word in ("example", "default", "minimum", "maximum") if word in known]
            drawn[key] = st.sampled_from([known[word] for word in words])
    return st.fixed_dictionaries(drawn)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_sample_once_and_no_client_empty(name: str, data: st.DataObject) -> None:
    partition = make(name, clients=data.draw(st.integers(1, 40)), **data.draw(own_keys(name)))
    more = data.draw(st.integers(0, 300))
    num_classes = data.draw(st.integers(1, min(12, partition.clients * getattr(partition, "labels_per_client", 12))))
    seed = data.draw(st.integers(0, 2**32 - 1))
    labels = np.random.default_rng(seed).integers(0, num_classes, partition.num_samples_needed + more)
    hands = partition.assign(labels, seed)
    assert len(hands) == partition.clients
    assert np.array_equal(np.sort(np.concatenate(hands)), np.arange(len(labels)))
    for hand in hands:
        assert len(hand) >= getattr(partition, "min_samples", 1)
        assert np.all(np.diff(hand) > 0)
        assert hand.dtype == np.int64
    again = partition.assign(labels, seed)
    assert all(np.array_equal(one, other) for one, other in zip(hands, again, strict=True))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sorted"])
def test_another_seed_gives_another_partition(name: str) -> None:
    partition = examples.make("partitions", name, clients=5)
    labels = np.arange(200) % 10
    one, other = partition.assign(labels, 0), partition.assign(labels, 1)
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("name", "keys", "needed"),
    [
        ("iid", {}, 30),
        ("dirichlet", {"alpha": 1.0, "min_samples": 2}, 60),
        ("shards", {"shards_per_client": 3}, 90),
    ],
)
def test_too_few_samples_are_refused(name: str, keys: dict[str, Any], needed: int) -> None:
    partition = make(name, clients=30, **keys)
    assert len(partition.assign(np.zeros(needed, np.int64), 0)) == 30
    with pytest.raises(ValueError, match=f"at least {needed} samples, there are {needed - 1}"):
        partition.assign(np.zeros(needed - 1, np.int64), 0)


def test_iid_sizes_differ_by_at_most_one() -> None:
    sizes = [len(hand) for hand in make("iid", clients=7).assign(np.zeros(100, np.int64), 0)]
    assert max(sizes) - min(sizes) <= 1


def test_dirichlet_alpha_controls_heterogeneity() -> None:
    labels = np.arange(2000) % 10
    largest_share = {}
    for alpha in (0.01, 1e6):
        hands = make("dirichlet", clients=10, alpha=alpha).assign(labels, 0)
        largest_share[alpha] = [np.bincount(labels[hand], minlength=10).max() / len(hand) for hand in hands]
        if alpha == 1e6:
            assert {len(hand) for hand in hands} <= set(range(190, 211))
    assert np.median(largest_share[0.01]) > 0.8
    assert max(largest_share[1e6]) < 0.12


def test_dirichlet_terminates_with_many_clients_and_tiny_alpha() -> None:
    hands = make("dirichlet", clients=500, alpha=0.01, min_samples=3).assign(np.arange(1797) % 10, 0)
    assert min(len(hand) for hand in hands) >= 3


def test_small_clients_are_filled_up_from_the_largest_one() -> None:
    hands = [[0, 1, 2, 3, 4], [], [5, 6, 7]]
    fill_up(hands, 2)
    assert hands == [[0, 1, 2], [4, 3], [5, 6, 7]]


def test_shards_bound_the_number_of_classes_of_a_client() -> None:
    labels = np.arange(1000) % 10
    for hand in make("shards", clients=50, shards_per_client=2).assign(labels, 0):
        assert len(hand) == 20
        assert len(np.unique(labels[hand])) <= 2


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("iid", {"clients": 0}),
        ("iid", {"clients": 5, "alpha": 1.0}),
        ("dirichlet", {"clients": 5}),
        ("dirichlet", {"clients": 5, "alpha": 0.0}),
        ("dirichlet", {"clients": 5, "alpha": 1.0, "min_samples": 0}),
        ("shards", {"clients": 5, "shards_per_client": 0}),
    ],
)
def test_impossible_settings_are_refused(name: str, keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(name, **keys)


def test_one_shard_a_client_sorts_by_label() -> None:
    labels = np.random.default_rng(0).integers(0, 5, 100)
    hands = make("shards", clients=20, shards_per_client=1).assign(labels, 0)
    by_label = sorted(hands, key=lambda hand: (labels[hand].min(), labels[hand].max(), hand[0]))
    assert np.array_equal(np.sort(labels), np.concatenate([np.sort(labels[hand]) for hand in by_label]))


@pytest.mark.parametrize("sizes", [[5, 1, 30, 64], [10, 2, 60, 128], [1, 1, 1, 1]], ids=str)
def test_given_sizes_are_met(sizes: list[int]) -> None:
    hands = make("by_size", clients=4, sizes=sizes).assign(np.zeros(100, np.int64), 0)
    assert [len(hand) for hand in hands] == [100 * size // sum(sizes) for size in sizes]


@settings(max_examples=100, deadline=None)
@example(sizes=[933, 688, 210, 32, 992, 588, 382], more=468)  # the second and the last one lose as much as each other
@given(sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=20), more=st.integers(0, 1000))
def test_sizes_are_as_near_to_their_quotas_as_integers_of_at_least_one(sizes: list[int], more: int) -> None:
    total = len(sizes) + more
    hands = make("by_size", clients=len(sizes), sizes=sizes).assign(np.zeros(total, np.int64), 0)
    numbers = [len(hand) for hand in hands]
    assert sum(numbers) == total
    quotas = [Fraction(total * size, sum(sizes)) for size in sizes]
    if min(quotas) >= 1:
        wanted = [int(quota) for quota in quotas]
        lost = [(number - quota, client) for client, (number, quota) in enumerate(zip(wanted, quotas, strict=True))]
        for _, client in sorted(lost)[: total - sum(wanted)]:
            wanted[client] += 1
        assert numbers == wanted
    assert min(numbers) >= 1


def test_the_spread_of_sizes() -> None:
    labels = np.zeros(10_000, np.int64)

    def sizes(**keys: Any) -> list[int]:
        return [len(hand) for hand in make("by_size", clients=20, **keys).assign(labels, 0)]

    assert set(sizes(sizes="power_law", spread=0.0)) == set(sizes(sizes="log_normal", spread=0.0)) == {500}
    power = sizes(sizes="power_law", spread=1.0)
    assert power == sorted(power, reverse=True)
    assert abs(power[0] / power[9] - 10) < 0.1
    logs = np.log(sizes(sizes="log_normal", spread=1.0))
    assert 0.6 < logs.std() < 1.5


def test_sorted_has_neighbours_alike_and_draws_nothing() -> None:
    labels = np.array([1, 0, 2, 0, 1, 2, 1])
    hands = make("sorted", clients=3).assign(labels, 0)
    assert [hand.tolist() for hand in hands] == [[0, 1, 3], [4, 6], [2, 5]]
    again = make("sorted", clients=3).assign(labels, 1)
    assert all(np.array_equal(one, other) for one, other in zip(hands, again, strict=True))


def test_label_quantity_gives_so_many_classes_and_shares_them_alike() -> None:
    labels = np.arange(6000) % 10
    hands = make("label_quantity", clients=15, labels_per_client=3).assign(labels, 0)
    owned = [np.unique(labels[hand]) for hand in hands]
    assert [len(of_client) for of_client in owned] == [3] * 15
    assert all(client % 10 in of_client for client, of_client in enumerate(owned))
    for label in range(10):
        counts = [int((labels[hand] == label).sum()) for hand in hands if (labels[hand] == label).any()]
        assert max(counts) - min(counts) <= 1


def test_label_quantity_leaves_no_class_to_nobody() -> None:
    labels = np.arange(100) % 10
    hands = make("label_quantity", clients=5, labels_per_client=2).assign(labels, 0)
    assert all(len(np.unique(labels[hand])) == 2 for hand in hands)
    with pytest.raises(ValueError, match=r"4 clients of 2 labels leaves some of the 10 classes to nobody"):
        make("label_quantity", clients=4, labels_per_client=2).assign(labels, 0)


@pytest.mark.parametrize("name", ["dirichlet", "label_quantity"])
def test_partitions_by_class_refuse_numbers(name: str) -> None:
    with pytest.raises(ValueError, match="is for classes"):
        examples.make("partitions", name).assign(np.linspace(0, 1, 50), 0)


def pool(labels: np.ndarray, field: list[str] | None = None) -> Pool:
    return Pool(Samples(np.zeros((len(labels), 1)), labels), "here", None if field is None else np.array(field))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_tests_are_dealt_as_the_samples_to_train_on(name: str, seed: int) -> None:
    draw = np.random.default_rng(seed)
    train, test = (draw.integers(0, 5, size) for size in (600, 200))
    hands = examples.make("partitions", name).deal(pool(train), pool(test), seed)
    assert hands.test_rows is not None
    assert np.array_equal(np.sort(np.concatenate(hands.test_rows)), np.arange(200))
    for rows, of_test in zip(hands.rows, hands.test_rows, strict=True):
        assert np.all(np.diff(of_test) > 0)
        for label in range(5):
            share = (train[rows] == label).sum() / (train == label).sum()
            assert abs((test[of_test] == label).sum() - share * (test == label).sum()) <= 1


def test_tests_of_an_unknown_class_and_numbers_go_by_size() -> None:
    partition = make("by_size", clients=2, sizes=[30, 10])
    classes = partition.deal(pool(np.zeros(40, np.int64)), pool(np.full(8, 7)), 0)
    numbers = partition.deal(pool(np.zeros(40)), pool(np.linspace(0, 1, 8)), 0)
    for hands in (classes, numbers):
        assert hands.test_rows is not None
        assert [len(rows) for rows in hands.test_rows] == [6, 2]


def test_a_field_names_the_clients() -> None:
    partition = make("by_field", field="who")
    assert partition.field_needed == "who"
    train = pool(np.zeros(5, np.int64), ["b", "a", "b", "c", "b"])
    hands = partition.deal(train, None, 0)
    assert hands.names == ("a", "b", "c")
    assert [rows.tolist() for rows in hands.rows] == [[1], [0, 2, 4], [3]]
    hands = partition.deal(train, pool(np.zeros(3, np.int64), ["d", "b", "d"]), 0)
    assert hands.test_rows is not None
    assert hands.names == ("a", "b", "c", "d")
    assert [rows.tolist() for rows in hands.rows] == [[1], [0, 2, 4], [3], []]
    assert [rows.tolist() for rows in hands.test_rows] == [[], [1], [], [0, 2]]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("by_field", {"field": "who", "clients": 3}),
        ("by_field", {"field": ""}),
        ("by_size", {"clients": 3, "sizes": [1, 2]}),
        ("by_size", {"clients": 2, "sizes": [1, 0]}),
        ("by_size", {"clients": 2, "sizes": [1, 2], "spread": 2.0}),
        ("by_size", {"clients": 2, "sizes": "equal"}),
        ("label_quantity", {"clients": 3}),
        ("label_quantity", {"clients": 3, "labels_per_client": 0}),
    ],
)
def test_more_impossible_settings_are_refused(name: str, keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(name, **keys)
