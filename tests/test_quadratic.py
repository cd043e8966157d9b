"""The exact problem against plain NumPy, against finite differences and against itself on other ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppfl.interfaces.client_data import Statistics
from ppfl.problems._quadratic_objective import Quadratic
from tests import numpy_reference as reference
from tests.quadratic_problems import flat, from_clients, random_point, small
from tests.ranks import on_ranks

torch.set_num_threads(1)

SPLITS = [["w"], ["theta"], [], ["*"]]


@pytest.mark.parametrize("split", SPLITS)
def test_gram_form_equals_the_formula(tmp_path, split):
    clients = reference.random_clients(3)
    problem = from_clients(tmp_path, clients, split={"local": split})
    shared, local = random_point(problem)
    everything = {**shared, **local}
    for number, client in enumerate(clients):
        value = problem.objective.loss(shared, local, problem.client_data.data(number, 0))
        wanted = reference.loss(client, everything["theta"].numpy(), everything["w"].numpy())
        assert float(value) == pytest.approx(wanted, rel=1e-12)
        assert problem.scores.client_metrics(shared, local, number)["loss"] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("split", SPLITS)
def test_gradients_are_those_of_the_loss(split):
    problem = small(split={"local": split})
    shared, local = random_point(problem)
    data = problem.client_data.data(2, 0)
    of_shared = torch.func.grad(lambda s: problem.objective.loss(s, local, data))(shared) if shared else {}
    of_local = torch.func.grad(lambda l: problem.objective.loss(shared, l, data))(local) if local else {}  # noqa: E741
    torch.testing.assert_close(
        problem.objective.shared_gradient(shared, local, data), of_shared, rtol=1e-12, atol=1e-12
    )
    for view in (data, problem.objective.advance(shared, data)):
        torch.testing.assert_close(
            problem.objective.local_gradient(shared, local, view), of_local, rtol=1e-12, atol=1e-12
        )
        torch.testing.assert_close(
            problem.objective.loss(shared, local, view), problem.objective.loss(shared, local, data)
        )


@pytest.mark.parametrize("split", [["w"], ["theta"], ["*"]])
def test_exact_local_is_stationary_and_the_hessian_product_is_a_difference_of_gradients(split):
    problem = small(split={"local": split})
    shared, local = random_point(problem)
    _, direction = random_point(problem, seed=1)
    data = problem.client_data.data(1, 0)
    best = problem.objective.exact_local(shared, data)
    assert np.linalg.norm(flat(problem.objective.local_gradient(shared, best, data))) < 1e-12
    moved = {name: local[name] + direction[name] for name in local}
    difference = flat(problem.objective.local_gradient(shared, moved, data)) - flat(
        problem.objective.local_gradient(shared, local, data)
    )
    product = problem.objective.local_hessian_product(shared, local, direction, data)
    np.testing.assert_allclose(flat(product), difference, rtol=1e-10, atol=1e-12)
    generic = super(Quadratic, problem.objective).local_hessian_product(shared, local, direction, data)
    np.testing.assert_allclose(flat(generic), flat(product), rtol=1e-12, atol=1e-14)


def test_envelope():
    """∇F_m(θ) = ∇_1 f_m(θ, w_m*(θ)), by central differences of θ -> f_m(θ, w_m*(θ))."""
    problem = small()
    theta, _ = random_point(problem)
    data = problem.client_data.data(3, 0)

    def reduced(vector):
        shared = {"theta": vector}
        return problem.objective.loss(shared, problem.objective.exact_local(shared, data), data)

    gradient = problem.objective.shared_gradient(theta, problem.objective.exact_local(theta, data), data)["theta"]
    step = 1e-4
    for coordinate, unit in enumerate(torch.eye(6, dtype=torch.float64)):
        slope = (reduced(theta["theta"] + step * unit) - reduced(theta["theta"] - step * unit)) / (2 * step)
        assert float(slope) == pytest.approx(float(gradient[coordinate]), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("common", [False, True])
def test_constants_and_solution(tmp_path, common):
    clients = reference.random_clients(4, common=common)
    problem = from_clients(tmp_path, clients)
    hessians = [reference.hessian(client) for client in clients]
    mean = np.linalg.eigvalsh(np.mean(hessians, axis=0))
    constants = problem.theory.constants()
    assert constants.smoothness == pytest.approx(max(np.linalg.eigvalsh(S)[-1] for S in hessians), rel=1e-10)
    assert constants.mean_smoothness == pytest.approx(mean[-1], rel=1e-10)
    assert constants.strong_convexity == pytest.approx(mean[0], rel=1e-10)
    joint = max(np.linalg.norm(np.concatenate([c["H"], c["A"]]), 2) ** 2 for c in clients)
    assert constants.joint_smoothness == pytest.approx(joint, rel=1e-10)
    assert constants.local_smoothness == pytest.approx(max(np.linalg.norm(c["B"], 2) ** 2 for c in clients), rel=1e-10)
    theta = reference.theta_star(clients)
    np.testing.assert_allclose(problem.theory.theta_star["theta"].numpy(), theta, rtol=1e-10, atol=1e-12)
    gradients = [reference.shared_gradient(c, theta, reference.best_local(c, theta)) for c in clients]
    sigma_squared = np.mean([g @ g for g in gradients])
    at_zero = np.linalg.norm(reference.operator(clients, np.zeros(6)))
    if common:
        assert problem.theory.sigma_star_squared < 1e-20 * at_zero**2
    else:
        assert problem.theory.sigma_star_squared == pytest.approx(sigma_squared, rel=1e-9)
        assert sigma_squared > 0.1 * at_zero**2
    assert problem.theory.facts()["sigma_star_squared"] == problem.theory.sigma_star_squared
    assert problem.theory.facts()["mu"] == constants.strong_convexity


def test_shared_metrics(tmp_path):
    clients = reference.random_clients(4)
    problem = from_clients(tmp_path, clients)
    shared, _ = random_point(problem)
    theta = shared["theta"].numpy()
    metrics = problem.scores.shared_metrics(shared)
    norms = [np.linalg.norm(reference.shared_gradient(c, theta, reference.best_local(c, theta))) for c in clients]
    np.testing.assert_allclose(metrics["client_gradient_norm"].numpy(), norms, rtol=1e-11)
    operator_norm = np.linalg.norm(reference.operator(clients, theta))
    assert float(metrics["operator_norm"]) == pytest.approx(operator_norm, rel=1e-11)
    assert float(metrics["distance"]) == pytest.approx(np.linalg.norm(theta - reference.theta_star(clients)), rel=1e-10)
    assert float(problem.scores.shared_metrics(problem.theory.theta_star)["operator_norm"]) < 1e-13


def test_metrics_are_float64_in_single_precision():
    single, double = small(dtype=torch.float32), small()
    shared, local = random_point(single)
    assert single.client_data.data(0, 0)["cross"].dtype == torch.float32
    exactly = [{name: value.double() for name, value in side.items()} for side in (shared, local)]
    assert single.scores.client_metrics(shared, local, 0) == double.scores.client_metrics(*exactly, 0)
    wanted = double.scores.shared_metrics(exactly[0])
    assert all(torch.equal(value, wanted[key]) for key, value in single.scores.shared_metrics(shared).items())
    assert single.theory.facts() == double.theory.facts()


def test_rank_deficient_local_part(tmp_path):
    clients = reference.random_clients(3)
    for client in clients:
        client["B"][:, 3] = client["B"][:, 0]
    problem = from_clients(tmp_path, clients)
    shared, _ = random_point(problem)
    for number, client in enumerate(clients):
        w = problem.objective.exact_local(shared, problem.client_data.data(number, 0))["w"].numpy()
        np.testing.assert_allclose(w, reference.best_local(client, shared["theta"].numpy()), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(problem.theory.theta_star["theta"].numpy(), reference.theta_star(clients), rtol=1e-9)


def test_constants_of_one_sided_splits():
    """With everything shared, S_m is the joint Hessian; with everything local there is nothing left of θ."""
    shared_all, local_all = small(split={"local": []}), small(split={"local": ["*"]})
    assert shared_all.theory.constants().local_smoothness == 0.0
    assert shared_all.theory.constants().smoothness == pytest.approx(
        local_all.theory.constants().local_smoothness, rel=1e-12
    )
    assert set(shared_all.theory.theta_star) == {"theta", "w"}
    assert float(shared_all.scores.shared_metrics(shared_all.theory.theta_star)["operator_norm"]) < 1e-12
    assert local_all.theory.constants().smoothness == 0.0
    assert float(local_all.scores.shared_metrics({})["operator_norm"]) == 0.0


def test_functions_of_one_client_can_be_vectorized():
    problem = small()
    points = [random_point(problem, seed) for seed in range(5)]
    groups = (
        [point[0] for point in points],
        [point[1] for point in points],
        [problem.client_data.data(m, 0) for m in range(5)],
    )
    *stacked, data = [{key: torch.stack([one[key] for one in group]) for key in group[0]} for group in groups]
    for function in (problem.objective.loss, problem.objective.local_gradient, problem.objective.shared_gradient):
        together = torch.func.vmap(function)(*stacked, data)
        for number, (shared, local) in enumerate(points):
            alone = function(shared, local, problem.client_data.data(number, 0))
            row = together[number] if isinstance(alone, torch.Tensor) else {k: v[number] for k, v in together.items()}
            torch.testing.assert_close(row, alone, rtol=1e-12, atol=1e-12)
    together = torch.func.vmap(problem.objective.exact_local)(stacked[0], data)["w"]
    for number, (shared, _) in enumerate(points):
        alone = problem.objective.exact_local(shared, problem.client_data.data(number, 0))["w"]
        torch.testing.assert_close(together[number], alone, rtol=1e-12, atol=1e-12)


def test_objectives_are_equal_whatever_the_numbers_of_their_problems():
    one, other = (small(seed=3, zeta=zeta, noise=noise).objective for zeta, noise in ((1.0, 0.0), (2.0, 0.5)))
    assert one == other
    assert hash(one) == hash(other)
    for odd in ({"seed": 4}, {"dtype": torch.float32}, {"local_dimension": 3}, {"split": {"local": ["theta"]}}):
        assert small(**{"seed": 3, **odd}).objective != one


def test_seed_is_everything():
    first, again, other = small(seed=3), small(seed=3), small(seed=4)
    for client in range(5):
        for key, value in first.client_data.data(client, 0).items():
            assert torch.equal(value, again.client_data.data(client, 0)[key])
        assert not torch.equal(first.client_data.data(client, 0)["cross"], other.client_data.data(client, 0)["cross"])
    w = first.objective.redraw_local(1, 7)["w"]
    assert torch.equal(w, again.objective.redraw_local(1, 7)["w"])
    for different in (
        first.objective.redraw_local(1, 8),
        first.objective.redraw_local(2, 7),
        other.objective.redraw_local(1, 7),
    ):
        assert not torch.equal(w, different["w"])


def test_data_and_starts():
    problem = small()
    assert problem.client_data.fixed_data
    assert isinstance(problem.client_data, Statistics)
    assert problem.client_data.training_epoch(1, 0)[0]["cross"] is problem.client_data.data(1, 5)["cross"]
    assert torch.equal(problem.objective.init_shared()["theta"], torch.zeros(6, dtype=torch.float64))
    assert torch.equal(problem.objective.init_local(0)["w"], torch.zeros(4, dtype=torch.float64))
    for value in problem.client_data.data(0, 0).values():
        assert (value.T if value.ndim == 2 else value).is_contiguous()
        assert value.data_ptr() % 64 == 0


@pytest.mark.parametrize("zeta", [1.0, 0.0])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_same_bits_on_any_number_of_ranks(size, zeta):
    """Seven ranks for five clients: two of them have none."""
    alone = small(zeta=zeta)
    shared, _ = random_point(alone)

    def on_rank(communicator):
        problem = small(communicator=communicator, zeta=zeta)
        return problem, problem.scores.shared_metrics(shared)

    results = on_ranks(size, on_rank)
    owned = []
    for problem, metrics in results:
        owned += list(problem.client_data.clients)
        for client in problem.client_data.clients:
            for key, value in alone.client_data.data(client, 0).items():
                assert torch.equal(problem.client_data.data(client, 0)[key], value)
        assert problem.theory.facts() == alone.theory.facts()
        assert torch.equal(problem.theory.theta_star["theta"], alone.theory.theta_star["theta"])
        for key, value in alone.scores.shared_metrics(shared).items():
            assert torch.equal(metrics[key], value)
    assert owned == list(range(5))


def test_clients_with_the_same_matrices_have_them_once():
    """With ζ = 0, also in memory: rounds then read them once for all."""
    for zeta, number in ((0.0, 1), (1.0, 5)):
        data = small(zeta=zeta).client_data
        for name in ("shared_curvature", "cross", "local_curvature", "local_inverse"):
            assert len({data.data(client, 0)[name].data_ptr() for client in data.clients}) == number
        assert len({data.data(client, 0)["shared_linear"].data_ptr() for client in data.clients}) == 5


def test_numpy_reference_descends(tmp_path):
    """FFGG by hand on the problem follows the plain NumPy run."""
    clients = reference.random_clients(3)
    problem = from_clients(tmp_path, clients)
    lr = 1.0 / problem.theory.constants().smoothness
    thetas, norms = reference.ffgg_reference(clients, lr, 50)
    shared = problem.objective.init_shared()
    for k in range(51):
        np.testing.assert_allclose(shared["theta"].numpy(), thetas[k], rtol=1e-10, atol=1e-12)
        assert float(problem.scores.shared_metrics(shared)["operator_norm"]) == pytest.approx(norms[k], rel=1e-8)
        locals_ = [problem.objective.exact_local(shared, problem.client_data.data(m, k)) for m in range(3)]
        gradients = [
            problem.objective.shared_gradient(shared, locals_[m], problem.client_data.data(m, k))["theta"]
            for m in range(3)
        ]
        shared = {"theta": shared["theta"] - lr * sum(gradients) / 3}
    assert norms[-1] < 0.2 * norms[0]
