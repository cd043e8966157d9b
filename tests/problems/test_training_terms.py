"""Weight decay, proximal term and gradients of bounded norm: in f_m, in every gradient of it, and in no score."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ppfl.core.params import inner, subtract
from ppfl.core.types import Params
from ppfl.engine.mapping.batched import Batched
from ppfl.engine.mapping.choose import choose_mapping
from ppfl.engine.mapping.joint import Joint
from ppfl.interfaces.client_data import Joined
from ppfl.problems._supervised_problem import SupervisedProblem
from tests import examples
from tests.engine.build import config, engine, ffgg
from tests.supervised_problems import CONFIG, close, make

TERMS = {"weight_decay": 0.3, "proximal": 0.7, "nonconvex_penalty": 0.4}
TUNER = {"name": "gradient_descent", "steps": 2, "lr": 0.1}
SGD = {"name": "sgd", "lr": 0.2, "batch_size": 6}
SPLITS = [["head.*"], ["hidden2.*", "head.*"], ["hidden1.weight"], [], ["*"]]


def trained(training: dict[str, Any], local: list[str], **keys: Any) -> SupervisedProblem:
    return make({"split": {"local": local}, "training": training, **keys})


def point(problem: SupervisedProblem) -> tuple[Params, Params]:
    shared = {name: 1.1 * value + 0.01 for name, value in problem.objective.init_shared().items()}
    return shared, problem.objective.redraw_local(1, 3)


@pytest.mark.parametrize("local", SPLITS, ids=str)
@pytest.mark.parametrize("keys", [["weight_decay"], ["proximal"], ["nonconvex_penalty"], [*TERMS]], ids=str)
def test_gradients_are_those_of_the_loss_with_its_terms(keys: list[str], local: list[str]) -> None:
    problem, plain = trained({key: TERMS[key] for key in keys}, local), make({"split": {"local": local}})
    objective, (shared, w), data = problem.objective, point(problem), problem.client_data.data(1, 0)
    start = {**plain.objective.init_shared(), **plain.objective.init_local(1)}
    moved = subtract({**shared, **w}, start)
    wanted = plain.objective.loss(shared, w, data)
    if "weight_decay" in keys:
        wanted = wanted + 0.15 * sum(value.square().sum() for value in {**shared, **w}.values())
    if "proximal" in keys:
        wanted = wanted + 0.35 * inner(moved, moved)
    if "nonconvex_penalty" in keys:
        of_entries = (1 - 1 / (1 + value.square()) for value in {**shared, **w}.values())
        wanted = wanted + 0.4 * sum(one.sum() for one in of_entries)
    torch.testing.assert_close(objective.loss(shared, w, data), wanted, rtol=1e-12, atol=1e-13)
    assert objective.data_loss(shared, w, data) == plain.objective.loss(shared, w, data)
    of_shared, of_local = torch.func.grad(lambda *x: objective.loss(*x, data), argnums=(0, 1))(shared, w)
    once = objective.shared_pass(shared, data)
    close(objective.local_gradient(shared, w, once.data), of_local)
    close(once.shared_gradient(w), of_shared)
    close(objective.shared_gradient(shared, w, data), of_shared)
    for found, right in zip(objective.gradients(shared, w, data), (of_shared, of_local), strict=True):
        close(found, right)


@pytest.mark.parametrize("keys", [[key] for key in TERMS], ids=str)
def test_steps_and_products_with_the_hessian_have_the_terms(keys: list[str]) -> None:
    problem = trained({key: TERMS[key] for key in keys}, ["head.*"], model={"name": "mlp", "hidden": [60]})
    objective, (shared, w), data = problem.objective, point(problem), problem.client_data.data(1, 0)
    features = objective.advance(shared, data)
    stepped = w
    for _ in range(3):
        gradient = torch.func.grad(lambda x: objective.loss(shared, x, data))(stepped)
        stepped = {name: value - 0.05 * gradient[name] for name, value in stepped.items()}
    found = objective.descend(shared, w, features, 0.05, 3)
    for name, value in stepped.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)
    direction = {name: torch.ones_like(value) for name, value in w.items()}
    product = objective.local_hessian_product(shared, w, direction, features)
    small = 1e-5
    ahead, behind = (
        objective.local_gradient(shared, {name: w[name] + sign * small for name in w}, features) for sign in (1, -1)
    )
    for name, value in product.items():
        torch.testing.assert_close((ahead[name] - behind[name]) / (2 * small), value, rtol=1e-6, atol=1e-8)


def test_sums_over_clients_have_the_terms() -> None:
    problem = trained(TERMS, ["head.*"])
    objective, (shared, w), clients = problem.objective, point(problem), [1, 2, 4]
    joined, weights = problem.client_data.joined(clients, 0), torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    stacked = {name: torch.stack([value] * 3) for name, value in w.items()}
    found = objective.joint_pass(shared, Joined(joined.data, joined.sizes)).shared_gradient(stacked, weights)
    alone = [objective.shared_gradient(shared, w, problem.client_data.data(client, 0)) for client in clients]
    for name, value in found.items():
        wanted = sum(weight * gradient[name] for weight, gradient in zip(weights, alone, strict=True))
        torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-12)


def test_scores_have_no_terms() -> None:
    problem, plain = trained(TERMS, ["head.*"]), make()
    shared, w = point(problem)
    assert problem.scores.round_metrics(shared, w, 1, 0) == plain.scores.round_metrics(shared, w, 1, 0)


@pytest.mark.parametrize("local", SPLITS, ids=str)
def test_norms_are_bounded_jointly(local: list[str]) -> None:
    plain = make({"split": {"local": local}})
    shared, w = point(plain)
    data = plain.client_data.data(1, 0)

    def norm(*gradients: Params) -> float:
        return float(sum(inner(one, one) for one in gradients if one)) ** 0.5

    whole = plain.objective.gradients(shared, w, data)
    bound = 0.5 * norm(*whole)
    clipped = trained({"clip_norm": bound}, local).objective
    for found, right in zip(clipped.gradients(shared, w, data), whole, strict=True):
        close(found, {name: 0.5 * value for name, value in right.items()})
    for found, right in (
        (clipped.shared_gradient(shared, w, data), whole[0]),
        (clipped.shared_pass(shared, data).shared_gradient(w), whole[0]),
        (clipped.local_gradient(shared, w, data), whole[1]),
    ):
        factor = min(1.0, bound / norm(right)) if right else 1.0
        close(found, {name: factor * value for name, value in right.items()})
    loose = trained({"clip_norm": 1e6}, local).objective
    assert all(torch.equal(value, whole[0][name]) for name, value in loose.gradients(shared, w, data)[0].items())


def test_steps_are_clipped() -> None:
    problem = trained({"clip_norm": 1e-3}, ["head.*"], model={"name": "mlp", "hidden": [60]})
    (shared, w), data = point(problem), problem.client_data.data(1, 0)
    moved = subtract(problem.objective.descend(shared, w, data, 1.0, 3), w)
    assert 0 < float(inner(moved, moved)) ** 0.5 <= 3.001e-3


def test_a_gradient_of_zero_stays() -> None:
    problem = trained({"clip_norm": 1.0}, ["head.*"])
    nothing = {"w": torch.zeros(3)}
    assert problem.objective._terms.clipped(nothing)[0]["w"].tolist() == [0.0, 0.0, 0.0]


def ended(clients_per_chunk: int, training: dict[str, Any], algorithm: dict[str, Any]) -> Params:
    going = engine(
        problem={**CONFIG, "training": training}, algorithm=algorithm, rounds=3, cohort=4,
        engine={"clients_per_chunk": clients_per_chunk},
    )  # fmt: skip
    list(going)
    shared: Params = going.server["shared"]
    return shared


ALGORITHMS = [
    ffgg(TUNER, 0.3),
    {"name": "fedalt", "lr": 0.3, "epochs": 1, "batch_size": 7, "fine_tuner": SGD},
    {"name": "local_ffgg", "lr": 0.3, "local_steps": 2, "fine_tuner": TUNER},
]  # fmt: skip


@pytest.mark.parametrize("training", [TERMS, {"clip_norm": 0.2}, {**TERMS, "clip_norm": 0.2}], ids=str)
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
def test_one_client_at_a_time_or_three(
    algorithm: dict[str, Any], training: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    alone, together = ended(1, training, algorithm), ended(3, training, algorithm)
    plain = engine(problem=CONFIG, algorithm=algorithm, rounds=3, cohort=4)
    list(plain)
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-10, atol=1e-12)
        assert not torch.allclose(value, plain.server["shared"][name])
    assert "one after another" not in caplog.text


def test_clipped_clients_are_not_added_up() -> None:
    def mapping(training: dict[str, Any] | None) -> type:
        chosen = {"problem": {**CONFIG, "training": training}, "engine": {"clients_per_chunk": 3}}
        return type(choose_mapping(engine(algorithm=ffgg(TUNER, 0.1), **chosen).setup))

    assert mapping({"clip_norm": 1.0}) is Batched
    assert mapping({"weight_decay": 1.0}) is mapping(None) is Joint


REFUSED = {"scaffold", "scaffold_theta", "l2gd", "l2gd_theta", "pfedme"}


@pytest.mark.parametrize("name", examples.names("algorithms"))
def test_methods_that_need_whole_gradients_say_why(name: str) -> None:
    assert bool(examples.kind("algorithms", name).needs_whole_gradients) == (name in REFUSED)


@pytest.mark.parametrize("name", examples.names("fine_tuners"))
def test_fine_tuners_that_need_whole_gradients_say_why(name: str) -> None:
    reason = examples.kind("fine_tuners", name).needs_whole_gradients
    assert bool(reason) == (name in {"exact", "conjugate_gradient", "lbfgs"})


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        (
            {"algorithm": {"name": "scaffold", "lr": 0.1, "local_steps": 2}},
            "problem.training.clip_norm: nothing, since 'scaffold' takes whole gradients: its control variates",
        ),
        ({"algorithm": ffgg({"name": "lbfgs", "steps": 2}, 0.1)}, "since 'lbfgs' takes whole gradients"),
        (
            {"algorithm": ffgg(TUNER, 0.1), "evaluate": {"tuned": {"epochs": 1, "fine_tuner": {"name": "exact"}}}},
            "since 'exact' takes whole gradients",
        ),
    ],
    ids=str,
)
def test_clipping_is_refused(sections: dict[str, Any], says: str) -> None:
    problem = {**CONFIG, "training": {"clip_norm": 1.0}}
    with pytest.raises(Exception, match="whole gradients") as caught:
        config(problem=problem, **sections)
    assert says in str(caught.value).replace("wrong value (given 1.0); allowed: ", "")


@pytest.mark.parametrize("key", [*TERMS])
def test_least_squares_has_a_ridge(key: str) -> None:
    with pytest.raises(ValidationError, match="its own `ridge`"):
        make({"name": "least_squares", "training": {key: 0.1}})
    make({"name": "least_squares", "training": {"clip_norm": 0.1}})


def test_a_section_that_says_nothing_is_refused() -> None:
    with pytest.raises(
        ValidationError, match="one of clip_norm, weight_decay, proximal, nonconvex_penalty, augmentation"
    ):
        make({"training": {}})


def test_silent_at_its_default() -> None:
    settings = config(problem=CONFIG, algorithm=ffgg(TUNER, 0.1))
    assert settings.digest == config(problem={**CONFIG, "training": None}, algorithm=ffgg(TUNER, 0.1)).digest
    assert (
        settings.digest
        != config(problem={**CONFIG, "training": {"weight_decay": 0.1}}, algorithm=ffgg(TUNER, 0.1)).digest
    )
