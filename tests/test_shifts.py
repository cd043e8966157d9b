"""Shifts: what is done to the samples of clusters, whoever has them and wherever they lie."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ppfl.config.run import Config
from ppfl.core.communicator import Communicator
from ppfl.core.errors import UserError
from ppfl.core.plugins import discover
from ppfl.datasets import federated_hdf5
from ppfl.interfaces.dataset import FederatedSamples
from ppfl.interfaces.shift import Shift, shifted
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests import examples
from tests.ranks import on_ranks
from tests.test_datasets import load, placement
from tests.test_flat_data import random, write_flat

NAMES = examples.names("shifts")
EACH = pytest.mark.parametrize("name", NAMES)
DIGITS: dict[str, Any] = {"name": "digits", "partition": {"name": "dirichlet", "clients": 9, "alpha": 1.0}}


def make(name: str, **keys: Any) -> Shift:
    found: Shift = discover("ppfl.shifts")[name].model_validate({"name": name, **keys})
    return found


def digits(shift: Shift | None, communicator: Communicator | None = None, seed: int = 0) -> FederatedSamples:
    here = placement(communicator, seed)
    samples = load(DIGITS, here)
    return samples if shift is None else shifted(samples, shift, here)


def bits(samples: FederatedSamples) -> dict[int, list[bytes]]:
    return {
        client: [array.tobytes() for part in parts for array in (part.x, part.y)]
        for client, parts in samples.samples.items()
    }


@EACH
def test_cluster_0_stays_as_it_is_and_others_do_not(name: str) -> None:
    found, plain = digits(examples.make("shifts", name)), digits(None)
    assert found.clusters is not None
    assert len(set(found.clusters)) > 1
    for client, cluster in enumerate(found.clusters):
        # one says what the clusters of the data are, and changes nothing
        assert (bits(found)[client] == bits(plain)[client]) == (cluster == 0 or name == "recorded")
    assert found.num_train_samples == plain.num_train_samples


@EACH
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_have_the_same_bits(name: str, num_ranks: int) -> None:
    shift = examples.make("shifts", name, order="drawn")
    alone, parts = digits(shift), on_ranks(num_ranks, lambda communicator: digits(shift, communicator))
    assert all(part.clusters == alone.clusters for part in parts)
    assert {client: of for part in parts for client, of in bits(part).items()} == bits(alone)


def test_classes_are_those_of_all_ranks() -> None:
    """Sorted by label, a rank has a few classes alone, and labels go round all of them."""
    dataset = {**DIGITS, "partition": {"name": "shards", "clients": 10, "shards_per_client": 1}}
    shift = make("label_permutation", clusters=2)

    def labels(communicator: Communicator | None = None) -> dict[int, list[int]]:
        here = placement(communicator)
        found = shifted(load(dataset, here), shift, here).samples
        return {client: parts.train.y.tolist() for client, parts in found.items()}

    of_ranks = on_ranks(3, labels)
    assert {client: of for part in of_ranks for client, of in part.items()} == labels()


def test_images_are_turned_counter_clockwise() -> None:
    plain = digits(None)
    for degrees, clusters in ((90, 4), (180, 2), (270, 4)):
        found = digits(make("rotation", clusters=clusters, degrees=degrees))
        assert found.clusters == tuple(client % clusters for client in range(9))
        for client, parts in found.samples.items():
            for mine, others in zip(parts, plain.samples[client], strict=True):
                turns = client % clusters * degrees // 90
                for image, original in zip(mine.x, others.x, strict=True):
                    assert np.array_equal(image[0], np.rot90(original[0], turns))
                assert np.array_equal(mine.y, others.y)


@pytest.mark.parametrize("permutation", ["cyclic", "drawn"])
def test_labels_of_a_cluster_are_permuted_alike(permutation: str) -> None:
    plain, found = digits(None), digits(make("label_permutation", clusters=3, permutation=permutation))
    tables = set()
    for cluster in range(3):
        mine = [part for client in range(cluster, 9, 3) for part in found.samples[client]]
        others = [part for client in range(cluster, 9, 3) for part in plain.samples[client]]
        pairs = {pair for one, other in zip(mine, others, strict=True) for pair in zip(other.y, one.y, strict=True)}
        assert len(pairs) == 10
        assert {label for _, label in pairs} == set(range(10))
        if permutation == "cyclic":
            assert all(label == (original + cluster) % 10 for original, label in pairs)
        tables.add(tuple(sorted(pairs)))
        assert all(np.array_equal(one.x, other.x) for one, other in zip(mine, others, strict=True))
    assert len(tables) == 3


def test_clusters_in_turn_or_drawn() -> None:
    in_turn, drawn = (make("rotation", clusters=4, order=order) for order in ("in_turn", "drawn"))
    assert in_turn.clusters_of(6, 0).tolist() == in_turn.clusters_of(6, 1).tolist() == [0, 1, 2, 3, 0, 1]
    assert drawn.clusters_of(40, 0).tolist() != drawn.clusters_of(40, 1).tolist()
    for number in (4, 7, 40):
        sizes = np.bincount(drawn.clusters_of(number, 3), minlength=4)
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tests", [True, False])
def test_samples_that_stay_in_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, tests: bool
) -> None:
    sizes = {"d": 9, "a": 21, "empty": 0, "b": 7, "c": 12, "last": 0}
    keys: dict[str, Any] = {"name": "federated_hdf5"}
    keys["train"] = write_flat(tmp_path / "t.h5", random(sizes, (4, 4), "u1"))
    if tests:
        keys["test"] = write_flat(tmp_path / "u.h5", random({"b": 4, "z": 3, "a": 6}, (4, 4), "u1"))
    shift, found = examples.make("shifts", name), []
    for usable in (0.5, 0.0):
        monkeypatch.setattr(federated_hdf5, "_USABLE", usable)
        found.append(shifted(load(keys), shift, placement()))
    assert not isinstance(found[1].parts.train.pack.x, np.ndarray)
    assert bits(found[0]) == bits(found[1])


def test_the_parts_of_a_pack_are_changed_once(tmp_path: Path) -> None:
    """Training, validation and test samples of a flat file lie in one pack."""
    keys = {"name": "federated_hdf5", "train": write_flat(tmp_path / "t.h5", random({"a": 9, "b": 9}, (4, 4), "u1"))}
    plain, found = load(keys), shifted(load(keys), make("rotation", clusters=2), placement())
    assert len(found.parts.packs) == 1
    for mine, others in zip(found.samples[1], plain.samples[1], strict=True):
        assert np.array_equal(mine.x, np.rot90(others.x, axes=(2, 3)))


@pytest.mark.parametrize("data_set", examples.names("datasets"))
def test_data_that_are_loaded_again_are_shifted_once(data_set: str) -> None:
    """What a data set keeps for the next run, such as what a function returned, is not what a shift changes."""
    for name in NAMES:
        settings = examples.make("datasets", data_set, shift={"name": name, "clusters": 2})
        if settings.shift.unsuited(settings.load(placement(), 1)):
            continue
        found = [bits(shifted(settings.load(placement(), 1), settings.shift, placement())) for _ in range(2)]
        assert found[0] == found[1]


@pytest.mark.parametrize(
    ("shift", "most"),
    [
        ({"name": "rotation"}, 4),
        ({"name": "rotation", "degrees": 180}, 2),
        ({"name": "rotation", "degrees": 270}, 4),
        ({"name": "label_permutation"}, 10),
    ],
    ids=str,
)
def test_no_two_clusters_are_alike(shift: dict[str, Any], most: int) -> None:
    """Of more clusters than there are turns and permutations some would be, and say otherwise in the results."""
    dataset = {**DIGITS, "partition": {"name": "iid", "clients": 12}}

    def of(clusters: int, communicator: Communicator | None = None) -> FederatedSamples:
        here = placement(communicator)
        return shifted(load(dataset, here), make(**shift, clusters=clusters), here)

    plain = load(dataset)
    x, y = plain.samples[0].train.x, plain.samples[0].train.y
    made = make(**shift, clusters=most)
    looks = {(made.moved(x, one).tobytes(), made.relabelled(y, one, 10, 0).tobytes()) for one in range(most)}
    assert len(looks) == most
    assert of(most).clusters is not None

    def refused(communicator: Communicator) -> str:
        with pytest.raises(UserError) as told:
            of(most + 1, communicator)
        return str(told.value)

    for said in on_ranks(2, refused):
        assert f"has {most + 1} clusters; allowed: at most {most}, since others would be as some of these" in said


def with_shape(*shape: int, y: np.ndarray | None = None) -> FederatedSamples:
    samples = load(DIGITS)
    packs = {id(pack): replace(pack, y=pack.y if y is None else y) for pack in samples.parts.packs}
    parts = type(samples.parts)(*(replace(part, pack=packs[id(part.pack)]) for part in samples.parts))
    return replace(samples, input_shape=shape, parts=parts)


@pytest.mark.parametrize(
    ("shift", "samples", "message"),
    [
        (("rotation", {"clusters": 2}), with_shape(64), r"rotation is for images \(channels, height, width\)"),
        (("rotation", {"clusters": 2}), with_shape(1, 4, 8), "rotation is for square images, with degrees: 180"),
        (("rotation", {"clusters": 10}), with_shape(1, 8, 8), "has 10 clusters; allowed: at most 9, as many as"),
        (("label_permutation", {"clusters": 2}), with_shape(1, y=np.zeros(2)), "labels that are classes"),
        (("label_permutation", {"clusters": 2}), replace(with_shape(6), label_shape=(6,)), "labels that are classes"),
    ],
)
def test_samples_that_do_not_suit(shift: tuple[str, dict[str, Any]], samples: FederatedSamples, message: str) -> None:
    with pytest.raises(UserError, match=rf"^problem\.dataset\.shift: .*{message}"):
        shifted(samples, make(shift[0], **shift[1]), placement())


@pytest.mark.parametrize(
    "keys",
    [
        {"name": "rotation"},
        {"name": "rotation", "clusters": 1},
        {"name": "rotation", "clusters": 4, "degrees": 45},
        {"name": "rotation", "clusters": 4, "order": "size"},
        {"name": "label_permutation", "clusters": 2, "permutation": "none"},
        {"name": "turn", "clusters": 2},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        load({**DIGITS, "shift": keys})


def config(dataset: dict[str, Any], **others: Any) -> Config:
    document = {
        "name": "shift", "rounds": 4, "cohort": 5, "evaluate": {"every": 4, "samples": 40, "clients": 6, "tuned": None},
        "problem": {
            "name": "supervised", "dataset": dataset, "model": {"name": "mlp", "hidden": [6]},
            "split": {"local": ["head.*"]}, "batch_size": 8,
        },
        "algorithm": {"name": "ffgg", "lr": 0.1, "fine_tuner": {"name": "sgd", "lr": 0.1, "batch_size": 8}},
    }  # fmt: skip
    return Config.model_validate({**document, **others})


def test_a_shift_is_part_of_the_digest_and_none_is_not() -> None:
    plain = config(DIGITS)
    assert config({**DIGITS, "shift": None}).digest == plain.digest
    assert "shift" not in plain.to_yaml().replace("name: shift", "")
    turned = {config({**DIGITS, "shift": {"name": "rotation", "clusters": number}}).digest for number in (2, 4)}
    assert len(turned | {plain.digest}) == 3


DATA = os.environ.get("PPFL_DATA", "")
MNIST20: dict[str, Any] = {"name": "federated_hdf5", "train": "mnist20_train.h5", "test": "mnist20_test.h5"}
SETS = [
    pytest.param({**DIGITS, "shift": {"name": "rotation", "clusters": 4}}, id="digits, rotation"),
    *(
        pytest.param(
            {**MNIST20, "shift": {"name": name, "clusters": 4}},
            id=f"mnist20, {name}",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not DATA, reason="mnist20 NOT TESTED: set PPFL_DATA to the folder of mnist20"),
            ],
        )
        for name in ("rotation", "label_permutation")
    ),
]


@pytest.mark.parametrize("dataset", SETS)
def test_results_are_the_same_bits_on_ranks_and_know_the_clusters(tmp_path: Path, dataset: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    arrays: list[dict[str, np.ndarray]] = []
    for number in (1, 2, 3):
        out = tmp_path / f"{number}.h5"
        on_ranks(number, lambda communicator, out=out: run(config(dataset), out, Silent(), communicator))
        with h5py.File(out) as file:
            arrays.append({f"{group}/{name}": file[group][name][()] for group in file for name in file[group]})
    number_of_clients = len(arrays[0]["clients/client"])
    assert arrays[0]["clients/cluster"].tolist() == [client % 4 for client in range(number_of_clients)]
    assert len(arrays[0]) > 30
    for others in arrays[1:]:
        assert list(others) == list(arrays[0])
        for name, values in others.items():
            if "seconds" not in name and values.dtype != object:
                assert values.tobytes() == arrays[0][name].tobytes(), name
