"""What every data set that is found has to satisfy, read as its example says."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.interfaces.dataset import MAX_NUM_CLASSES, ClientSamples, FederatedSamples
from ppfl.interfaces.placement import Placement
from tests import examples
from tests.ranks import on_ranks

EACH = pytest.mark.parametrize("name", examples.names("datasets"))


def load(name: str, communicator: Any = None, seed: int = 0, clients_per_chunk: int = 1) -> FederatedSamples:
    placement = Placement(communicator or SoloCommunicator(), seed, seed, torch.float64, torch.device("cpu"))
    loaded: FederatedSamples = examples.make("datasets", name).load(placement, clients_per_chunk)
    return loaded


@cache
def alone(name: str, seed: int = 0) -> FederatedSamples:
    """Return all of it on one rank."""
    return load(name, seed=seed)


def bits(parts: ClientSamples) -> list[bytes]:
    return [array.tobytes() for part in parts for array in (part.x, part.y)]


def known_to_all(data: FederatedSamples) -> tuple[Any, ...]:
    sizes = data.num_train_samples, data.num_validation_samples, data.num_test_samples
    of_labels = data.vocabulary_size, data.label_shape, data.labels_from, data.special_ids
    return data.client_names, sizes, data.input_shape, data.divisor, of_labels


@EACH
def test_it_is_what_it_says(name: str) -> None:
    data = alone(name)
    number = len(data.client_names)
    assert data.clients == range(number)
    assert sorted(data.samples) == [*range(number)]
    assert len(set(data.client_names)) == number
    assert sum(data.num_train_samples) > 0
    assert data.divisor > 0
    sizes = zip(data.num_train_samples, data.num_validation_samples, data.num_test_samples, strict=True)
    for client, of_client in enumerate(sizes):
        for part, size in zip(data.samples[client], of_client, strict=True):
            assert part.x.shape == (size, *data.input_shape)
            assert part.y.shape == (size, *data.label_shape)
            assert np.isfinite(part.x).all()
            assert np.isfinite(part.y).all()
            largest = data.vocabulary_size or MAX_NUM_CLASSES
            if not size or np.issubdtype(part.y.dtype, np.integer):
                assert part.y.dtype == np.int64
                assert ((part.y >= 0) & (part.y < largest)).all()
            if data.vocabulary_size is not None:
                assert np.issubdtype(part.x.dtype, np.integer)
                assert ((part.x >= 0) & (part.x < largest)).all()
            else:
                assert part.x.dtype == np.uint8 or np.issubdtype(part.x.dtype, np.floating)


@EACH
def test_scaled_samples_lie_between_0_and_1(name: str) -> None:
    data = alone(name)
    for part in (part for parts in data.samples.values() for part in parts):
        scaled = part.x / data.divisor
        assert data.divisor == 1 or ((scaled >= 0) & (scaled <= 1)).all()


@EACH
@pytest.mark.parametrize("clients_per_chunk", [1, 2])
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_share_the_clients_and_read_the_same_bits(name: str, num_ranks: int, clients_per_chunk: int) -> None:
    whole = alone(name)
    found = on_ranks(num_ranks, lambda communicator: load(name, communicator, 0, clients_per_chunk))
    assert [client for data in found for client in data.clients] == [*whole.clients]
    for data in found:
        assert known_to_all(data) == known_to_all(whole)
        assert [*data.samples] == [*data.clients]
        assert data.clients.start % clients_per_chunk == 0
        for client, parts in data.samples.items():
            assert bits(parts) == bits(whole.samples[client])


@EACH
def test_the_seed_decides(name: str) -> None:
    again, other = load(name), alone(name, 1)
    assert known_to_all(again) == known_to_all(alone(name))
    assert all(bits(again.samples[client]) == bits(parts) for client, parts in alone(name).samples.items())
    # whatever it cuts or deals, samples are neither lost nor made
    everything = [sum(sum(sizes) for sizes in known_to_all(data)[1]) for data in (again, other)]
    assert everything[0] == everything[1]
