"""Frozen parameters: constants of the objective, out of θ, w, gradients, messages and graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ppfl.algorithms.ffgg import FFGG
from ppfl.comm.solo import SoloCommunicator
from ppfl.core.types import Params
from ppfl.engine.mapping.batched_runs import kind_of
from ppfl.interfaces.client_data import at_step
from ppfl.interfaces.split import ModelSplit
from ppfl.networks.memory import bytes_of_client
from ppfl.problems._supervised_problem import SupervisedProblem
from ppfl.runs.assemble import build
from ppfl.submit.memory import memory_mb
from tests.engine.build import config
from tests.supervised_problems import CNN, CONFIG, close, make

FFGG_SETTINGS = {"name": "ffgg", "lr": 0.1, "fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": 0.1}}
MLP, DROPPED = CONFIG["model"], {**CONFIG["model"], "dropout": 0.2}


def frozen(model: dict[str, Any], local: list[str], names: list[str], **keys: Any) -> SupervisedProblem:
    return make({"model": model, "split": {"local": local, "frozen": names}, **keys})


@pytest.mark.parametrize(
    ("model", "local", "names"),
    [
        (MLP, ["head.*"], ["hidden1.*"]),
        (MLP, ["head.*"], ["hidden1.*", "hidden2.*"]),
        (MLP, ["head.bias"], ["hidden2.*", "head.weight"]),
        (MLP, ["hidden1.*"], ["hidden2.weight", "head.*"]),
        (MLP, [], ["head.*"]),
        (DROPPED, ["head.*"], ["hidden1.*"]),
        (CNN, ["head.*"], ["conv*", "norm1.weight"]),
    ],
    ids=str,
)
def test_gradients_are_those_of_the_whole_model(model: dict[str, Any], local: list[str], names: list[str]) -> None:
    problem, whole = frozen(model, local, names), make({"model": model, "split": {"local": local}})
    objective, everything = problem.objective, whole.objective
    constants = objective.frozen
    close(
        dict(sorted({**objective.init_shared(), **constants}.items())), dict(sorted(everything.init_shared().items()))
    )
    assert constants.keys() == set(ModelSplit(local=(), frozen=tuple(names)).frozen_names(everything.parameter_names))
    assert not constants.keys() & set(objective.parameter_names)
    shared, w, data = objective.init_shared(), objective.redraw_local(1, 3), problem.client_data.data(1, 0)
    of_shared, of_local = everything.gradients({**shared, **constants}, w, data)
    of_shared = {name: value for name, value in of_shared.items() if name not in constants}
    found = objective.gradients(shared, w, data)
    close(found[0], of_shared)
    close(found[1], of_local)
    close(objective.shared_gradient(shared, w, data), of_shared)
    close(objective.local_gradient(shared, w, data), of_local)
    assert objective.loss(shared, w, data) == everything.loss({**shared, **constants}, w, data)


def _by_name(params: Params) -> Params:
    return dict(sorted(params.items()))


def _all(problem: SupervisedProblem) -> Params:
    return {**problem.objective.init_shared(), **problem.objective.init_local(1)}


def test_frozen_stages_in_front_build_no_graph() -> None:
    problem = frozen(CNN, ["head.*"], ["conv*", "norm*"])
    shared, data = problem.objective.init_shared(), problem.client_data.data(1, 0)
    found = _graph_of_features(problem, shared, data)
    assert found < _graph_of_features(make({"model": CNN}), make({"model": CNN}).objective.init_shared(), data) / 10
    body = frozen(CNN, ["head.*"], ["conv*", "norm*", "hidden.*"])
    assert _graph_of_features(body, {}, data) == 0
    assert not body.objective.shared_pass({}, data)._pulls


def _graph_of_features(problem: SupervisedProblem, shared: dict[str, torch.Tensor], data: dict[str, Any]) -> int:
    kept = 0

    def note(value: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += value.numel()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        problem.objective.shared_pass(shared, data)
    return kept


def test_what_does_not_depend_on_theta_stays_advanced() -> None:
    body = frozen(MLP, ["head.*"], ["hidden1.*", "hidden2.*"])
    assert body.objective.prefix_of(body.objective.init_shared()) == {}


def test_vectorized_over_clients() -> None:
    problem = frozen(MLP, ["head.*"], ["hidden1.*"])
    shared, w, data = (
        problem.objective.init_shared(),
        problem.objective.redraw_local(1, 3),
        problem.client_data.data(1, 0),
    )
    both = torch.func.vmap(lambda one: problem.objective.gradients(shared, w, one))(
        {name: torch.stack([value, value]) for name, value in data.items()}
    )
    for found, wanted in zip(both, problem.objective.gradients(shared, w, data), strict=True):
        for name, value in wanted.items():
            torch.testing.assert_close(found[name][1], value, rtol=1e-10, atol=1e-12)


def test_nothing_frozen_is_sent_or_kept() -> None:
    problem = frozen(MLP, ["head.*"], ["hidden1.*"])
    objective, method = problem.objective, FFGG.model_validate(FFGG_SETTINGS)
    shared, w, data = objective.init_shared(), objective.init_local(0), problem.client_data.data(0, 0)
    step = method.client(objective, shared, method.init_client(shared, w), data, {})
    assert {*step.uplink, *step.state["local"]} == set(objective.parameter_names)


def test_counted_in_facts_and_not_in_the_memory_of_a_client() -> None:
    problem, whole = frozen(MLP, ["head.*"], ["hidden1.*"]), make()
    facts, all_facts = problem.theory.facts(), whole.theory.facts()
    assert facts["num_frozen_parameters"] == 64 * 12 + 12
    assert "num_frozen_parameters" not in all_facts
    assert facts["num_shared_parameters"] == all_facts["num_shared_parameters"] - facts["num_frozen_parameters"]
    stages = whole.objective.stages
    saved = bytes_of_client(stages, (1, 8, 8), torch.float64, 4) - bytes_of_client(
        stages, (1, 8, 8), torch.float64, 4, frozen=problem.objective.frozen
    )
    assert saved >= 8 * facts["num_frozen_parameters"]


def test_all_local_leaves_them_frozen() -> None:
    problem = frozen(MLP, [], ["hidden1.*"])
    view = problem.objective.all_local()
    assert view.local_names == problem.objective.parameter_names
    assert view.init_shared() == {}
    w, data = view.init_local(0), problem.client_data.data(0, 0)
    close(view.local_gradient({}, w, data), problem.objective.shared_gradient(w, {}, data))
    assert view.prefix_of({}) == {}
    assert view.advance({}, data)["features"].shape == (len(data["y"]), 12)


def test_masks_before_the_first_local_layer_are_new_in_each_step_where_all_is_local() -> None:
    problem = frozen(DROPPED, ["head.*"], ["hidden1.*"])
    view, data = problem.objective.all_local(), problem.client_data.data(0, 0)
    advanced = view.advance({}, data)
    assert len({float(view.loss({}, view.init_local(0), at_step(advanced, step))) for step in range(3)}) == 3
    # nothing is dropped once for all steps
    del data["key"]
    torch.testing.assert_close(advanced["features"], view.advance({}, data)["features"])


def test_operations_of_frozen_parameters_are_not_counted() -> None:
    problem = frozen(MLP, ["hidden1.*"], ["hidden2.*"])
    first, second, head = 2 * 64 * 12, 2 * 12 * 7, 2 * 7 * 10
    found = problem.objective.flops_of_sample(problem.client_data.data(0, 0))
    assert found is not None
    assert found.suffix_forward == first + second + head
    assert found.suffix_to_local == first + second + head
    # of the head alone: nobody asks for the gradients of the frozen layer
    assert found.suffix_to_shared == head


@pytest.mark.parametrize(
    ("split", "says"),
    [
        (
            {"local": ["head.*"], "frozen": ["hiden*"]},
            "'hiden*' matches no parameter; the parameters are hidden1",
        ),
        ({"local": ["head.*"], "frozen": ["*.bias"]}, "head.bias: local and frozen"),
        ({"local": [], "frozen": ["*"]}, "leaves nothing to train of hidden1.weight"),
        (
            {"local": ["head.*"], "lora": {"layers": ["tail"]}},
            "'tail' matches no layer with a weight; these are",
        ),
    ],
    ids=str,
)
def test_refused(split: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match="globs over") as caught:
        make({"split": split})
    assert says in str(caught.value)


def test_all_the_rest_may_be_local() -> None:
    problem = frozen(MLP, ["head.*"], ["hidden1.*", "hidden2.*"])
    assert problem.objective.init_shared() == {}
    assert problem.local_names == ("head.weight", "head.bias")


def test_runs_with_other_constants_are_not_computed_side_by_side() -> None:
    sections = {
        "problem": {**CONFIG, "split": {"local": ["head.*"], "frozen": ["hidden1.*"]}},
        "algorithm": FFGG_SETTINGS,
    }
    kinds = [kind_of(build(config(**sections, seed=seed), SoloCommunicator())) for seed in (0, 0, 1)]
    assert kinds[0] == kinds[1] != kinds[2]


def test_objectives_with_other_constants_are_told_apart() -> None:
    """Runs of several seeds share one objective on a device where nothing but their data and numbers differ."""
    keys: dict[str, Any] = {"split": {"local": ["head.*"], "frozen": ["hidden1.*"]}}
    assert make(keys).objective.fixed_numbers == make(keys).objective.fixed_numbers
    assert make(keys).objective.fixed_numbers != make(keys, seed=1).objective.fixed_numbers
    assert make().objective.fixed_numbers == make(seed=1).objective.fixed_numbers
    near: dict[str, Any] = {"training": {"proximal": 0.1}}
    assert make(near).objective.fixed_numbers != make(near, seed=1).objective.fixed_numbers


def test_frozen_parameters_begin_where_they_are_told() -> None:
    problem = make({"split": {"local": [], "frozen": ["hidden1.*"]}, "training": {"proximal": 0.1}})

    class Ones:
        def shared(self, drawn: Params) -> Params:
            return {name: torch.ones_like(value) for name, value in drawn.items()}

    shared, data = problem.objective.init_shared(), problem.client_data.data(0, 0)
    before = problem.scores.client_metrics(shared, {}, 0)
    problem.objective.begin_anew(Ones())
    assert all(bool((value == 1).all()) for value in problem.objective.frozen.values())
    whole = make({"split": {"local": []}}).objective
    ones = {**shared, **problem.objective.frozen}
    assert problem.objective.loss(shared, {}, data) == whole.loss(ones, {}, data)
    assert problem.scores.client_metrics(shared, {}, 0) != before


def test_less_memory_is_asked_for() -> None:
    def asked(**split: Any) -> int:
        model = {"name": "mlp", "hidden": [4000, 4000]}
        chosen = config(
            problem={**CONFIG, "model": model, "split": {"local": ["head.*"], **split}},
            algorithm={"name": "local_only", "lr": 0.1, "local_steps": 1},
        )
        found = memory_mb([chosen], 1, gpus=False)
        assert found is not None
        return found

    num_frozen = 4000 * 4000
    assert asked() - asked(frozen=["hidden2.*"]) > 6 * 8 * num_frozen / 2**20  # a state for each of six clients
    assert asked(frozen=["hidden2.*"], lora={"layers": ["hidden2"]}) < asked()
