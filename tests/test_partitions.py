"""Partitions: properties that hold for every one, and what each is meant to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ppfl.core.plugins import discover
from ppfl.interfaces.dataset import Partition
from tests import examples

NAMES = examples.names("partitions")


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
    num_classes = data.draw(st.integers(1, 12))
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


@pytest.mark.parametrize("name", NAMES)
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


def test_dirichlet_fills_up_from_the_largest_client() -> None:
    partition = make("dirichlet", clients=3, alpha=1.0, min_samples=2)
    hands = [[0, 1, 2, 3, 4], [], [5, 6, 7]]
    partition._fill_up(hands)  # type: ignore[attr-defined]
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
