"""Every fine-tuner that is found, and what each of them has to be equal to."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.plugins import discover
from ppfl.fine_tuners.adam import Adam
from ppfl.fine_tuners.conjugate_gradient import ConjugateGradient
from ppfl.fine_tuners.exact import Exact
from ppfl.fine_tuners.gradient_descent import GradientDescent
from ppfl.fine_tuners.lbfgs import LBFGS, NUM_TRIALS
from ppfl.fine_tuners.sgd import SGD
from ppfl.interfaces.method import ExactFineTuner
from ppfl.interfaces.placement import Placement
from ppfl.interfaces.problem import Problem
from ppfl.problems.quadratic import QuadraticSettings
from tests import examples
from tests.softmax_problem import Softmax, softmax

torch.set_num_threads(1)

FOUND = discover("ppfl.fine_tuners")


def example(name, **fields):
    return examples.make("fine_tuners", name, **fields)


def quadratic(**fields) -> Problem:
    small = {"clients": 4, "shared_dimension": 5, "local_dimension": 3, "rows": 15, "zeta": 1.0, "noise": 0.1}
    settings = QuadraticSettings.model_validate({"name": "quadratic", "generator": "comparison", **small, **fields})
    return settings.build(Placement(SoloCommunicator(), 0, 0, torch.float64, torch.device("cpu")), 1)


def problem_for(name: str) -> Problem:
    """Newton steps without a line search promise a smaller loss on quadratics only."""
    return quadratic() if name in ("exact", "conjugate_gradient") else softmax()


def call(tuner, problem, client, *, shared=None, local=None, round=2):
    shared = problem.objective.init_shared() if shared is None else shared
    local = problem.objective.redraw_local(client, 9) if local is None else local
    data = problem.client_data.data(client, round)
    samples = len(data["y"]) if "y" in data else 1
    return tuner(problem.objective, shared, local, data, tuner.draws(problem.objective, client, round, samples)).local


def copies(params):
    return {name: value.clone() for name, value in params.items()}


def stack(group):
    return {key: torch.stack([values[key] for values in group]) for key in group[0]}


def norm(x) -> float:
    return distance(x, {name: torch.zeros_like(value) for name, value in x.items()})


def distance(x, y) -> float:
    return math.sqrt(sum(float(((x[name] - y[name]) ** 2).sum()) for name in x))


# --- properties of all


def configurations():
    """Every fine-tuner on every problem that it can be used on."""
    for name, cls in sorted(FOUND.items()):
        for make in (quadratic,) if issubclass(cls, ExactFineTuner) else (quadratic, softmax):
            yield make, name, {}
            yield make, name, {"start": "redraw"}
        if "batch_size" in cls.model_fields:
            yield softmax, name, {"batch_size": 4}


@pytest.mark.parametrize(("make", "name", "fields"), list(configurations()))
def test_vectorized_equals_loop_and_inputs_stay(make, name, fields):
    problem = make()
    tuner = example(name, **fields).resolve(problem)
    shared, clients = problem.objective.init_shared(), range(4)
    locals_ = [problem.objective.redraw_local(client, 9) for client in clients]
    datas = [problem.client_data.data(client, 2) for client in clients]
    draws = [tuner.draws(problem.objective, client, 2, 10) for client in clients]
    before = [copies(values) for values in (shared, *locals_, *datas, *draws)]
    alone = [tuner(problem.objective, shared, *inputs).local for inputs in zip(locals_, datas, draws, strict=True)]
    for values, old in zip((shared, *locals_, *datas, *draws), before, strict=True):
        assert all(torch.equal(values[key], old[key]) for key in old)
    stacked = [stack(group) for group in (locals_, datas, draws)]
    together = torch.func.vmap(lambda w, data, draw: tuner(problem.objective, shared, w, data, draw).local)(*stacked)
    for client in clients:
        assert together.keys() == locals_[client].keys()
        for key, value in alone[client].items():
            torch.testing.assert_close(together[key][client], value, rtol=1e-12, atol=1e-12)
        assert distance(alone[client], locals_[client]) > 1e-6


@pytest.mark.parametrize("name", sorted(FOUND))
def test_improves(name):
    problem = problem_for(name)
    for client in range(4):
        tuned = call(example(name), problem, client)
        start = problem.objective.redraw_local(client, 9)
        scored = [
            problem.scores.client_metrics(problem.objective.init_shared(), w, client)["loss"] for w in (tuned, start)
        ]
        assert scored[0] < scored[1]


@pytest.mark.parametrize("name", [name for name in sorted(FOUND) if not issubclass(FOUND[name], ExactFineTuner)])
def test_start(name):
    """`zero` and `redraw` forget the client's last w; `warm` begins there."""
    problem = softmax()
    zeros = problem.objective.init_local(0)
    one, other = problem.objective.redraw_local(0, 1), problem.objective.redraw_local(0, 2)
    for start, wanted in (("zero", zeros), ("redraw", problem.objective.redraw_local(0, 2))):
        tuner = example(name, start=start)
        tuned = call(tuner, problem, 0, local=one)
        assert distance(tuned, call(tuner, problem, 0, local=other)) == 0.0
        assert distance(tuned, call(example(name), problem, 0, local=wanted)) == 0.0
    assert distance(call(example(name), problem, 0, local=one), call(example(name), problem, 0, local=other)) > 1e-6


@pytest.mark.parametrize("name", sorted(FOUND))
def test_nothing_local(name):
    problem = quadratic(split={"local": []})
    tuner = example(name).resolve(problem)
    assert (
        tuner(
            problem.objective,
            problem.objective.init_shared(),
            {},
            problem.client_data.data(0, 0),
            tuner.draws(problem.objective, 0, 0, 1),
        ).local
        == {}
    )


@pytest.mark.parametrize("name", sorted(FOUND))
def test_counts_gradients_and_unknown_keys_are_refused(name):
    problem, tuner = problem_for(name), example(name)
    inputs = (
        problem.objective.init_shared(),
        problem.objective.redraw_local(0, 9),
        problem.client_data.data(0, 0),
        tuner.draws(problem.objective, 0, 0, 10),
    )
    count = tuner(problem.objective, *inputs).num_gradients
    assert count >= 0
    assert (count == 0) == issubclass(FOUND[name], ExactFineTuner)
    with pytest.raises(ValidationError):
        example(name, tau=3)
    with pytest.raises(ValidationError):
        example(name, start="cold")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("gradient_descent", {"steps": 0}),
        ("gradient_descent", {"lr": -1}),
        ("gradient_descent", {"lr": "practice"}),
        ("gradient_descent", {"lr": math.inf}),
        ("conjugate_gradient", {"steps": 1.5}),
        ("sgd", {"batch_size": 0}),
        ("sgd", {"batch_size": "some"}),
        ("sgd", {"epochs": 0}),
        ("sgd", {"lr": "theory"}),
        ("adam", {"beta1": 1.0}),
        ("adam", {"beta2": -0.1}),
        ("adam", {"epsilon": 0.0}),
        ("lbfgs", {"history": 0}),
    ],
)
def test_bad_settings(name, fields):
    with pytest.raises(ValidationError, match=next(iter(fields))):
        example(name, **fields)


# --- convergence to w*(θ)


CONVERGING = [
    Exact(name="exact"),
    GradientDescent(name="gradient_descent", steps=2000, lr="theory"),
    ConjugateGradient(name="conjugate_gradient", steps=3),
    ConjugateGradient(name="conjugate_gradient", steps=30),
    LBFGS(name="lbfgs", steps=15),
]


@pytest.mark.parametrize("tuner", CONVERGING, ids=lambda tuner: f"{tuner.name}-{getattr(tuner, 'steps', 0)}")
@pytest.mark.parametrize("noise", [0.1, 0.0])
def test_converges_on_the_quadratic(tuner, noise):
    """d_w = 3: three steps of CG are exact; more of them, past convergence, do no harm."""
    problem = quadratic(noise=noise, targets="common")
    tuner = tuner.resolve(problem)
    theta = {"theta": torch.linspace(-1, 1, 5, dtype=torch.float64)}
    for client in range(4):
        best = problem.objective.exact_local(theta, problem.client_data.data(client, 0))
        assert distance(call(tuner, problem, client, shared=theta), best) < 1e-9


def test_one_step_of_conjugate_gradients_is_the_exact_line_search():
    problem, tuner = quadratic(), ConjugateGradient(name="conjugate_gradient", steps=1)
    theta, w, data = (
        problem.objective.init_shared(),
        problem.objective.redraw_local(0, 9),
        problem.client_data.data(0, 0),
    )
    g = problem.objective.local_gradient(theta, w, data)["w"]
    step = (g @ g) / (g @ (data["local_curvature"] @ g))
    torch.testing.assert_close(call(tuner, problem, 0)["w"], w["w"] - step * g, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["conjugate_gradient", "lbfgs"])
def test_starting_at_the_solution_stays_finite(name):
    problem = quadratic()
    theta = problem.objective.init_shared()
    start = problem.objective.exact_local(theta, problem.client_data.data(0, 0))
    for steps in (1, 8):
        assert distance(call(example(name, steps=steps), problem, 0, local=start), start) < 1e-12
    stationary = {key: torch.zeros_like(value) for key, value in problem.client_data.data(0, 0).items()}
    stationary["local_curvature"] = problem.client_data.data(0, 0)["local_curvature"]
    nothing = problem.objective.init_local(0)
    # the residual is exactly 0
    assert distance(example(name)(problem.objective, theta, nothing, stationary, {}).local, nothing) == 0.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_conjugate_gradients_with_a_singular_hessian(dtype):
    """Many steps from a warm start, when nothing but rounding is left, do not run away along the null space."""
    problem, tuner = quadratic(local_dimension=20), ConjugateGradient(name="conjugate_gradient", steps=30)
    draw = torch.Generator().manual_seed(0)
    B = torch.randn(12, 20, generator=draw, dtype=torch.float64)
    data = {key: value.to(dtype) for key, value in problem.client_data.data(0, 0).items()}
    data |= {"local_curvature": (B.T @ B).to(dtype), "local_linear": (B.T @ B[:, 0]).to(dtype)}
    theta = {"theta": torch.zeros(5, dtype=dtype)}
    first = tuner(problem.objective, theta, {"w": torch.zeros(20, dtype=dtype)}, data, {}).local
    accuracy = 100 * torch.finfo(dtype).eps
    assert distance(first, {"w": (torch.linalg.pinv(B) @ B[:, 0]).to(dtype)}) < accuracy
    w = first
    for _ in range(20):
        w = tuner(problem.objective, theta, w, data, {}).local
    assert distance(w, first) < accuracy


def test_conjugate_gradients_do_not_follow_negative_curvature():
    problem, tuner = quadratic(), ConjugateGradient(name="conjugate_gradient", steps=5)
    w, data = problem.objective.redraw_local(0, 9), problem.client_data.data(0, 0)
    data = {**data, "local_curvature": -data["local_curvature"]}
    assert distance(tuner(problem.objective, problem.objective.init_shared(), w, data, {}).local, w) == 0.0


def test_lbfgs_solves_logistic_regression():
    """It beats gradient descent with as many gradients by far, and gets to a stationary point."""
    problem, tuner = softmax(), LBFGS(name="lbfgs", steps=60)
    shared = problem.objective.init_shared()
    draws = tuner.draws(problem.objective, 0, 0, 10)
    budget = math.ceil(
        tuner(
            problem.objective, shared, problem.objective.init_local(0), problem.client_data.data(0, 0), draws
        ).num_gradients
    )
    assert budget == 2 + 60 + 60 * NUM_TRIALS / 3
    for client in range(4):
        norms = []
        for method in (tuner, GradientDescent(name="gradient_descent", steps=budget, lr=0.5)):
            w = call(method, problem, client)
            norms.append(norm(problem.objective.local_gradient(shared, w, problem.client_data.data(client, 0))))
        assert norms[0] < 1e-9
        assert norms[0] < 0.01 * norms[1]


def test_lbfgs_backtracks():
    """With badly scaled losses every step still decreases the loss."""
    problem = softmax()
    far = {name: 30 * value for name, value in problem.objective.redraw_local(0, 9).items()}
    values = [problem.scores.client_metrics(problem.objective.init_shared(), far, 0)["loss"]]
    for steps in range(1, 8):
        w = call(LBFGS(name="lbfgs", steps=steps), problem, 0, local=far)
        values.append(problem.scores.client_metrics(problem.objective.init_shared(), w, 0)["loss"])
    assert all(later < earlier for earlier, later in itertools.pairwise(values))


def test_lbfgs_goes_on_where_differences_of_the_loss_are_lost_in_rounding():
    problem, tuner = quadratic(noise=10.0), LBFGS(name="lbfgs", steps=8)
    for client in range(4):
        best = problem.objective.exact_local(problem.objective.init_shared(), problem.client_data.data(client, 0))
        near = {"w": best["w"] + 1e-9 * torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64)}
        assert distance(call(tuner, problem, client, local=near), best) < 1e-11


# --- equalities


def test_gradient_descent_and_whole_batch_sgd_are_the_same_step():
    problem = softmax()
    step = call(GradientDescent(name="gradient_descent", steps=1, lr=0.3), problem, 1)
    epoch = call(SGD(name="sgd", lr=0.3, batch_size="all", epochs=1), problem, 1)
    assert distance(step, epoch) == 0.0
    w = problem.objective.redraw_local(1, 9)
    g = problem.objective.local_gradient(problem.objective.init_shared(), w, problem.client_data.data(1, 2))
    assert distance(step, {name: w[name] - 0.3 * g[name] for name in w}) < 1e-15


def hand_written(tuner, problem, client, optimizer_of, round=2):
    """Run a torch.optim optimizer over the mini-batches that the drawn orders say."""
    data, shared = problem.client_data.data(client, round), problem.objective.init_shared()
    w = {name: value.clone().requires_grad_() for name, value in problem.objective.redraw_local(client, 9).items()}
    optimizer = optimizer_of(list(w.values()))
    (steps,) = tuner.draws(problem.objective, client, round, 10).values()
    for order in steps[steps >= 0].reshape(tuner.epochs, 10):
        for first in range(0, 10, tuner.batch_size):
            rows = order[first : first + tuner.batch_size]
            optimizer.zero_grad()
            problem.objective.loss(shared, w, {"x": data["x"][rows], "y": data["y"][rows]}).backward()
            optimizer.step()
    return {name: value.detach() for name, value in w.items()}


def test_sgd_is_a_loop_over_mini_batches():
    problem, tuner = softmax(), SGD(name="sgd", lr=0.2, batch_size=4, epochs=3)
    wanted = hand_written(tuner, problem, 2, lambda params: torch.optim.SGD(params, lr=0.2))
    assert distance(call(tuner, problem, 2), wanted) < 1e-14


def test_adam_is_torchs():
    problem = softmax()
    tuner = Adam(name="adam", lr=0.2, batch_size=4, epochs=3, beta1=0.8, beta2=0.95, epsilon=1e-3)
    wanted = hand_written(tuner, problem, 2, lambda params: torch.optim.Adam(params, 0.2, betas=(0.8, 0.95), eps=1e-3))
    assert distance(call(tuner, problem, 2), wanted) < 1e-13


def test_an_epoch_sees_every_sample_once_in_a_new_order():
    problem, tuner = softmax(), SGD(name="sgd", lr=0.2, batch_size=4, epochs=2)
    draws = tuner.draws(problem.objective, 1, 3, 10)
    (orders,) = draws.values()
    numbered = {"sample": torch.arange(10)}
    batches = [batch["sample"] for batch in tuner.batches(numbered, draws)]
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    epochs = [torch.cat(batches[:3]), torch.cat(batches[3:])]
    assert all(torch.equal(epoch.sort().values, torch.arange(10)) for epoch in epochs)
    assert not torch.equal(*epochs)
    again = tuner.draws(softmax().objective, 1, 3, 10)
    assert all(torch.equal(draws[key], again[key]) for key in draws)
    other = Softmax()
    other.seed = 6
    for different in (
        tuner.draws(problem.objective, 2, 3, 10),
        tuner.draws(problem.objective, 1, 4, 10),
        tuner.draws(other, 1, 3, 10),
    ):
        assert not torch.equal(next(iter(different.values())), orders)


# --- what only a problem can refuse


def test_theory_is_one_over_the_largest_local_curvature():
    problem = quadratic()
    largest = max(np.linalg.eigvalsh(problem.client_data.data(m, 0)["local_curvature"].numpy())[-1] for m in range(4))
    resolved = GradientDescent(name="gradient_descent", steps=1, lr="theory").resolve(problem)
    assert resolved.lr == pytest.approx(1.0 / largest, rel=1e-12)
    with pytest.raises(ValueError, match="theory"):
        GradientDescent(name="gradient_descent", steps=1, lr="theory").resolve(softmax())


@pytest.mark.parametrize("name", ["gradient_descent", "sgd"])
def test_steps_that_must_diverge_are_refused_with_the_bound(name):
    problem = quadratic()
    bound = 2.0 / problem.theory.constants().local_smoothness
    assert example(name, lr=0.999 * bound).resolve(problem).lr == 0.999 * bound
    with pytest.raises(ValueError, match=f"{bound:g}"):
        example(name, lr=1.001 * bound).resolve(problem)
    assert example(name, lr=1e6).resolve(softmax()).lr == 1e6


def test_mini_batches_need_samples_and_exact_needs_a_closed_form():
    for name in ("sgd", "adam"):
        with pytest.raises(ValueError, match=r"batch_size: 4 .* no samples; use 'all'"):
            example(name, batch_size=4).resolve(quadratic())
        assert example(name, batch_size=4).resolve(softmax()) == example(name, batch_size=4)
    with pytest.raises(ValueError, match="closed form"):
        Exact(name="exact").resolve(softmax())
