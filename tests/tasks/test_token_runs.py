"""Runs whose samples are tokens: one by one, side by side, on a card that is none, and what is refused at once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.errors import ConfigError
from ppfl.config.run import Config
from ppfl.core.errors import UserError
from ppfl.interfaces.placement import ChunkMemory, Placement
from ppfl.runs.assemble import build
from tests import examples
from tests.engine.build import config, engine
from tests.engine.test_batched import assert_equal, found
from tests.examples.tokens.models.tiny_tokens import TinyTokens
from tests.mpi.test_same_bits import arrays, start_ranks
from tests.ranks import on_ranks
from tests.test_pretended_card import check

torch.set_num_threads(1)

PLUGINS = str(Path(__file__).parents[1] / "examples" / "tokens")
SPLITS = {"head": ["head.*"], "embedding": ["embed.*"], "all": ["*"], "nothing": []}


@cache
def folder() -> Path:
    return examples.files("datasets", "text_hdf5")


def problem(local: list[str], **others: Any) -> dict[str, Any]:
    files = {"train": str(folder() / "train.h5"), "test": str(folder() / "test.h5")}
    dataset = {"name": "text_hdf5", **files, "unit": "characters", "length": 5, "validation": 0.2}
    return {
        "name": "supervised", "dataset": dataset, "model": {"name": "tiny_tokens"}, "task": {"name": "next_token"},
        "split": {"local": local}, "batch_size": 3, **others,
    }  # fmt: skip


GD = {"name": "gradient_descent", "steps": 2, "lr": 0.3}
SGD = {"name": "sgd", "lr": 0.3, "batch_size": 2}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ffgg": ("head", {"name": "ffgg", "lr": 0.3, "fine_tuner": GD}),
    "ffgg, embedding": ("embedding", {"name": "ffgg", "lr": 0.3, "fine_tuner": SGD}),
    "ffgg, products": ("head", {"name": "ffgg", "lr": 0.3, "fine_tuner": {"name": "conjugate_gradient", "steps": 2}}),
    "fedavg": ("nothing", {"name": "fedavg", "lr": 0.3, "epochs": 1, "batch_size": 2}),
    "fedalt": ("head", {"name": "fedalt", "lr": 0.3, "local_steps": 2, "fine_tuner": GD}),
    "local_only": ("all", {"name": "local_only", "lr": 0.3, "local_steps": 2}),
}  # fmt: skip


def document(method: str, **others: Any) -> dict[str, Any]:
    split, algorithm = METHODS[method]
    return {"plugins": [PLUGINS], "problem": problem(SPLITS[split]), "algorithm": algorithm, **others}


@pytest.mark.parametrize("method", METHODS)
def test_clients_side_by_side_find_what_they_find_one_by_one(method: str) -> None:
    """Clients of unlike sizes, some with samples that are all padding."""
    alone = found(**document(method))
    assert_equal(found(**document(method, engine={"clients_per_chunk": 3})), alone)
    assert not any(np.isnan(value).any() for key, value in alone.items() if key.endswith("shared embed.weight"))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("clients_per_chunk", [1, 3])
def test_nothing_mixes_devices(method: str, clients_per_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, rounds=2, **document(method, engine={"clients_per_chunk": clients_per_chunk}))


def test_ranks_find_the_same_bits() -> None:
    for clients_per_chunk in (1, 2):
        sections = document("ffgg", engine={"clients_per_chunk": clients_per_chunk}, precision="float32")
        alone = found(**sections)
        of_ranks = on_ranks(2, lambda communicator, sections=sections: found(communicator, **sections))
        for of_rank in of_ranks:
            for key in of_rank.keys() & alone.keys():
                assert of_rank[key].tobytes() == alone[key].tobytes(), key


def built(**sections: Any) -> Any:
    return build(config(**sections), SoloCommunicator()).problem


def test_weights_of_scores_are_tokens() -> None:
    """Those of each part and kind; `loss`, which is of training, weighs by all tokens that train."""
    sections = document("ffgg")
    sections["problem"]["task"] = {"name": "next_token", "out_of_vocabulary": 7, "end": 9}
    of = built(**sections)
    data, scores = of.client_data, of.scores
    for metric, part, left_out in (
        ("test_loss", "test", {0}), ("test_perplexity", "test", {0}), ("test_accuracy", "test", {0, 7, 9}),
        ("validation_accuracy_with_special_tokens", "validation", {0}), ("loss", "train", {0}),
    ):  # fmt: skip
        sizes = data.part_sizes(part)
        labels = [data.samples(m, part, torch.arange(sizes[m]))["y"] for m in data.clients]
        wanted = tuple(sum(int(one) not in left_out for one in y.flatten()) for y in labels)
        assert scores.metric_weights(metric) == wanted
    facts = data.client_facts()
    assert "label_histogram" not in facts
    assert facts["num_test_tokens"].tolist() == list(scores.metric_weights("test_loss"))


def test_scores_of_a_client_are_over_its_tokens() -> None:
    of = built(**document("ffgg"))
    shared, local = of.objective.init_shared(), of.objective.init_local(0)
    found_scores = of.scores.client_metrics(shared, local, 0)
    rows = torch.arange(of.client_data.part_sizes("test")[0])
    data = of.client_data.samples(0, "test", rows)
    logits = of.objective.logits(shared, local, data)
    there = data["y"] != 0
    wanted = torch.nn.functional.cross_entropy(logits[there], data["y"][there])
    assert found_scores["test_loss"] == pytest.approx(float(wanted), rel=1e-12)
    assert found_scores["test_perplexity"] == pytest.approx(float(wanted.exp()), rel=1e-12)
    assert found_scores["test_accuracy"] == float((logits.argmax(-1) == data["y"])[there].double().mean())


def test_a_loss_that_falls() -> None:
    """There is something to learn, and it is learned: which letter follows which."""
    sections = document("fedavg", rounds=30, evaluate={"every": 30, "tuned": {"epochs": 0}})
    first, *_, last = (scored.metrics for scored in engine(**sections))
    assert last["loss"] < first["loss"] - 0.2
    assert last["test_perplexity"] < first["test_perplexity"]


def test_memory_is_estimated_with_the_vocabulary() -> None:
    """Logits are what counts: K falls with the number of words, which is known before a client is read."""
    budget = ChunkMemory(60_000)
    here = Placement(SoloCommunicator(), 0, 0, torch.float64, torch.device("cpu"), chunk_memory=budget)
    sizes = []
    for number in (5, 500):
        sections = document("ffgg")
        sections["problem"]["dataset"]["alphabet"] = "".join(map(chr, range(97, 97 + number)))
        sizes.append(config(**sections).problem.build(here, None).client_data.clients_per_chunk)
    assert sizes == [4, 1]


MLP = {"name": "mlp", "hidden": [4]}
DIGITS = {"name": "digits", "partition": {"name": "iid", "clients": 4}}


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "classes": (
        {"task": {"name": "classification"}},
        "problem.task: classification needs one integer a sample, its class; .*, snippets has 5 integers a sample",
    ),
    "numbers": (
        {"task": {"name": "regression"}},
        "problem.task: regression needs floating-point labels, .*; .*snippets has 5 integers a sample",
    ),
    "labels": (
        {"dataset": DIGITS, "model": MLP},
        "problem.task: next_token needs samples of tokens, .*; problem.dataset has one integer a sample",
    ),
    "samples": ({"model": MLP}, "problem.model: mlp takes numbers; the samples of problem.dataset are tokens"),
    "numbers for tokens": (
        {"dataset": DIGITS, "task": {"name": "ranking"}},
        "problem.model: tiny_tokens takes tokens; the samples of problem.dataset are numbers",
    ),
    "outputs": (
        {"model": {"name": "tiny_tokens", "last_only": True}},
        "problem.model: tiny_tokens makes 10 of a sample; the task next_token needs 5 × 10 with these labels",
    ),
    "ids": (
        {"task": {"name": "next_token", "out_of_vocabulary": 3}},
        "problem.task.out_of_vocabulary: is 3; .*snippets has 7 for it",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_refused_in_one_line_before_training(misfit: str) -> None:
    others, said = MISFITS[misfit]
    sections = {**document("ffgg"), "problem": problem(["head.*"], **others)}
    with pytest.raises(UserError, match=f"^{said}$") as told:
        engine(**sections)
    assert len(told.value.lines) == 1


def test_labels_are_flipped_of_classes_alone() -> None:
    attack = {"byzantine": {"attack": {"name": "label_flip"}, "clients": 1}}
    with pytest.raises(ConfigError, match=r"byzantine.attack.name: .*no labels that are classes"):
        config(**document("ffgg"), **attack)


def test_the_task_is_part_of_the_digest_where_it_is_not_the_default() -> None:
    sections = {"problem": {**problem(["head.*"]), "dataset": DIGITS, "model": MLP}}
    del sections["problem"]["task"]
    plain = config(**sections)
    assert "task" not in plain.to_yaml()

    def with_task(**task: Any) -> Config:
        return config(problem={**sections["problem"], "task": task})

    assert with_task(name="classification", label_smoothing=0.0).digest == plain.digest
    others = [with_task(name="classification", label_smoothing=0.1), with_task(name="ranking")]
    assert len({plain.digest, *(one.digest for one in others)}) == 3
    assert "label_smoothing: 0.1" in others[0].to_yaml()


@pytest.mark.parametrize("task", ["regression", "ranking"])
@pytest.mark.parametrize("local", ["head.*", "*"])
def test_other_tasks_run_side_by_side(task: str, local: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for client, size in enumerate((3, 9, 6, 7)):
            x = draw.normal(size=(size, 5))
            file[f"examples/{client}/pixels"] = x
            y = np.stack([x[:, 0] - x[:, 1], x[:, 2]], axis=1)
            file[f"examples/{client}/label"] = y if task == "regression" else y.argmax(axis=1)
    data = {"name": "federated_hdf5", "train": str(tmp_path / "data.h5"), "test": str(tmp_path / "data.h5")}
    of = problem([local], dataset=data, model=MLP, task={"name": task}, batch_size="all")
    sections = {"problem": of, "algorithm": {"name": "ffgg", "lr": 0.1, "fine_tuner": GD}}
    assert_equal(found(**sections, engine={"clients_per_chunk": 3}), found(**sections))
    start, *_, end = (scored.metrics for scored in engine(rounds=40, **{**sections, "evaluate": {"every": 40}}))
    assert end["loss"] < start["loss"]
    better = "test_r2" if task == "regression" else "test_ndcg_at_1"
    assert end[better] >= start[better]


def test_items_are_ranked_at_every_position_too() -> None:
    of = problem(["head.*"], task={"name": "ranking", "padding": 0, "at": [1, 10]})
    sections = {"plugins": [PLUGINS], "problem": of, "algorithm": METHODS["ffgg"][1]}
    told = found(**sections)
    assert told["2 test_hit_rate_at_10"] == 1
    assert_equal(found(**sections, engine={"clients_per_chunk": 3}), told)


def test_a_model_of_tokens_may_have_one_output_a_text() -> None:
    of = TinyTokens(name="tiny_tokens", last_only=True)
    stages = of.stages((4,), 7)
    params = {name: torch.zeros(law.shape) for stage in stages for name, law in stage.parameters.items()}
    x = torch.zeros(2, 4, dtype=torch.int64)
    for stage in stages:
        x = stage.apply(params, x)
    assert x.shape == (2, 7)


@pytest.mark.mpi
def test_results_have_the_same_bytes_on_two_ranks(tmp_path: Path) -> None:
    head = {"name": "tokens", "seed": 3, "rounds": 4, "evaluate": {"every": 2}, "save": {"local": True}}
    (tmp_path / "tokens.yaml").write_text(yaml.safe_dump({**head, **document("ffgg")}))
    for count in (1, 2):
        start_ranks(count, tmp_path, ["tokens"])
    one, two = (arrays(tmp_path / f"ranks-{count}" / "tokens.h5") for count in (1, 2))
    assert one.keys() == two.keys()
    assert len(one) > 10
    for key, value in one.items():
        if value.dtype != object:
            assert value.tobytes() == two[key].tobytes(), key


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39], ids=str)
def test_numbers_that_no_run_can_use_are_refused_as_labels(bad: float, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["examples/ada/pixels"], file["examples/ada/label"] = np.zeros((2, 3)), np.array([0.0, bad])
    data = {"name": "federated_hdf5", "train": str(tmp_path / "data.h5"), "test": 0.0, "validation": 0.0}
    of = problem(["head.*"], dataset=data, model=MLP, task={"name": "regression"})
    with pytest.raises(UserError, match="client 'ada': 1 of its 2 train labels have NaN, inf or a number beyond"):
        engine(problem=of, algorithm=METHODS["ffgg"][1], precision="float32")
