"""Vocabularies of clients' own: local rows whose number differs by client, wherever they are kept and computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.grid import load_cells
from ppfl.config.run import load, validate
from ppfl.core.errors import UserError
from ppfl.core.params import kinds
from ppfl.datasets.merchants import Merchants
from ppfl.diagnose.command import Plan, diagnose
from ppfl.interfaces.dataset import FederatedSamples
from ppfl.interfaces.own_tokens import OwnTokens
from ppfl.interfaces.placement import Placement
from ppfl.problems._own_tokens import with_own_tokens
from ppfl.results.parameters import load_local, load_shared
from ppfl.results.reader import open_result
from ppfl.results.verify import verify
from ppfl.runs.assemble import build
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from ppfl.tasks.next_token import NextToken
from ppfl.tasks.ranking import Ranking
from tests.engine.build import config, engine
from tests.engine.interrupted import fingerprint, go_on, merged
from tests.ranks import on_ranks

DATASET = {
    "name": "merchants", "clients": 5, "categories": 6, "brands": 8, "sizes": 2, "products": 2, "baskets": 14,
    "own": 0.3, "chain": "permuted",
}  # fmt: skip
MODEL = {"name": "transformer", "width": 4, "layers": 1, "heads": 2, "feed_forward": 4, "tied": False}
OWN = ["*.own_*", "decoder.weight"]
SGD = {"name": "sgd", "lr": 0.1, "batch_size": 4}
FEDALT = {"name": "fedalt", "lr": 0.1, "epochs": 1, "batch_size": 4, "fine_tuner": SGD}
FFGG = {"name": "ffgg", "lr": 0.1, "fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": 0.1}}
HERE = Placement(SoloCommunicator(), 3, 0, torch.float64, torch.device("cpu"))
EVALUATE = {"every": 1, "tuned": {"epochs": 1, "fine_tuner": SGD}, "history": True}
FEDSIM = {"name": "fedsim", "lr": 0.1, "local_steps": 2}


def problem(local: list[str] = OWN, **others: Any) -> dict[str, Any]:
    """Return a problem of merchants with own tokens."""
    task, rule = {"name": "ranking", "at": [1, 3, 1000]}, {"common_to": 2}
    return {
        "name": "supervised", "dataset": DATASET, "model": MODEL, "task": task, "own_tokens": rule,
        "split": {"local": local}, "batch_size": 6, **others,
    }  # fmt: skip


def document(algorithm: dict[str, Any] = FEDALT, **sections: Any) -> dict[str, Any]:
    """Return a run of these merchants, with all that may be scored in the end."""
    return {"problem": problem(), "algorithm": algorithm, "rounds": 3, "cohort": 3, "evaluate": EVALUATE, **sections}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, bytes]:
    """Return what a run on one rank decides."""
    return merged(on_ranks(1, lambda c: go_on(c, tmp_path_factory.mktemp("whole"), None, **document())))


def test_shapes_differ_between_clients() -> None:
    found = engine(**document())
    shapes = [tuple(found.group.state(client)["local"]["decoder.own_weight"].shape) for client in range(5)]
    own = found.setup.problem.client_data.client_facts()["num_own_tokens"].tolist()
    assert shapes == [(rows, 4) for rows in own]
    assert len(set(own)) > 2
    assert found.setup.bytes_a_client == max(_bytes(found.group.state(client)) for client in range(5))


def _bytes(state: dict[str, dict[str, torch.Tensor]]) -> int:
    return sum(value.nbytes for params in state.values() for value in params.values())


@pytest.mark.parametrize("kind", ["device", "host", "file"])
@pytest.mark.parametrize(("ranks", "chunk"), [(2, 1), (4, 1), (1, 3), (2, 2)])
def test_bits_depend_on_no_store_no_rank_and_no_chunk(
    tmp_path: Path, whole: dict[Any, bytes], kind: str, ranks: int, chunk: int
) -> None:
    sections = document(engine={"client_state": kind, "clients_per_chunk": chunk})
    assert merged(on_ranks(ranks, lambda c: go_on(c, tmp_path, None, **sections))) == whole


@pytest.mark.parametrize("kind", ["device", "file"])
def test_a_run_goes_on_with_the_same_bits_on_other_ranks(tmp_path: Path, whole: dict[Any, bytes], kind: str) -> None:
    sections = document(engine={"client_state": kind})
    first = merged(on_ranks(3, lambda c: go_on(c, tmp_path, 2, **sections)))
    scores = {key: value for key, value in first.items() if key[0] == "scores"}
    assert scores | merged(on_ranks(2, lambda c: go_on(c, tmp_path, None, **sections))) == whole


def test_a_rank_may_have_no_newcomer(tmp_path: Path) -> None:
    """Two of them, on three ranks."""
    newcomers = {"clients": ["merchant1", "merchant3"], "in_rounds": True}
    sections = document(evaluate={**EVALUATE, "newcomers": newcomers})
    one, three = (merged(on_ranks(ranks, lambda c, ranks=ranks: go_on(c, tmp_path / str(ranks), None, **sections)))
                  for ranks in (1, 3))  # fmt: skip
    assert any("newcomers" in str(key) for key in one)
    assert three == one


def test_a_client_has_the_first_rows_of_the_same_draw() -> None:
    objective = build(config(**document()), SoloCommunicator()).problem.objective
    drawn = [objective.init_local(client) for client in range(5)]
    largest = max(drawn, key=lambda local: len(local["decoder.own_weight"]))
    for local in drawn:
        for name, value in local.items():
            assert torch.equal(value, largest[name][: len(value)])
    assert not torch.equal(*(objective.redraw_local(client, 1)["decoder.own_weight"][:1] for client in (1, 3)))
    assert kinds({"local": objective.redraw_local(1, 0)}) == kinds({"local": drawn[1]})


def test_a_decoder_begins_as_the_embedding_in_own_rows_too() -> None:
    section = problem(model={**MODEL, "tied": "auto"}, split={"local": ["*.own_*", "decoder.weight"]})
    objective = build(config(**document(problem=section)), SoloCommunicator()).problem.objective
    for local in map(objective.init_local, range(5)):
        assert torch.equal(local["decoder.own_weight"], local["word_embedding.own_weight"])
    assert torch.equal(local["decoder.weight"], objective.init_shared()["word_embedding.weight"])
    assert max(len(objective.init_local(client)["decoder.own_weight"]) for client in range(5)) > 0


@pytest.mark.parametrize("own_tokens", [None, {"common_to": 2}])
def test_nothing_shared_is_local_only(own_tokens: dict[str, Any] | None) -> None:
    """Bit for bit: parameters, scores and steps."""
    section = problem(["*"], own_tokens=own_tokens)
    one, other = (
        _decided(document(algorithm, problem=section)) for algorithm in (FEDSIM, {**FEDSIM, "name": "local_only"})
    )
    assert one == other


def test_everything_shared_is_fedavg() -> None:
    section = problem([], own_tokens=None)
    one, other = (
        _decided(document(algorithm, problem=section)) for algorithm in (FEDSIM, {**FEDSIM, "name": "fedavg"})
    )
    assert one == other


def _decided(sections: dict[str, Any]) -> dict[Any, bytes]:
    found = engine(**{**sections, "evaluate": {"every": 1, "tuned": {"epochs": 0}}})
    scored = list(found)
    costs = ("shared_gradients", "local_gradients")
    decided = {key: value for key, value in fingerprint(found, scored).items() if key[-1] not in costs}
    assert len(decided) > 10
    return decided


def test_scores_of_ranking_are_ordered() -> None:
    found = list(engine(**document()))[-1].metrics
    for part in ("test", "validation"):
        rates = [found[f"{part}_hit_rate_at_{k}"] for k in (1, 3, 1000)]
        gains = [found[f"{part}_ndcg_at_{k}"] for k in (1, 3, 1000)]
        assert rates == sorted(rates)
        assert rates[-1] == 1.0
        assert all(gain <= rate for gain, rate in zip(gains, rates, strict=True))


@pytest.mark.parametrize(
    "sections",
    [
        {"algorithm": FFGG, "problem": problem(batch_size="all")},
        {"algorithm": {"name": "pfedgraph", "lr": 0.1, "local_steps": 2, "penalty": 0.5}},
        {"evaluate": {**EVALUATE, "newcomers": {"clients": ["merchant1", "merchant3"]}}},
        {"evaluate": {**EVALUATE, "best_round": {}}},
        {
            "algorithm": FFGG, "problem": problem(batch_size="all"), "rounds": 8, "cohort": "all",
            "asynchronous": {"engine": "virtual", "concurrency": 2}, "compute_times": {"name": "exponential"},
            "evaluate": {"every": 4, "tuned": {"epochs": 0}},
        },
        {"problem": problem(["*.own_*", "*embedding*"], model={**MODEL, "tied": "auto", "dropout": 0.2})},
        {"problem": problem(["*.own_*"], model={**MODEL, "tied": True})},
        {"problem": problem(["*.own_*"], model={"name": "lstm", "embedding": 2, "hidden": 3, "layers": 1},
                            task={"name": "next_token", "padding": 0}, own_tokens={"common_to": 100})},
    ],
    ids=["ffgg", "pfedgraph", "newcomers", "best round", "asynchronous", "dropout", "tied", "all own"],
)  # fmt: skip
def test_files_are_the_same_however_they_were_made(tmp_path: Path, sections: dict[str, Any]) -> None:
    """All of a result, on one rank and on two with states in files; and it is verified."""
    text = {**document(), "save": {"local": True}, **sections}
    found = []
    for ranks, kind in ((1, "device"), (2, "file")):
        path = tmp_path / f"{ranks}.h5"
        checked = config(**{**text, "engine": {"client_state": kind}})
        on_ranks(ranks, lambda c, checked=checked, path=path: run(checked, path, Silent(), c))
        verify(path)
        result, local = open_result(path), load_local(path)
        assert set(local) == set(range(len(result.clients["client"])))
        found.append((result, {**load_shared(path), **{(m, n): x for m, of in local.items() for n, x in of.items()}}))
    (one, parameters), (other, others) = found
    assert parameters.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in parameters.items())
    for arrays, same in ((one.clients, other.clients), (one.rounds, other.rounds)):
        for name in set(arrays) - {"seconds", "communication_seconds"}:
            np.testing.assert_array_equal(arrays[name].to_numpy(), same[name].to_numpy())


@pytest.mark.parametrize("padding", [0, 20])
def test_tokens_are_numbered_anew_and_none_is_lost(padding: int) -> None:
    """Common ones first, in their order, then a client's own: it can be undone. Padding is common, whoever has it."""
    dataset = Merchants.model_validate(DATASET)
    task, rule = Ranking.model_validate({"name": "ranking", "padding": padding}), OwnTokens(common_to=3)
    before, (after, renumbered) = dataset.load(HERE, 1), with_own_tokens(dataset.load(HERE, 1), rule, task, HERE)
    assert before.vocabulary_size is not None
    seen = [{*_tokens(before, client)} for client in range(5)]
    assert padding == 0 or sum(padding in of for of in seen) < 3
    common = [token for token in range(before.vocabulary_size)
              if sum(token in of for of in seen) >= 3 or token in (0, padding)]  # fmt: skip
    assert renumbered.special_ids() == {"padding": common.index(padding)}
    assert after.special_ids == {"begin": 0}
    assert after.num_own_tokens == tuple(len(of - {*common}) for of in seen)
    assert after.vocabulary_size == len(common) + max(after.num_own_tokens)
    for client, of in enumerate(seen):
        names = np.array(common + sorted(of - {*common}))
        np.testing.assert_array_equal(names[_tokens(after, client)], _tokens(before, client))


def _tokens(samples: FederatedSamples, client: int) -> np.ndarray:
    parts = samples.samples[client]
    return np.concatenate([tokens.reshape(-1) for part in parts for tokens in (part.x, part.y)])


def test_ids_of_the_task_go_with_their_tokens() -> None:
    task = NextToken.model_validate({"name": "next_token", "padding": 2, "out_of_vocabulary": 4})
    assert task.renumbered(np.array([0, 0, 0, 1, 1])).special_ids() == {"padding": 0, "out_of_vocabulary": 1}


def test_a_run_starts_from_another_one_by_each_client_s_own_rows(tmp_path: Path) -> None:
    path = tmp_path / "first.yaml"
    path.write_text(yaml.safe_dump({"name": "first", "save": {"local": True}, **document(FEDSIM)}))
    first = load(path)
    result = tmp_path / "r.h5"
    run(first, result, Silent())
    text = {"name": "next", **document(FEDSIM), "start": {"result": "r.h5"}, "rounds": 1}
    config = validate(text, tmp_path, "next")
    objective = build(config, SoloCommunicator()).problem.objective
    saved = load_local(result)
    for client in range(5):
        assert all(torch.equal(value, saved[client][name]) for name, value in objective.init_local(client).items())
    other = validate({**text, "problem": problem(own_tokens={"common_to": 3})}, tmp_path, "next")
    with pytest.raises(UserError, match=r"start: .* has the shape \(\d+, 4\), and .* of this run \(\d+, 4\)"):
        build(other, SoloCommunicator())


def test_rho_is_measured_with_clients_of_unlike_shapes() -> None:
    """At the shared rows alone, on two ranks as on one."""
    checked = config(
        **document(FFGG, cohort="all", problem=problem(batch_size="all"), evaluate={"every": 1, "tuned": {"epochs": 1}})
    )
    plan = Plan(Path("ragged.yaml"), (checked,))
    one, *others = (on_ranks(ranks, lambda c: diagnose(checked, c, Silent(), plan))[0].rho for ranks in (1, 2))
    assert others == [one]
    assert one.value > 0


REFUSED = {
    "{own_tokens: {common_to: 1}}": "allowed: a whole number of at least 2",
    "{split: {local: []}}": "rows of each client's own tokens, of another shape for each, cannot be shared",
    "{split: {local: ['decoder.*']}}": "word_embedding.own_weight: rows of each client's own tokens",
    "{split: {local: ['decoder.weight'], frozen: ['*.own_*']}}": "cannot be shared or frozen; add '*.own_*'",
    "{task: {name: classification}}": "null, but for tasks whose labels are tokens, next_token and ranking",
    "{model: {name: mlp}, split: {local: ['head.*']}}": "null, but for models with rows of tokens",
    "{split: {local: ['*.own_*'], lora: {layers: ['layers.*.linear1']}}}": "null beside `split.lora` or",
    "{training: {proximal: 0.1}}": "null beside `training.proximal`",
}


@pytest.mark.parametrize(("change", "said"), REFUSED.items())
def test_what_cannot_be_is_refused_in_one_line(change: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        config(**document(problem={**problem(), **yaml.safe_load(change)}))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_samples_of_numbers_have_no_own_tokens() -> None:
    digits = {"name": "digits", "partition": {"name": "iid", "clients": 5}}
    with pytest.raises(UserError, match=r"problem\.own_tokens: is for samples of tokens"):
        engine(**document(problem=problem(dataset=digits)))


def test_all_share_sets_are_one_grid(tmp_path: Path) -> None:
    groups = ("*embedding.weight", "layers.*", "decoder.weight")
    sets = [[glob for at, glob in enumerate(groups) if not number >> at & 1] for number in range(2 ** len(groups))]
    splits = [{"local": ["*.own_*", *local] if len(local) < len(groups) else ["*"]} for local in sets]
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({"name": "grid", **document(FEDSIM), "grid": {"problem.split": splits}}))
    cells = load_cells(path)
    assert len(cells) == 8
