"""Clients as a dimension of every kernel: what they find alone, by few operations that no client adds to."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from ppfl.engine.mapping.batched import Batched
from ppfl.engine.mapping.joint import Joint
from ppfl.engine.run import play_round
from ppfl.interfaces.client_data import Joined
from ppfl.networks import pieces
from ppfl.rows import exact_sum
from tests import examples
from tests.algorithms.cases import NAMES, is_gossip, settings_of, splits_of
from tests.engine.build import engine, ffgg
from tests.operations import Counts, counted, on_a_device
from tests.ranks import on_ranks
from tests.supervised_problems import CNN

SPLITS = {"head": ["head.*"], "middle": ["norm1.*", "conv2.*"], "input": ["conv1.*"], "shared": []}
# training samples of a client; all of them are used in every round
SIZES = (3, 20, 8, 13, 5)
TUNERS = [name for name in examples.names("fine_tuners") if name != "exact"]


def fits(name: str, split: str) -> bool:
    """Say whether an algorithm is made for a split; `any` is all of them."""
    something = {"head", "middle", "input"}
    made_for = {
        "all shared": {"shared"},
        "input side": {"input"},
        "output side": {"head"},
        "something local": something,
    }
    return split in made_for.get(splits_of(name), something | {"shared"})


EACH = [(name, split) for name in NAMES for split in SPLITS if fits(name, split)]


def found(communicator: Any = None, **sections: Any) -> dict[str, np.ndarray]:
    """Run two rounds; return scores, costs, θ and all w."""
    running = engine(communicator, rounds=2, **sections)
    told: dict[str, Any] = {}
    for scored in running:
        told |= {f"{scored.round} {key}": value for key, value in {**scored.metrics, **scored.costs}.items()}
    states = {"server": running.server} | {str(c): running.group.state(c) for c in running.group.clients}
    for owner, state in states.items():
        for group, params in state.items():
            told |= {f"{owner} {group} {key}": value.numpy() for key, value in params.items()}
    return {key: np.asarray(value) for key, value in told.items() if "seconds" not in key}


@cache
def ragged() -> str:
    """Write small images of clients of different sizes."""
    folder = tempfile.mkdtemp(prefix="ppfl-ragged-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    draw, path = np.random.default_rng(0), Path(folder) / "ragged.h5"
    with h5py.File(path, "w") as file:
        for client, size in enumerate(SIZES):
            labels = draw.integers(0, 3, size)
            # of a class the upper rows are bright, so that there is something to learn
            pixels = draw.integers(0, 100, (size, 8, 8)) + 150 * (np.arange(8)[:, None] < 2 * labels[:, None, None])
            file[f"examples/{client}/pixels"], file[f"examples/{client}/label"] = pixels.astype(np.uint8), labels
    return str(path)


def run_of(name: str, split: str) -> dict[str, Any]:
    dataset = {"name": "federated_hdf5", "train": ragged(), "test": ragged(), "validation": 0.0}
    split_of = {"local": SPLITS[split]}
    problem = {"name": "supervised", "dataset": dataset, "model": CNN, "split": split_of, "batch_size": "all"}
    graph = {"gossip": {"graph": {"name": "ring"}}} if is_gossip(name) else {}
    return {"problem": problem, "algorithm": settings_of(name, "digits"), **graph}


@cache
def one_by_one(name: str, split: str, cohort: str | int) -> dict[str, np.ndarray]:
    return found(**run_of(name, split), cohort=cohort)


def assert_equal(some: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> None:
    assert some.keys() == others.keys()
    for key, value in others.items():
        np.testing.assert_allclose(some[key], value, rtol=1e-10, atol=1e-10, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("cohort", ["all", 3])
@pytest.mark.parametrize(("name", "split"), EACH)
def test_every_method_finds_what_it_finds_one_by_one(name: str, split: str, cohort: str | int) -> None:
    cohort = "all" if is_gossip(name) else cohort
    together = found(**run_of(name, split), cohort=cohort, engine={"clients_per_chunk": 5})
    assert_equal(together, one_by_one(name, split, cohort))


@pytest.mark.parametrize("split", ["head", "middle"])
@pytest.mark.parametrize("name", TUNERS)
def test_every_fine_tuner_does(name: str, split: str) -> None:
    tuner = examples.section("fine_tuners", name)
    if "batch_size" in tuner:
        tuner["batch_size"] = 6
    run = {**run_of("ffgg", split), "algorithm": ffgg(tuner, 0.1)}
    assert_equal(found(**run, engine={"clients_per_chunk": 5}), found(**run))


@pytest.mark.parametrize("name", ["ffgg", "fedavg", "scaffold_theta"])
def test_ranks_have_the_bits_of_one_for_the_same_chunks(name: str) -> None:
    run = run_of(name, "shared" if name == "fedavg" else "head") | {"engine": {"clients_per_chunk": 2}}
    alone = found(precision="float32", **run)
    seen: set[str] = set()
    for of_rank in on_ranks(2, lambda communicator: found(communicator, precision="float32", **run)):
        assert all(of_rank[key].tobytes() == alone[key].tobytes() for key in of_rank)
        seen |= of_rank.keys()
    assert seen == alone.keys()


def test_which_mapping_it_is() -> None:
    """FFGG under the mean goes by sums, everything else by rows."""
    sums = engine(**run_of("ffgg", "head"), engine={"clients_per_chunk": 2})
    rows = engine(**run_of("ffgg", "head"), engine={"clients_per_chunk": 2}, aggregator={"name": "median"})
    assert isinstance(sums.group.mapping, Joint)
    assert isinstance(rows.group.mapping, Batched)


def test_an_objective_that_weighs_no_samples_is_given_clients_of_equal_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fillers would count as samples."""
    run, padded = run_of("fedsim", "head"), []
    alone, stacked = found(**run), Joined.stacked

    def noting(joined: Joined) -> Any:
        data, places = stacked(joined)
        padded.append("weight" in data)
        return data, places

    monkeypatch.setattr(Joined, "stacked", noting)
    assert_equal(found(**run, engine={"clients_per_chunk": 5}), alone)
    assert set(padded) == {True}
    padded.clear()
    monkeypatch.setattr("ppfl.problems._supervised_objective.Supervised.takes_weights", False)
    assert_equal(found(**run, engine={"clients_per_chunk": 5}), alone)
    assert set(padded) == {False}


@pytest.mark.parametrize(("cohort", "wanted"), [("all", 1), (3, 0)])
def test_joined_samples_are_kept_where_they_come_again(cohort: str | int, wanted: int) -> None:
    """Not those of cohorts that are drawn anew: there are more of them than memory holds."""
    running = engine(**run_of("fedsim", "head"), cohort=cohort, rounds=3, engine={"clients_per_chunk": 5})
    for _ in running:
        pass
    assert len(running.group.mapping.inputs._joined) == wanted


def test_what_cannot_be_vectorized_goes_one_by_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A method that looks at values: the same numbers, and a warning that says why it is slow, once."""
    run = {**run_of("fedsim", "head"), "aggregator": {"name": "median"}}
    alone, method = found(**run), examples.kind("algorithms", "fedsim")
    client = method.client

    def looking(*inputs: Any) -> Any:
        step = client(*inputs)
        assert float(next(iter(step.uplink.values())).sum()) < 1e9
        return step

    monkeypatch.setattr(method, "client", looking)
    assert_equal(found(**run, engine={"clients_per_chunk": 5}), alone)
    assert [record.message.partition(":")[0] for record in caplog.records].count(
        "clients are computed one after another"
    ) == 1


def test_where_one_chunk_cannot_be_vectorized_others_are_on_any_number_of_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = {**run_of("fedsim", "head"), "aggregator": {"name": "median"}, "engine": {"clients_per_chunk": 2}}
    method = examples.kind("algorithms", "fedsim")
    client = method.client

    def looking(self: Any, objective: Any, message: Any, state: Any, data: Any, draws: Any) -> Any:
        if len(data["y"]) == SIZES[1]:  # as of all in the first chunk
            assert data["x"].sum() > 0
        return client(self, objective, message, state, data, draws)

    monkeypatch.setattr(method, "client", looking)
    alone = found(precision="float32", **run)
    for of_rank in on_ranks(2, lambda communicator: found(communicator, precision="float32", **run)):
        assert all(of_rank[key].tobytes() == alone[key].tobytes() for key in of_rank)


def test_too_little_memory_is_no_reason_to_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    running = engine(**run_of("fedsim", "head"), engine={"clients_per_chunk": 5})
    monkeypatch.setattr("ppfl.engine.mapping.batched.for_all", fails)
    with pytest.raises(torch.OutOfMemoryError):
        play_round(running, 0)


@pytest.fixture
def images(tmp_path: Path) -> Callable[[int, int], str]:
    def write(num_clients: int, more: int) -> str:
        """28 × 28 images of clients with 40 of them, every second one with some more."""
        draw, path = np.random.default_rng(0), tmp_path / f"{num_clients}-{more}.h5"
        with h5py.File(path, "w") as file:
            for client in range(num_clients):
                size = 40 + client % 2 * more
                file[f"examples/{client:03d}/pixels"] = draw.integers(0, 256, (size, 28, 28), dtype=np.uint8)
                file[f"examples/{client:03d}/label"] = draw.integers(0, 10, size)
        return str(path)

    return write


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Have the CPU compute what another device would, with pieces of some rows."""
    monkeypatch.setattr(exact_sum, "_compiled", lambda: None)
    with on_a_device():
        yield lambda rows: monkeypatch.setattr(pieces, "CPU", pieces.Pieces(rows, 1 << 40))


def counts_of_round(
    path: str, num_clients: int, algorithm: dict[str, Any], local: tuple[str, ...], **model: Any
) -> Counts:
    """Count the second round of float32 with all clients in one chunk; the first one finds out what lasts."""
    dataset = {"name": "federated_hdf5", "train": path, "test": 0.0, "validation": 0.0}
    split, chunk = {"local": list(local)}, {"clients_per_chunk": num_clients}
    problem = {
        "name": "supervised",
        "dataset": dataset,
        "model": {"name": "cnn", **model},
        "split": split,
        "batch_size": 44,
    }
    running = engine(problem=problem, algorithm=algorithm, rounds=2, precision="float32", engine=chunk)
    play_round(running, 0)
    with counted() as counts:
        play_round(running, 1)
    return counts


FFGG = ffgg({"name": "gradient_descent", "steps": 10, "lr": 0.05}, 0.1)


@pytest.mark.parametrize("more", [0, 7], ids=["equal", "ragged"])
def test_operations_of_an_ffgg_round(
    images: Callable[[int, int], str], device: Callable[[int], None], more: int
) -> None:
    """The convolutional network of mnist20 with 10 steps on the head: docs/performance.md."""
    device(1 << 20)
    of_few, of_many = (counts_of_round(images(number, more), number, FFGG, ("head.*",)) for number in (4, 40))
    assert of_few.operations <= 300
    assert of_many.operations == of_few.operations
    assert of_few.waits == of_many.waits <= 3


def test_operations_of_one_piece_more(images: Callable[[int, int], str], device: Callable[[int], None]) -> None:
    path, found = images(4, 0), []
    for rows in (160, 80, 40):
        device(rows)
        found.append(counts_of_round(path, 4, FFGG, ("head.*",)).operations)
    one, two, four = found
    assert two - one <= 60
    assert four - two <= 2 * 60


@pytest.mark.parametrize(
    ("more", "normalization", "limit"),
    [(0, "none", 120), (7, "none", 120), (0, "group", 190)],
    ids=["equal", "ragged", "group norm"],
)
def test_operations_of_a_step_of_fedavg(
    images: Callable[[int, int], str], device: Callable[[int], None], more: int, normalization: str, limit: int
) -> None:
    """Few channels: they are in no count."""
    device(1 << 20)
    model = {"channels": [4, 8], "hidden": 16, "normalization": normalization}
    if normalization == "group":
        model["groups"] = 2
    of_step = []
    for number in (4, 20):
        path = images(number, more)
        method = {"name": "fedavg", "lr": 0.1, "batch_size": 16}
        one, two = (counts_of_round(path, number, {**method, "local_steps": steps}, (), **model) for steps in (1, 2))
        of_step.append(two.operations - one.operations)
        assert one.waits == two.waits <= 3
    assert of_step[0] == of_step[1] <= limit
