"""Dropout and augmentation: drawn by counters, another draw for every client, round and step, and never for scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from ppfl.core.counter_hash import bits, with_name, with_number
from ppfl.core.errors import UserError
from ppfl.core.plugins import discover
from ppfl.core.types import Data, Params
from ppfl.interfaces.client_data import at_step
from ppfl.interfaces.method import Algorithm
from ppfl.networks import network, pieces
from ppfl.networks.dropout import dropout, keyed
from ppfl.networks.pieces import Pieces
from ppfl.networks.training import Augmentation
from ppfl.problems._training_samples import TrainingSamples, moved_and_flipped
from tests.engine.build import engine, ffgg
from tests.ranks import on_ranks
from tests.supervised_problems import CNN, CONFIG, close, make

MLP = {"name": "mlp", "hidden": [12, 7], "dropout": 0.4}
BOTH: dict[str, Any] = {"model": MLP, "training": {"augmentation": {"crop": 1, "flip": True}}}
TUNER = {"name": "gradient_descent", "steps": 2, "lr": 0.1}
SGD = {"name": "sgd", "lr": 0.2, "batch_size": 6, "epochs": 2}


def splitmix(state: int) -> int:
    """The next output of SplitMix64 as published, in integers of Python."""
    whole = (1 << 64) - 1
    z = (state + 0x9E3779B97F4A7C15) & whole
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & whole
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & whole
    return z ^ (z >> 31)


def test_bits_are_those_of_splitmix() -> None:
    keys = [0, 1, -5, 2**62, -(2**63)]
    found = bits(torch.tensor(keys), 3)
    gamma = 0x9E3779B97F4A7C15
    wanted = [[splitmix((key + place * gamma) % 2**64) >> 33 for place in range(3)] for key in keys]
    assert found.tolist() == wanted


def test_keys_of_steps_and_places_differ() -> None:
    keys = torch.arange(50)
    numbered = [with_number(keys, number) for number in range(1, 20)]
    others = torch.cat([keys, *numbered, *(with_name(keys, name) for name in "ab")])
    assert len(set(others.tolist())) == len(others)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_and_mean(rate: float) -> None:
    x = torch.ones(2000, 50, dtype=torch.float64)
    with keyed(torch.arange(2000)):
        y = dropout(x, rate, "here")
        there = dropout(x, rate, "there")
    dropped = (y == 0).double()
    assert abs(float(dropped.mean()) - rate) < 5 * (rate * (1 - rate) / x.numel()) ** 0.5
    assert abs(float(y.mean()) - 1) < 5 * (rate / (1 - rate) / x.numel()) ** 0.5
    assert set(y.unique().tolist()) == {0.0, 1 / (1 - rate)}
    # samples, positions and places are independent of each other
    for one, other in (
        (dropped[:-1], dropped[1:]),
        (dropped[:, :-1], dropped[:, 1:]),
        (dropped, (there == 0).double()),
    ):
        correlation = float(((one - rate) * (other - rate)).mean() / (rate * (1 - rate)))
        assert abs(correlation) < 5 / one.numel() ** 0.5


def test_without_keys_nothing_is_dropped() -> None:
    x = torch.ones(3, 4)
    assert dropout(x, 0.5, "here") is x
    with keyed(None):
        assert dropout(x, 0.5, "here") is x


def differ(one: Data, other: Data, name: str) -> bool:
    return one[name].shape != other[name].shape or not torch.equal(one[name], other[name])


@pytest.mark.parametrize("name", ["x", "key"])
def test_clients_rounds_and_seeds_have_draws_of_their_own(name: str) -> None:
    problem, everything = make(BOTH), make({**BOTH, "batch_size": "all"})
    data = everything.client_data
    assert not data.fixed_data
    assert make({"batch_size": "all"}).client_data.fixed_data
    assert not differ(data.data(1, 0), make({**BOTH, "batch_size": "all"}).client_data.data(1, 0), name)
    assert differ(data.data(1, 0), data.data(1, 1), name)
    assert differ(data.data(1, 0), data.data(2, 0), name)
    assert differ(data.data(1, 0), make({**BOTH, "batch_size": "all"}, seed=1).client_data.data(1, 0), name)
    joined, alone = problem.client_data.joined([1, 3, 4], 2), [problem.client_data.data(k, 2) for k in (1, 3, 4)]
    assert torch.equal(joined.data[name], torch.cat([one[name] for one in alone]))
    epochs = [problem.client_data.training_epoch(1, epoch) for epoch in (0, 0, 1)]
    assert not differ(epochs[0][0], epochs[1][0], name)
    assert differ(epochs[0][0], epochs[2][0], name)
    assert differ(epochs[0][0], epochs[0][1], name)


def test_the_same_samples_of_two_clients_have_other_draws() -> None:
    """On one image again and again, so that nothing but the draws can differ."""
    data = {"x": torch.arange(64.0).reshape(1, 1, 8, 8).repeat(30, 1, 1, 1), "y": torch.zeros(30, dtype=torch.int64)}
    training = TrainingSamples(0, Augmentation(crop=2, flip=True), has_keys=True)
    rounds = [training.of_round(data, [client], [30], round) for client in (1, 2) for round in (0, 1)]
    epochs = [
        training.of_epoch(data, client, epoch, number) for client in (1, 2) for epoch in (0, 1) for number in (0, 1)
    ]
    found = [*rounds, *epochs]
    for name in ("x", "key"):
        assert len({value[name].numpy().tobytes() for value in found}) == len(found)
    assert len(set(torch.cat([one["key"] for one in found]).tolist())) == 30 * len(found)
    flips, rows = ([moved_only(one["x"])[kind] for one in found] for kind in (0, 1))
    for of in (flips, rows):
        assert len({value.tobytes() for value in of}) == len(found)


def moved_only(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each image is mirrored, and how far it was moved down, read off four pixels amid it."""
    middle = x[:, 0, 3:5, 3:5].numpy()
    return (middle[:, 0, 0] > middle[:, 0, 1]).astype(np.int64), (middle.min(axis=(1, 2)) // 8).astype(np.int64)


def test_scores_see_samples_as_they_are() -> None:
    problem, plain = make(BOTH), make()
    shared, w = plain.objective.init_shared(), plain.objective.redraw_local(1, 0)
    assert problem.scores.round_metrics(shared, w, 1, 0) == plain.scores.round_metrics(shared, w, 1, 0)
    assert "key" not in problem.client_data.samples(1, "train", torch.arange(3))


def test_the_final_stage_trains_on_changed_samples_and_scores_stored_ones() -> None:
    problem, plain = make(BOTH), make()
    theta, stored = problem.objective.init_shared(), plain.client_data.training_epoch(1, 0)
    changed = problem.client_data.training_epoch(1, 0)
    advanced = list(problem.scores.advanced(1).epoch(theta, 0))
    assert len(advanced) == len(changed) == len(stored)
    for batch, trained, as_stored in zip(advanced, changed, stored, strict=True):
        assert torch.equal(batch["features"], problem.objective.advance(theta, trained)["features"])
        assert torch.equal(batch["y"], as_stored["y"])
        assert torch.equal(batch["key"], trained["key"])
        assert differ(trained, as_stored, "x")


def test_every_step_has_another_mask() -> None:
    problem = make({"model": MLP})
    data = problem.client_data.data(1, 0)
    assert at_step(data, 0)["key"] is data["key"]
    shared, w = problem.objective.init_shared(), problem.objective.redraw_local(1, 0)
    losses = [float(problem.objective.loss(shared, w, at_step(data, step))) for step in range(4)]
    assert len(set(losses)) == 4
    once = problem.objective.shared_pass(shared, data)
    assert len({float(problem.objective.loss(shared, w, at_step(once.data, step))) for step in range(4)}) == 4
    stepped = w
    for step in range(3):
        gradient = problem.objective.local_gradient(shared, stepped, at_step(once.data, step))
        stepped = {name: value - 0.1 * gradient[name] for name, value in stepped.items()}
    close(problem.objective.descend(shared, w, once.data, 0.1, 3), stepped)


PFEDME = {"lr": 0.1, "penalty": 1.0, "inner_steps": 2, "inner_lr": 0.1}


@pytest.mark.parametrize(
    ("name", "settings", "local", "num_masks"),
    [
        # one for each gradient; that of θ has the mask of the first step on w
        ("ffgg", {"lr": 0.1, "fine_tuner": {**TUNER, "steps": 3}}, ["head.*"], 3),
        ("local_ffgg", {"lr": 0.1, "local_steps": 2, "fine_tuner": {**TUNER, "steps": 3}}, ["head.*"], 6),
        ("fedalt", {"lr": 0.1, "local_steps": 4, "fine_tuner": {**TUNER, "steps": 3}}, ["head.*"], 4),
        ("fedalt", {"lr": 0.1, "local_steps": 1, "fine_tuner": {**SGD, "epochs": 5}}, ["head.*"], 5),
        ("fedavg", {"lr": 0.1, "local_steps": 4}, [], 4),
        ("pfedme", {**PFEDME, "local_steps": 2}, [], 4),
    ],
)  # fmt: skip
def test_every_step_of_a_method_has_another_mask(
    name: str, settings: dict[str, Any], local: list[str], num_masks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = make({"model": MLP, "split": {"local": local}, "batch_size": 1})
    seen = set()

    def noted(key: torch.Tensor | None) -> Any:
        assert key is not None
        seen.add(tuple(key.tolist()))
        return keyed(key)

    monkeypatch.setattr(network, "keyed", noted)
    method = discover("ppfl.algorithms")[name].model_validate({"name": name, **settings})
    assert isinstance(method, Algorithm)
    objective, data = problem.objective, problem.client_data.data(1, 0)
    theta, w = objective.init_shared(), objective.init_local(1)
    method.client(objective, theta, method.init_client(theta, w), data, method.draws(objective, 1, 0, 1))
    assert len(seen) == num_masks


@pytest.mark.parametrize("local", [["head.*"], ["hidden2.*", "head.*"], [], ["*"]], ids=str)
@pytest.mark.parametrize("limits", [(128, 1 << 30), (7, 0), (7, 1)], ids=str)
def test_gradients_are_those_of_the_loss_with_the_same_masks(
    limits: tuple[int, int], local: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "CPU", Pieces(*limits))
    for model in (MLP, {**CNN, "dropout": 0.3}):
        globs = [name for name in local if not (model["name"] == "cnn" and name == "hidden2.*")]
        problem = make({"model": model, "split": {"local": globs}})
        shared, w, data = (
            problem.objective.init_shared(), problem.objective.redraw_local(1, 3), problem.client_data.data(1, 0),
        )  # fmt: skip
        wanted = torch.func.grad(lambda *x, of=problem, d=data: of.objective.loss(*x, d), argnums=(0, 1))(shared, w)
        for found, right in zip(problem.objective.gradients(shared, w, data), wanted, strict=True):
            close(found, right)
        close(problem.objective.local_gradient(shared, w, data), wanted[1])


def test_masks_are_the_same_bits_side_by_side() -> None:
    x = torch.ones(3, 5, 40)
    keys = torch.arange(15).reshape(3, 5)

    def one(x: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        with keyed(key):
            return dropout(x, 0.3, "here")

    together = torch.func.vmap(one)(x, keys)
    assert all(torch.equal(together[k], one(x[k], keys[k])) for k in range(3))


def ended(clients_per_chunk: int, algorithm: dict[str, Any], problem: dict[str, Any], **keys: Any) -> Params:
    going = engine(
        problem={**CONFIG, **problem}, algorithm=algorithm, rounds=3, cohort=4,
        engine={"clients_per_chunk": clients_per_chunk}, **keys,
    )  # fmt: skip
    list(going)
    shared: Params = going.server["shared"]
    return shared


@pytest.mark.parametrize("batch_size", [20, "all"])
@pytest.mark.parametrize(
    "algorithm",
    [
        ffgg(TUNER, 0.3),
        ffgg(SGD, 0.3),
        {"name": "fedalt", "lr": 0.3, "epochs": 2, "batch_size": 7, "fine_tuner": SGD},
        {"name": "fedsim", "lr": 0.3, "local_steps": 3},
        {"name": "local_ffgg", "lr": 0.3, "local_steps": 2, "fine_tuner": TUNER},
    ],
    ids=str,
)
def test_one_client_at_a_time_or_three(
    algorithm: dict[str, Any], batch_size: Any, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {**BOTH, "batch_size": batch_size}
    alone, together = ended(1, algorithm, keys), ended(3, algorithm, keys)
    plain = ended(1, algorithm, {"batch_size": batch_size})
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-10, atol=1e-12)
        assert not torch.allclose(value, plain[name])
    assert "one after another" not in caplog.text


def test_fedalt_with_one_step_is_ffgg() -> None:
    keys = {**BOTH, "batch_size": "all"}
    one = ended(1, {"name": "fedalt", "lr": 0.3, "local_steps": 1, "fine_tuner": TUNER}, keys)
    for name, value in ended(1, ffgg(TUNER, 0.3), keys).items():
        torch.testing.assert_close(one[name], value, rtol=1e-12, atol=1e-13)


def test_same_bits_on_two_ranks() -> None:
    def scores(communicator: Any = None) -> list[dict[str, Any]]:
        going = engine(
            communicator, problem={**CONFIG, **BOTH}, algorithm=ffgg(SGD, 0.3), rounds=2, precision="float32",
            evaluate={"every": 1, "tuned": {"epochs": 2}},
        )  # fmt: skip
        return [
            {"theta": {k: v.numpy().tobytes() for k, v in going.server["shared"].items()}, **s.metrics} for s in going
        ]

    alone = scores()
    for rank in on_ranks(2, scores):
        for found, wanted in zip(rank, alone, strict=True):
            assert found.keys() == wanted.keys()
            assert all(np.array_equal(found[key], wanted[key]) for key in wanted)


def test_images_are_moved_and_mirrored() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4).expand(3, 2, 3, 4)
    moves = np.array([[1, 1], [0, 2], [1, 1]])
    found = moved_and_flipped(x, 1, moves, np.array([False, False, True]))
    assert torch.equal(found[0], x[0])
    assert found[1, 1].tolist() == [[0, 0, 0, 0], [1, 2, 3, 0], [5, 6, 7, 0]]
    assert torch.equal(found[2], x[2].flip(-1))


def test_augmentation_draws_every_move() -> None:
    problem = make({"training": {"augmentation": {"crop": 1, "flip": True}}, "batch_size": "all"})
    plain = make({"batch_size": "all"}).client_data.data(1, 0)["x"]
    padded = torch.nn.functional.pad(plain, [1] * 4)
    seen = set()
    for round in range(10):
        for number, image in enumerate(problem.client_data.data(1, round)["x"]):
            windows = {
                (row, column, flipped): padded[number, :, row : row + 8, column : column + 8].flip([-1] * flipped)
                for row in range(3) for column in range(3) for flipped in range(2)
            }  # fmt: skip
            fits = [place for place, window in windows.items() if torch.equal(window, image)]
            assert fits
            seen |= set(fits[:1])
    assert len(seen) == 18


def test_augmentation_is_for_images(tmp_path: Path) -> None:
    keys = {"training": {"augmentation": {"flip": True}}}
    assert make(keys).client_data.changes_training
    path = tmp_path / "train.h5"
    with h5py.File(path, "w") as file:
        for name in "ab":
            file[f"examples/{name}/pixels"] = np.zeros((4, 3), np.uint8)
            file[f"examples/{name}/label"] = np.arange(4)
    with pytest.raises(UserError, match=r"problem.training.augmentation: for images.*shape \(3,\)"):
        make({**keys, "dataset": {"name": "federated_hdf5", "train": str(path)}})


def test_a_crop_leaves_something_of_an_image() -> None:
    """Of 8 × 8 pixels, a window can be moved by 7 at most."""
    assert make({"training": {"augmentation": {"crop": 7}}}).client_data.changes_training
    with pytest.raises(UserError, match=r"problem.training.augmentation.crop: is 8,.*\(1, 8, 8\).*allowed: less than"):
        make({"training": {"augmentation": {"crop": 8}}})
