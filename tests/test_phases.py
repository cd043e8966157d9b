"""Classes that come in phases: who has which samples when, what is scored, and runs with one phase or several."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ppfl.config.grid import load_cells
from ppfl.core.agree import SharedUserError
from ppfl.interfaces.selection import Selection
from ppfl.results.reader import open_result
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.algorithms.test_identities import MINI_BATCHES, assert_same_views, final
from tests.algorithms.test_pfedgraph import EVERYBODY, NOBODY
from tests.engine.build import config, engine
from tests.engine.test_interrupted import whole_and_pieces
from tests.grids import ppfl
from tests.mpi.jobs import arrays as arrays_of
from tests.ranks import on_ranks
from tests.supervised_problems import make

CLASSES = [[0, 1, 2], [3, 4, 5], [6, 7]]
DATASET = {"name": "digits", "partition": {"name": "iid", "clients": 6}}
PHASES = {"dataset": DATASET, "phases": {"classes": CLASSES, "rounds": [2, 3, 1]}}
REHEARSED = {**PHASES, "rehearsal": {"samples": 3, "components": 4}}
ONE = {"classes": [list(range(10))], "rounds": 5}
SGD = {"name": "sgd", "lr": 0.1, "batch_size": 6}
PROBLEM = {
    "name": "supervised", **REHEARSED, "model": {"name": "mlp", "hidden": [8]}, "split": {"local": ["head.*"]},
    "batch_size": 20,
}  # fmt: skip
METHODS: list[dict[str, Any]] = [
    {"name": "fedsim", **MINI_BATCHES},
    {"name": "ffgg", "lr": 0.1, "fine_tuner": SGD},
    {"name": "pfedgraph", **MINI_BATCHES, "penalty": 0.5},
    {"name": "scaffold_theta", **MINI_BATCHES},
    {"name": "interpolation", "lr": 0.1, "collaboration": 0.5},
]


def arrays(folder: Path, problem: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """Return {group/name: bytes} of the arrays of a run."""
    out = folder / "r.h5"
    run(config(problem=problem, rounds=5, **sections), out, Silent())
    result = open_result(out)
    groups = {"rounds": result.rounds, "summary": result.summary, "clients": result.clients, "stages": result.stages}
    out.unlink()
    return {
        f"{group}/{name}": values.to_numpy().tobytes()
        for group, of_group in groups.items()
        for name, values in of_group.items()
        if "seconds" not in str(name) and values.dtype != object
    }


@pytest.mark.parametrize(
    ("method", "batch_size"), [(METHODS[1], "all"), *((method, 20) for method in METHODS)],
    ids=lambda value: str(value["name"] if isinstance(value, dict) else value),
)  # fmt: skip
def test_one_phase_is_an_ordinary_run(tmp_path: Path, method: dict[str, Any], batch_size: Any) -> None:
    split = {"local": ["head.*"] if method["name"] != "interpolation" else []}
    ordinary = {**PROBLEM, "batch_size": batch_size, "split": split}
    del ordinary["phases"], ordinary["rehearsal"]
    sections = {"algorithm": method, "evaluate": {"every": 2, "tuned": {"epochs": 1}}, "cohort": 4}
    wanted = arrays(tmp_path, ordinary, **sections)
    for rehearsal in (None, {"samples": 3}):
        found = arrays(tmp_path, {**ordinary, "phases": ONE, "rehearsal": rehearsal}, **sections)
        assert {name: found[name] for name in wanted} == wanted
        assert found["rounds/test_seen_accuracy"] == found["rounds/test_now_accuracy"] == wanted["rounds/test_accuracy"]


def test_clients_have_the_classes_of_the_phase_and_no_others() -> None:
    problem = make({**PHASES, "batch_size": "all"})
    data = problem.client_data
    for round, phase in enumerate([0, 0, 1, 1, 1, 2, 2]):
        for client in data.clients:
            found = data.data(client, round)
            wanted = data.samples(client, "train", torch.arange(data.num_train_samples[client]))
            chosen = torch.isin(wanted["y"], torch.tensor(CLASSES[phase]))
            assert 0 < int(chosen.sum()) < len(chosen)
            assert torch.equal(found["x"], wanted["x"][chosen])
            assert torch.equal(found["y"], wanted["y"][chosen])
    # the final stage tunes on the samples of the last phase
    labels = torch.cat([batch["y"] for batch in data.training_epoch(0, 0)])
    assert set(labels.tolist()) == {6, 7}
    assert len(labels) == len(data.data(0, 5)["y"])
    assert torch.equal(labels, torch.cat([data.samples(0, "train", rows)["y"] for rows in data.epoch_rows(0, 0)]))


def test_batches_are_drawn_within_a_phase() -> None:
    data = make({**PHASES, "batch_size": 7}).client_data
    first, other = data.data(2, 2), data.data(2, 3)
    assert len(first["y"]) == 7
    assert set(first["y"].tolist()) <= {3, 4, 5}
    assert not torch.equal(first["x"], other["x"])


def test_laws_are_drawn_beside_the_samples_of_a_round() -> None:
    data = make({**REHEARSED, "batch_size": "all"}).client_data
    memory, plain = data.first_memory(), make({**PHASES, "batch_size": "all"}).client_data
    assert [round for round in range(7) if data.remembers_at(round)] == [2, 5]
    data.recall({1: memory})
    assert torch.equal(data.data(1, 0)["x"], plain.data(1, 0)["x"])
    memory = data.remember(1, memory, 2)
    assert memory["count"].tolist() == [int((plain.data(1, 0)["y"] == label).sum()) for label in range(10)]
    data.recall({1: memory})
    found, real = data.data(1, 3), plain.data(1, 3)
    assert found["y"][len(real["y"]) :].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert torch.equal(found["x"][: len(real["x"])], real["x"])
    drawn = found["x"][len(real["x"]) :]
    assert not torch.equal(drawn, data.data(1, 4)["x"][len(real["x"]) :])
    assert torch.equal(drawn, data.data(1, 3)["x"][len(real["x"]) :])
    joined = data.joined([1, 2], 3)
    assert torch.equal(joined.data["x"][: joined.sizes[0]], found["x"])
    # whom nothing is recalled of has the samples of the round alone
    assert joined.sizes[1] == len(plain.data(2, 3)["y"])
    later = data.remember(1, memory, 5)
    assert torch.equal(later["mean"][:3], memory["mean"][:3])
    assert later["count"][3:6].min() > 0


def test_old_samples_are_read_once_at_the_end_of_their_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    running = engine(problem=PROBLEM, algorithm=METHODS[0], rounds=6, cohort=2)
    data = running.setup.problem.client_data
    kept: list[tuple[int, int]] = []
    remember = type(data).remember
    monkeypatch.setattr(
        type(data), "remember", lambda self, m, memory, r: (kept.append((m, r)), remember(self, m, memory, r))[1]
    )
    list(running)
    # all clients, whoever takes part
    assert kept == [(client, round) for round in (2, 5) for client in range(6)]
    for client in range(6):
        memory = running.group.state(client)["memory"]
        assert torch.nonzero(memory["count"]).flatten().tolist() == [0, 1, 2, 3, 4, 5]
        assert running.group.store.kind == "device"
    where = running.group.store.get(0)["memory"]["mean"].untyped_storage().data_ptr()
    assert running.group.local_name_at(where) == "mean"
    assert running.setup.bytes_a_client > sum(
        value.numel() * value.element_size() for value in running.group.state(0)["memory"].values()
    )


def test_all_of_a_round_is_computed_on_the_same_memories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers at query points, too, which come before the clients' own steps."""
    problem = {**PROBLEM, "split": {"local": []}}
    running = engine(problem=problem, algorithm=METHODS[4], rounds=6)
    kind, recalled = type(running.setup.problem.client_data), dict[int, set[int]]()
    data = kind.data

    def seen(self: Any, client: int, round: int) -> Any:
        recalled.setdefault(round, set()).add(int((self._recalled[client]["count"] > 0).sum()))
        return data(self, client, round)

    monkeypatch.setattr(kind, "data", seen)
    list(running)
    assert recalled == {0: {0}, 1: {0}, 2: {3}, 3: {3}, 4: {3}, 5: {6}}


@pytest.mark.parametrize(
    "method",
    [METHODS[1], *(pytest.param(method, marks=pytest.mark.slow) for method in (METHODS[0], *METHODS[2:]))],
    ids=lambda method: method["name"],
)
def test_a_run_goes_on_with_the_same_bits_on_any_ranks(tmp_path: Path, method: dict[str, Any]) -> None:
    split = {"local": ["head.*"] if method["name"] != "interpolation" else []}
    document = {"problem": {**PROBLEM, "split": split}, "algorithm": method, "rounds": 6, "cohort": 4}
    plan = [(2, 1), (4, 2), (1, 3), (3, 5), (2, None)]
    whole, pieces = whole_and_pieces(tmp_path, plan, **document, evaluate={"every": 2, "tuned": {"epochs": 1}})
    assert any(key[1:] == ("memory", "factor") for key in whole)
    assert whole == pieces


@pytest.mark.parametrize("place", ["host", "file"])
def test_memories_lie_where_states_do(tmp_path: Path, place: str) -> None:
    document = {"problem": PROBLEM, "algorithm": METHODS[1], "rounds": 6, "cohort": 4}
    wanted, _ = whole_and_pieces(tmp_path / "device", [(1, None)], **document)
    whole, pieces = whole_and_pieces(tmp_path / place, [(2, 3), (1, None)], **document, engine={"client_state": place})
    assert whole == pieces == wanted


def test_the_best_round_has_memories_too(tmp_path: Path) -> None:
    evaluate = {"every": 1, "tuned": None, "best_round": {"metric": "accuracy"}}
    document = {"problem": PROBLEM, "algorithm": METHODS[1], "rounds": 6, "evaluate": evaluate}
    whole, pieces = whole_and_pieces(tmp_path, [(1, 3), (2, None)], **document)
    assert whole == pieces


@pytest.mark.slow
def test_packed_runs_have_the_bytes_of_single_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    grid = {"problem.rehearsal": [None, {"samples": 2}], "problem.batch_size": [20, "all"]}
    document = {"name": "packed", "problem": PROBLEM, "algorithm": METHODS[1], "rounds": 6, "save": {"local": True}}
    document["grid"] = grid
    Path("grid.yaml").write_text(yaml.safe_dump(document))
    for digest, cell in load_cells(Path("grid.yaml")).items():
        run(cell.config, Path(f"alone/{digest}.h5"), Silent())
    assert ppfl("pack", "grid.yaml", "--out", "packed").exit_code == 0
    alone, together = ({one.name: arrays_of(one) for one in Path(name).glob("*.h5")} for name in ("alone", "packed"))
    assert len(alone) == 4
    assert alone == together


@pytest.mark.parametrize("clients_per_chunk", [2, 3])
def test_clients_together_are_what_they_are_one_by_one(clients_per_chunk: int) -> None:
    document = {"rounds": 6, "problem": PROBLEM, "algorithm": METHODS[1]}
    alone, together = engine(**document), engine(**document, engine={"clients_per_chunk": clients_per_chunk})
    list(alone)
    list(together)
    for client in range(6):
        one, other = alone.group.state(client), together.group.state(client)
        assert torch.equal(one["memory"]["factor"], other["memory"]["factor"])
        assert_same_views([({}, one["local"])], [({}, other["local"])], 1e-10)


def test_mixing_goes_from_everybody_to_nobody() -> None:
    """W = p is FedAvg with replay, and W = I is training alone with replay."""
    problem = {**PROBLEM, "batch_size": "all"}
    mixed = final([], "pfedgraph", {**MINI_BATCHES, "penalty": EVERYBODY}, problem, rounds=6)
    assert_same_views(mixed[2], final([], "fedavg", MINI_BATCHES, problem, rounds=6)[2], 1e-12)
    skewed = {**problem, "phases": {"classes": [[*range(5)], [*range(5, 10)]], "rounds": 3}, "dataset": OWN_LABELS}
    alone = final([], "pfedgraph", {**MINI_BATCHES, "penalty": NOBODY}, skewed, rounds=6)
    assert_same_views(alone[2], final([], "local_only", MINI_BATCHES, skewed, rounds=6)[2], 1e-12)


OWN_LABELS = {**DATASET, "shift": {"name": "label_permutation", "clusters": 6}}
"""So that no two clients move alike."""


def test_scores_are_of_classes_that_have_come() -> None:
    problem = make({**PHASES, "split": {"local": []}})
    draw, data = torch.Generator().manual_seed(10), problem.client_data
    shared = {name: torch.randn(value.shape, generator=draw, dtype=value.dtype)
              for name, value in problem.objective.init_shared().items()}  # fmt: skip
    tests = data.samples(3, "test", torch.arange(data.num_test_samples[3]))
    right = problem.objective.logits(shared, {}, tests).argmax(dim=1) == tests["y"]

    def accuracy(classes: list[int]) -> float:
        return float(right[torch.isin(tests["y"], torch.tensor(classes))].double().mean())

    # else a score of another phase would pass for that of the right one
    assert len({accuracy(classes) for classes in CLASSES}) == len(CLASSES)
    for round, phase in enumerate([0, 0, 0, 1, 1, 1, 2, 2]):
        found = problem.scores.round_metrics(shared, {}, 3, round)
        assert found["test_accuracy"] == pytest.approx(float(right.double().mean()), abs=1e-15)
        assert found["test_now_accuracy"] == pytest.approx(accuracy(CLASSES[phase]), abs=1e-15)
        assert found["test_seen_accuracy"] == pytest.approx(accuracy(list(range(CLASSES[phase][-1] + 1))), abs=1e-15)
        for number, classes in enumerate(CLASSES):
            assert found[f"test_phase_{number + 1}_accuracy"] == pytest.approx(accuracy(classes), abs=1e-15)
        # also before the first round of a phase that of the one before
        last = data.data(3, round - 1 if round in (2, 5) else round)
        assert found["loss"] == float(problem.objective.loss(shared, {}, last))
    at_end = problem.scores.client_metrics(shared, {}, 3)
    assert at_end["test_now_accuracy"] == pytest.approx(accuracy(CLASSES[2]), abs=1e-15)
    assert list(problem.scores.of_nobody()) == list(at_end)
    has = data.has_some(data.histogram("test", Selection()), CLASSES[1])
    weights = problem.scores.metric_weights("test_phase_2_accuracy")
    assert weights == tuple(np.where(has, data.num_test_samples, 0).tolist())


def test_who_lacks_a_phase_among_the_scored_samples_is_left_out_of_its_mean() -> None:
    """A tenth of 60 samples: some clients have none of some classes to be tested on."""
    partition = {"name": "iid", "clients": 30}
    problem = {**PROBLEM, "dataset": {**DATASET, "partition": partition}, "rehearsal": None}
    running = engine(problem=problem, algorithm=METHODS[0], rounds=6, evaluate={"every": 3})
    data = running.setup.problem.client_data
    assert not data.has_some(data.histogram("test", Selection()), CLASSES[2]).all()
    for scored in running:
        for name in ("seen", "now", "phase_1", "phase_2", "phase_3"):
            assert 0 <= scored.metrics[f"test_{name}_accuracy"] <= 1


@pytest.mark.parametrize("evaluate", [{"samples": 4}, {"samples": 9, "clients": 3}, {"samples": 1}])
def test_where_few_samples_are_scored_means_are_over_who_has_some_of_a_phase(evaluate: dict[str, Any]) -> None:
    document = {"problem": {**PROBLEM, "rehearsal": None}, "algorithm": METHODS[0], "rounds": 6}
    running = engine(**document, evaluate={"every": 3, **evaluate})
    means, scores = list(running)[-1].metrics, running.setup.problem.scores
    found = [scores.client_metrics(*running.setup.algorithm.view(running.server, running.group.state(m)), m)
             for m in range(6)]  # fmt: skip
    for name in [f"{part}_phase_{phase}_accuracy" for part in ("test", "validation") for phase in (1, 2, 3)]:
        of_clients = np.array([of_client[name] for of_client in found])
        assert [weight > 0 for weight in scores.metric_weights(name)] == np.isfinite(of_clients).tolist()
        if np.isfinite(of_clients).any():
            assert means[name] == pytest.approx(np.nanmean(of_clients), abs=1e-15)
        else:
            assert np.isnan(means[name])


def test_what_never_comes_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run(config(problem={**PROBLEM, "phases": {"classes": [[0, 12], [1, 2]], "rounds": 2}}, rounds=4,
                   algorithm=METHODS[0]), tmp_path / "r.h5", Silent())  # fmt: skip
    told = [record.getMessage() for record in caplog.records if "problem.phases" in record.getMessage()]
    assert told == [
        "problem.phases.classes: 3, 4, 5, 6, 7, 8, 9 never come: no phase has them",
        "problem.phases.classes: 12 never come: no client has samples of them",
    ]
    first = open_result(tmp_path / "r.h5").clients.first_phase.to_numpy()
    assert first.shape == (6, 10)
    assert (first == [1, 2, 2, 0, 0, 0, 0, 0, 0, 0]).all()


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_a_phase_without_samples_is_refused_on_every_rank(num_ranks: int) -> None:
    nobody = {**PHASES, "phases": {"classes": [[0], [10, 11]], "rounds": 2}}
    skewed = {
        **PHASES,
        "dataset": {"name": "digits", "partition": {"name": "label_quantity", "clients": 6, "labels_per_client": 2}},
    }

    def refused(communicator: Any, document: dict[str, Any]) -> str:
        with pytest.raises(SharedUserError) as error:
            make(document, communicator=communicator)
        return str(error.value)

    for document, what in (
        (nobody, "no client has a training sample of the classes 10, 11 of phase 2; leave this phase out"),
        (skewed, "others have no training sample of the classes 0, 1, 2 of phase 1; allowed: phases in which every"),
    ):
        texts = on_ranks(num_ranks, lambda communicator, document=document: refused(communicator, document))
        assert len(set(texts)) == 1
        assert what in texts[0]
