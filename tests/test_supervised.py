"""The classification problem: losses and gradients over every split, drawn batches, scores, ranks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ppfl.assemble import build
from ppfl.comm.solo import SoloCommunicator
from ppfl.core.communicator import Communicator
from ppfl.core.errors import UserError
from ppfl.core.problem import Placement
from ppfl.core.types import Data, Params
from ppfl.problems._network import PIECE_ROWS
from ppfl.problems._supervised_problem import Supervised
from ppfl.problems.supervised import SupervisedSettings
from tests.engine.build import config, ffgg
from tests.ranks import on_ranks

torch.set_num_threads(1)

CONFIG: dict[str, Any] = {
    "name": "supervised",
    "dataset": {"name": "digits", "partition": {"name": "dirichlet", "clients": 6, "alpha": 0.5}},
    "model": {"name": "mlp", "hidden": [12, 7]},
    "split": {"local": ["head.*"]},
    "batch_size": 20,
}
HEAD_STEPS: dict[str, Any] = {"name": "gradient_descent", "steps": 1, "lr": 0.1}
CNN: dict[str, Any] = {
    "name": "cnn", "kernel_size": 3, "padding": 1, "channels": [2, 4], "hidden": 6, "normalization": "group",
    "groups": 2,
}  # fmt: skip


def make(
    keys: dict[str, Any] | None = None, *, seed: int = 0, communicator: Communicator | None = None,
    dtype: torch.dtype = torch.float64, body_dtype: torch.dtype | None = None,
) -> Supervised:  # fmt: skip
    settings = SupervisedSettings.model_validate({**CONFIG, **(keys or {})})
    placement = Placement(communicator or SoloCommunicator(), seed, seed, dtype, torch.device("cpu"), None, body_dtype)
    problem = settings.build(placement, 1)
    assert isinstance(problem, Supervised)
    return problem


def close(one: Params, other: Params) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-12, atol=1e-13)


def suffixes(settings: dict[str, Any]) -> list[list[str]]:
    stages = ["hidden1", "hidden2", "head"]
    if settings["name"] == "cnn":
        stages = ["conv1", "norm1", "conv2", "norm2", "hidden", "head"]
    return [[f"{stage}.*" for stage in stages[k:]] for k in range(1, len(stages))]


SPLITS = [(model, local) for model in (CONFIG["model"], CNN) for local in [*suffixes(model), ["*"], []]]
INNER_SPLITS = [
    (CONFIG["model"], ["head.bias"]),
    (CONFIG["model"], ["hidden1.*"]),
    (CONFIG["model"], ["hidden2.weight", "head.bias"]),
    (CNN, ["norm*"]),
]


@pytest.mark.parametrize(("model", "local_globs"), SPLITS + INNER_SPLITS, ids=str)
def test_advanced_data_has_the_same_loss_and_gradients(model: dict[str, Any], local_globs: list[str]) -> None:
    problem = make({"model": model, "split": {"local": local_globs}})
    whole = make({"model": model, "split": {"local": []}})
    shared, local = problem.init_shared(), problem.redraw_local(1, 3)
    data = problem.data(1, 0)
    advanced = problem.advance(shared, data)
    loss = problem.loss(shared, local, data)
    everything = {name: {**shared, **local}[name] for name in whole.init_shared()}
    assert float(whole.loss(everything, {}, data)) == float(loss)
    torch.testing.assert_close(problem.loss(shared, local, advanced), loss, rtol=1e-12, atol=0)
    close(problem.local_gradient(shared, local, advanced), problem.local_gradient(shared, local, data))
    close(
        problem.shared_gradient(shared, local, data) | problem.local_gradient(shared, local, data),
        {
            name: whole.shared_gradient(everything, {}, data)[name]
            for name in [*problem.init_shared(), *problem.init_local(1)]
        },
    )
    assert problem.advance(shared, advanced).keys() == advanced.keys()


def test_features_stop_before_the_first_stage_with_a_local_parameter() -> None:
    def features(local: list[str]) -> tuple[int, ...]:
        problem = make({"split": {"local": local}})
        advanced = problem.advance(problem.init_shared(), problem.data(0, 0))
        assert "x" not in advanced
        return tuple(advanced["features"].shape[1:])

    assert features(["head.bias"]) == (7,)
    assert features(["hidden2.weight", "head.*"]) == (12,)
    assert features(["hidden1.bias"]) == (1, 8, 8)
    assert features([]) == (10,)


def test_prefix_is_evaluated_once() -> None:
    problem = make()
    shared, local = problem.init_shared(), problem.init_local(0)
    advanced = problem.advance(shared, problem.data(0, 0))
    without_body = {name: value * math.nan for name, value in shared.items()}
    assert math.isfinite(float(problem.loss(without_body, local, advanced)))


def test_loss_is_the_mean_cross_entropy() -> None:
    problem = make({"model": {"name": "logistic_regression"}, "split": {"local": ["head.bias"]}})
    shared, local = problem.init_shared(), problem.init_local(0)
    data = problem.data(0, 0)
    logits = data["x"].flatten(1).numpy() @ shared["head.weight"].numpy().T + local["head.bias"].numpy()
    own = logits[np.arange(len(logits)), data["y"].numpy()]
    assert float(problem.loss(shared, local, data)) == pytest.approx(
        float(np.mean(np.log(np.exp(logits).sum(axis=1)) - own)), rel=1e-12
    )


@pytest.mark.parametrize("model", [CONFIG["model"], CNN, {"name": "logistic_regression"}], ids=str)
def test_padded_rows_do_not_count(model: dict[str, Any]) -> None:
    problem = make({"model": model, "split": {"local": ["head.bias"]}})
    shared, local = problem.init_shared(), problem.init_local(0)
    data = problem.data(0, 0)
    num_samples = len(data["y"])
    padded = {name: torch.cat([value, value.new_zeros(5, *value.shape[1:])]) for name, value in data.items()}
    padded["weight"] = torch.cat([torch.ones(num_samples), torch.zeros(5)]).double()
    for advance in (False, True):
        one, other = (problem.advance(shared, d) if advance else d for d in (data, padded))
        torch.testing.assert_close(
            problem.loss(shared, local, other), problem.loss(shared, local, one), rtol=1e-12, atol=0
        )
        close(problem.local_gradient(shared, local, other), problem.local_gradient(shared, local, one))
    close(problem.shared_gradient(shared, local, padded), problem.shared_gradient(shared, local, data))


@pytest.mark.parametrize("model", [CONFIG["model"], CNN], ids=str)
def test_vectorized_over_clients_equals_a_loop(model: dict[str, Any]) -> None:
    problem = make({"model": model, "batch_size": 9})
    shared = problem.init_shared()
    clients = [(problem.redraw_local(m, 0), problem.data(m, 0)) for m in range(3)]

    def both(local: Params, data: Data) -> tuple[Params, Params]:
        advanced = problem.advance(shared, data)
        local = {n: v - 0.1 * g for (n, v), g in zip(
            local.items(), problem.local_gradient(shared, local, advanced).values(), strict=True)}  # fmt: skip
        return problem.shared_gradient(shared, local, data), local

    stacked_local = {name: torch.stack([w[name] for w, _ in clients]) for name in clients[0][0]}
    stacked_data = {name: torch.stack([d[name] for _, d in clients]) for name in clients[0][1]}
    together = torch.func.vmap(both)(stacked_local, stacked_data)
    for row, (local, data) in enumerate(clients):
        for group, alone in zip(together, both(local, data), strict=True):
            for name, value in alone.items():
                torch.testing.assert_close(group[name][row], value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("model", "local_globs"), [(CONFIG["model"], ["head.*"]), (CNN, ["conv2.*", "head.*"])])
def test_hessian_product_agrees_with_differences_of_gradients(model: dict[str, Any], local_globs: list[str]) -> None:
    problem = make({"model": model, "split": {"local": local_globs}})
    shared, local, direction = problem.init_shared(), problem.init_local(0), problem.redraw_local(0, 0)
    data = problem.advance(shared, problem.data(0, 0))
    product = problem.local_hessian_product(shared, local, direction, data)
    forth, back = (
        problem.local_gradient(shared, {n: v + sign * 1e-6 * direction[n] for n, v in local.items()}, data)
        for sign in (1, -1)
    )
    for name, value in product.items():
        torch.testing.assert_close((forth[name] - back[name]) / 2e-6, value, rtol=1e-5, atol=1e-7)


def rows_of(data: Data) -> set[bytes]:
    return {row.numpy().tobytes() for row in data["x"]}


def test_batches_are_drawn_without_replacement_and_by_key() -> None:
    problem, everything = make(), make({"batch_size": "all"})
    assert not problem.fixed_data
    assert everything.fixed_data
    for client in range(6):
        data = problem.data(client, 0)
        size = min(20, problem.num_train_samples[client])
        assert data["x"].shape == (size, 1, 8, 8)
        assert data["x"].dtype == torch.float64
        assert data["y"].dtype == torch.int64
        assert len(rows_of(data)) == size
        assert rows_of(data) <= rows_of(everything.data(client, 0))
        assert 0 <= float(data["x"].min()) <= float(data["x"].max()) <= 1
    client = int(np.argmax(problem.num_train_samples))
    same, other_round, other_seed = problem.data(client, 0), problem.data(client, 1), make(seed=1)
    assert torch.equal(same["x"], make().data(client, 0)["x"])
    assert not torch.equal(same["x"], other_round["x"])
    assert not torch.equal(problem.init_shared()["hidden1.weight"], other_seed.init_shared()["hidden1.weight"])
    whole = everything.data(client, 0)
    assert len(whole["y"]) == everything.num_train_samples[client]
    assert torch.equal(whole["x"], everything.data(client, 7)["x"])
    assert torch.equal(whole["x"], make({"batch_size": 10**6}).data(client, 0)["x"])


def test_batches_are_fresh_memory() -> None:
    problem = make({"batch_size": "all"})
    first = problem.data(0, 0)
    assert all(value.is_contiguous() and value.storage_offset() == 0 for value in first.values())
    kept = {name: value.clone() for name, value in first.items()}
    for value in first.values():
        value.zero_()
    assert all(torch.equal(problem.data(0, 0)[name], value) for name, value in kept.items())


def test_training_epoch_covers_every_sample_once() -> None:
    problem, everything = make(), make({"batch_size": "all"})
    for client in range(6):
        batches = problem.training_epoch(client, 0)
        assert [len(b["y"]) for b in batches[:-1]] == [20] * (len(batches) - 1)
        assert sum(len(b["y"]) for b in batches) == problem.num_train_samples[client]
        assert set().union(*map(rows_of, batches)) == rows_of(everything.data(client, 0))
    one, again, other = (problem.training_epoch(0, epoch)[0]["x"] for epoch in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert len(everything.training_epoch(0, 0)) == 1


def test_initial_values() -> None:
    problem = make()
    shared, local = problem.init_shared(), problem.init_local(0)
    assert list(shared) == ["hidden1.weight", "hidden1.bias", "hidden2.weight", "hidden2.bias"]
    assert list(local) == ["head.weight", "head.bias"]
    assert all(torch.equal(value, problem.init_local(5)[name]) for name, value in local.items())
    all_shared = make({"split": {"local": []}}).init_shared()
    assert all(torch.equal(all_shared[name], value) for name, value in {**shared, **local}.items())
    shared["hidden1.weight"].zero_()
    assert problem.init_shared()["hidden1.weight"].abs().max() > 0


def test_parameters_of_one_shape_are_drawn_apart() -> None:
    problem = make({"model": {"name": "mlp", "hidden": [6, 6, 6]}})
    for params in (problem.init_shared(), make({"split": {"local": ["*"]}}).redraw_local(0, 0)):
        scaled = [value.flatten()[:6] * value.abs().max() ** -1 for value in params.values()]
        assert all(not torch.allclose(scaled[a], scaled[b], atol=0.1) for a in range(len(scaled)) for b in range(a))


def test_redrawn_values_differ_by_round_and_client() -> None:
    problem = make()
    draws = [problem.init_local(0), *(problem.redraw_local(m, k) for m in range(2) for k in range(2))]
    assert torch.equal(problem.redraw_local(1, 1)["head.weight"], draws[-1]["head.weight"])
    for a in range(5):
        assert float(draws[a]["head.weight"].abs().max()) <= 1 / math.sqrt(7)
        for b in range(a):
            assert not torch.equal(draws[a]["head.weight"], draws[b]["head.weight"])


def write_two_clients(folder: Path, num_test: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    for part, sizes in (("train", {"a": 40, "b": 1, "c": 0}), ("test", {"a": num_test})):
        with h5py.File(folder / f"{part}.h5", "w") as file:
            for name, size in sizes.items():
                file[f"examples/{name}/pixels"] = random.random((size, 3)).astype(np.float32)
                file[f"examples/{name}/label"] = random.integers(0, 4, size)
    return {
        "dataset": {
            "name": "federated_hdf5", "train": str(folder / "train.h5"), "test": str(folder / "test.h5"),
        },
        "model": {"name": "logistic_regression"},
        "split": {"local": ["head.bias"]},
    }  # fmt: skip


def test_scores_are_those_of_all_samples_at_once(tmp_path: Path) -> None:
    num_test = 2 * PIECE_ROWS + 3
    problem = make(write_two_clients(tmp_path, num_test))
    with h5py.File(tmp_path / "test.h5") as file:
        x, y = (torch.from_numpy(file[f"examples/a/{field}"][()]) for field in ("pixels", "label"))
    shared, local = problem.init_shared(), problem.init_local(0)
    scores = problem.client_metrics(shared, local, 0)
    logits = x.double() @ shared["head.weight"].T + local["head.bias"]
    assert scores["test_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, y)), rel=1e-12)
    assert scores["test_accuracy"] == int((logits.argmax(1) == y).sum()) / num_test
    assert 0 <= scores["validation_accuracy"] <= 1
    assert all(type(value) is float for value in scores.values())
    in_round = problem.round_metrics(shared, local, 0, 4)
    assert in_round["loss"] == float(problem.loss(shared, local, problem.data(0, 4)))
    assert {name: in_round[name] for name in scores} == scores
    assert problem.metric_weights("loss") == problem.num_train_samples == (36, 1, 0)
    assert problem.metric_weights("test_loss") == problem.num_test_samples == (num_test, 0, 0)
    assert problem.metric_weights("validation_accuracy") == problem.num_validation_samples == (4, 0, 0)


def test_clients_without_samples_have_no_scores(tmp_path: Path) -> None:
    problem = make(write_two_clients(tmp_path, 5))
    shared, local = problem.init_shared(), problem.init_local(1)
    one_sample = problem.round_metrics(shared, local, 1, 0)
    assert [name for name, value in one_sample.items() if not math.isnan(value)] == ["loss"]
    nothing = problem.round_metrics(shared, local, 2, 0)
    assert list(nothing) == list(one_sample)
    assert all(math.isnan(value) for value in nothing.values())
    assert len(problem.data(2, 0)["y"]) == 0
    assert problem.training_epoch(2, 0) == []


def test_facts_and_histogram() -> None:
    problem = make()
    facts = problem.facts()
    assert facts["num_local_parameters"] == 7 * 10 + 10
    assert facts["num_shared_parameters"] == 64 * 12 + 12 + 12 * 7 + 7
    assert sum(facts[f"num_{part}_samples"] for part in ("train", "validation", "test")) == 1797
    histogram = problem.client_facts()["label_histogram"]
    assert histogram is problem.label_histogram
    assert histogram.shape == (6, 10)
    assert histogram.dtype == np.int64
    from sklearn.datasets import load_digits

    assert np.array_equal(histogram.sum(axis=0), np.bincount(load_digits().target))
    sizes = np.array([problem.num_train_samples, problem.num_validation_samples, problem.num_test_samples])
    assert np.array_equal(histogram.sum(axis=1), sizes.sum(axis=0))


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_ranks_have_the_bits_of_one_process(num_ranks: int) -> None:
    alone = make(dtype=torch.float32)
    problems = on_ranks(num_ranks, lambda communicator: make(communicator=communicator, dtype=torch.float32))
    assert [client for problem in problems for client in problem.clients] == list(range(6))
    for problem in problems:
        assert np.array_equal(problem.label_histogram, alone.label_histogram)
        assert problem.facts() == alone.facts()
        assert all(torch.equal(value, alone.init_shared()[name]) for name, value in problem.init_shared().items())
        for client in problem.clients:
            data, wanted = problem.data(client, 2), alone.data(client, 2)
            assert all(torch.equal(data[name], wanted[name]) for name in wanted)
            shared, local = alone.init_shared(), alone.redraw_local(client, 0)
            assert problem.round_metrics(shared, local, client, 1) == alone.round_metrics(shared, local, client, 1)


def test_number_of_classes_is_that_of_all_ranks(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "train.h5", "w") as file:
        for name, label in (("a", 0), ("b", 6)):
            file[f"examples/{name}/pixels"] = np.zeros((4, 3), np.uint8)
            file[f"examples/{name}/label"] = np.full(4, label)
    keys = {
        "dataset": {"name": "federated_hdf5", "train": str(tmp_path / "train.h5")},
        "model": {"name": "logistic_regression"},
        "split": {"local": ["head.bias"]},
    }
    for problem in on_ranks(3, lambda communicator: make(keys, communicator=communicator)):
        assert problem.label_histogram.tolist() == [[4, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 4]]
        assert problem.init_shared()["head.weight"].shape == (7, 3)


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"split": {"local": ["hed.*"]}}, "split"),
        ({"split": {"local": ["head.*", "hidden1.*", "hidden2.*"]}}, "split"),
        ({"split": {"local": "head.*"}}, "split"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "some"}, "batch_size"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"model": {"name": "cnm"}}, "model"),
        ({"dataset": {"name": "digits"}}, "dataset"),
        ({"optimizer": {}}, "optimizer"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused_before_anything_is_loaded(keys: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SupervisedSettings.model_validate({**CONFIG, **keys})
    assert {error["loc"][0] for error in caught.value.errors()} == {field}


def test_a_glob_that_matches_nothing_is_told_with_the_names() -> None:
    with pytest.raises(ValidationError, match=r"'hed\.\*' matches no parameter; the parameters are hidden1\.weight"):
        SupervisedSettings.model_validate({**CONFIG, "split": {"local": ["hed.*"]}})


def test_models_that_the_samples_do_not_suit_are_refused_on_every_rank() -> None:
    def refused(communicator: Communicator) -> bool:
        with pytest.raises(UserError, match=r"problem\.model: the images \(1, 8, 8\)"):
            make({"model": {"name": "cnn"}}, communicator=communicator)
        return True

    assert on_ranks(2, refused) == [True, True]


def test_data_without_anything_to_train_on_is_refused(tmp_path: Path) -> None:
    keys = write_two_clients(tmp_path, 5)
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file["examples/a/pixels"] = np.zeros((0, 3), np.float32)
        file["examples/a/label"] = np.zeros(0, np.int64)
    with pytest.raises(UserError, match=r"problem\.dataset: no client has a training sample"):
        make(keys)


def test_what_a_run_asks_for_reaches_the_model_and_the_deal_of_clients() -> None:
    """Precision of the body, and the samples of a round, by which clients are dealt to ranks."""

    def build_with(communicator: Communicator, precision: str, batch_size: int | str) -> Supervised:
        dataset = {"name": "digits", "partition": {"name": "dirichlet", "clients": 6, "alpha": 0.1}}
        model = {"name": "cnn", "kernel_size": 3, "padding": 1}
        problem = {**CONFIG, "dataset": dataset, "model": model, "batch_size": batch_size}
        cpu = {"device": "cpu"}
        run = config(problem=problem, precision=precision, algorithm=ffgg(HEAD_STEPS, 0.1), engine=cpu)
        built = build(run, communicator).problem
        assert isinstance(built, Supervised)
        return built

    for precision, body in (("float32", None), ("bfloat16", torch.bfloat16)):
        built = build_with(SoloCommunicator(), precision, 20)
        assert built._network.body_dtype == body
        assert {value.dtype for value in built.init_shared().values()} == {torch.float32}
    with pytest.raises(UserError, match="tf32 is a number type of GPUs"):
        build_with(SoloCommunicator(), "tf32", 20)
    sizes = build_with(SoloCommunicator(), "float32", "all").num_train_samples
    for batch_size, used in (("all", list(sizes)), (5, [min(size, 5) for size in sizes])):
        deals = on_ranks(2, lambda c, size=batch_size: build_with(c, "float32", size).clients)
        busiest = max(sum(used[m] for m in clients) for clients in deals)
        least = min(max(sum(used[:cut]), sum(used[cut:])) for cut in range(1, len(used)))
        assert busiest == least, batch_size
