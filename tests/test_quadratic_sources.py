"""Where quadratic problems come from: generators, files, and the settings that choose between them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ppfl.core.errors import UserError
from ppfl.problems import _quadratic_file, _quadratic_generators
from ppfl.problems.quadratic import QuadraticSettings
from tests import numpy_reference as reference
from tests.quadratic_problems import SMALL, build, flat, from_clients, random_point, settings, small
from tests.ranks import on_ranks

torch.set_num_threads(1)


# --- the generators: reference values of an independent implementation, in order of magnitude


@pytest.mark.parametrize(("zeta", "smoothness", "condition"), [(0, 2.54, 253), (1, 10.1, 401), (10, 307, 220)])
def test_comparison(zeta, smoothness, condition):
    problem = build(generator="comparison", zeta=zeta)
    constants = problem.theory.constants()
    assert constants.smoothness == pytest.approx(smoothness, rel=0.05)
    assert constants.mean_smoothness / constants.strong_convexity == pytest.approx(condition, rel=0.05)
    assert problem.client_data.num_clients == 8
    assert problem.client_data.num_train_samples == (1000,) * 8
    if zeta == 0:
        assert constants.strong_convexity == pytest.approx(0.0099, rel=0.05)
        assert constants.local_smoothness == pytest.approx(5.07, rel=0.05)
        assert (
            0.76 / 2 < float(problem.scores.shared_metrics(problem.objective.init_shared())["operator_norm"]) < 0.76 * 2
        )
        assert 2.9 / 3 < problem.theory.sigma_star_squared < 2.9 * 3


def test_byzantine():
    problem = build(generator="byzantine", clients=4)
    assert problem.theory.constants().smoothness == pytest.approx(25.4, rel=0.05)
    assert problem.theory.sigma_star_squared < 1e-20
    assert settings(generator="byzantine").clients == 32


def test_asynchronous_defaults():
    chosen = settings(generator="asynchronous")
    assert (chosen.clients, chosen.shared_dimension, chosen.local_dimension, chosen.rows) == (40, 400, 50, 10000)
    assert (chosen.zeta, chosen.targets, chosen.noise) == (10.0, "own", 0.0)


def test_targets_and_noise():
    assert small(targets="common").theory.sigma_star_squared < 1e-25
    assert small(targets="own").theory.sigma_star_squared > 1e-3
    noisy = small(targets="common", noise=0.1)
    assert noisy.theory.sigma_star_squared > 1e-8
    silent = small(targets="common")
    # ½E‖ν ε‖² over 2·20 rows is 20 ν², less what θ* and w* fit of it
    theta = noisy.theory.theta_star
    losses = [
        noisy.scores.client_metrics(theta, noisy.objective.exact_local(theta, noisy.client_data.data(m, 0)), m)["loss"]
        for m in range(5)
    ]
    assert 10 * 0.1**2 < np.mean(losses) < 20 * 0.1**2
    assert torch.equal(
        noisy.client_data.data(0, 0)["shared_curvature"], silent.client_data.data(0, 0)["shared_curvature"]
    )


# --- means


def test_means():
    """½‖θ − y_m‖² with y_m about μ_m, and μ_m about μ, as far apart as the settings say; w has no part in it."""
    problem = build(generator="means", clients=400, shared_dimension=3, mean=5.0, spread=2.0, noise=6.0, samples=9)
    blocks = [problem.client_data.data(client, 0) for client in range(400)]
    sampled = torch.stack([of_client["shared_linear"] for of_client in blocks])
    truth = torch.stack([of_client["truth"] for of_client in blocks])
    assert problem.client_data.num_train_samples == (9,) * 400
    assert float(truth.mean()) == pytest.approx(5.0, abs=0.2)
    assert float(truth.var()) == pytest.approx(4.0, rel=0.1)
    assert float((sampled - truth).var()) == pytest.approx(36 / 9, rel=0.1)
    theta, w = {"theta": torch.ones(3).double()}, problem.objective.init_local(0)
    scores = problem.scores.client_metrics(theta, w, 7)
    assert scores["loss"] == pytest.approx(float((1 - sampled[7]).square().sum()) / 2)
    assert scores["squared_error"] == pytest.approx(float((1 - truth[7]).square().sum()))
    assert torch.equal(problem.objective.local_gradient(theta, w, blocks[7])["w"], torch.zeros(1).double())
    constants = problem.theory.constants()
    assert (constants.smoothness, constants.strong_convexity, constants.local_smoothness) == (1, 1, 1)
    np.testing.assert_allclose(problem.theory.theta_star["theta"], sampled.mean(dim=0), rtol=1e-12)
    alone = problem.all_local()
    assert alone.scores.client_metrics({}, theta | w, 7) == scores


def test_means_defaults():
    chosen = settings(generator="means")
    assert (chosen.clients, chosen.shared_dimension, chosen.samples) == (600, 1, 20)
    assert (chosen.mean, chosen.spread, chosen.noise) == (10.0, 2.0, 15.0)


# --- isotropic


@pytest.mark.parametrize("scales", ["graded", "equal"])
def test_isotropic(scales):
    """½‖s_m θ − b_m‖² with curvatures i²/M, or 1, and b_m ~ N(0, ζ²/i²) which ζ scales; w has no part in it."""
    problem, wider = (
        build(generator="isotropic", clients=4, shared_dimension=200, scales=scales, zeta=zeta) for zeta in (6.0, 12.0)
    )
    for client in range(4):
        number = client + 1 if scales == "graded" else 1
        curvature = number**2 / 4 if scales == "graded" else 1.0
        data = problem.client_data.data(client, 0)
        np.testing.assert_allclose(data["shared_curvature"], curvature * np.eye(200), rtol=1e-15)
        b = data["shared_linear"] / curvature**0.5
        assert float(b.std()) == pytest.approx(6 / number, rel=0.2)
        assert float(data["constant"]) == pytest.approx(float(b @ b) / 2)
        assert torch.equal(2 * data["shared_linear"], wider.client_data.data(client, 0)["shared_linear"])
        assert not data["cross"].any()


def test_isotropic_defaults():
    chosen = settings(generator="isotropic")
    assert (chosen.clients, chosen.shared_dimension, chosen.zeta, chosen.scales) == (16, 20, 10.0, "graded")
    assert chosen.noise is None


# --- noise of gradients


def test_gradient_noise_is_new_in_every_round_and_in_no_score():
    noisy = build(**{**SMALL, "shared_dimension": 400}, generator="comparison", gradient_noise=3.0)
    exact = build(**{**SMALL, "shared_dimension": 400}, generator="comparison")
    shared, local = random_point(exact)
    data = [noisy.client_data.data(client, round) for client, round in ((0, 0), (0, 1), (1, 0))]
    of_shared, of_local = exact.objective.gradients(shared, local, exact.client_data.data(0, 0))
    seen = []
    for one in data[:2]:
        found = noisy.objective.gradients(shared, local, one)
        seen.append(flat(found[0]) - flat(of_shared))
        assert np.linalg.norm(seen[-1]) == pytest.approx(3.0, rel=0.15)
        # the same noise wherever the gradient is taken
        zero = exact.objective.init_shared(), exact.objective.init_local(0)
        noise = flat(noisy.objective.gradients(*zero, one)[0]) - flat(
            exact.objective.gradients(*zero, exact.client_data.data(0, 0))[0]
        )
        np.testing.assert_allclose(noise, seen[-1], atol=1e-10)
        assert np.linalg.norm(flat(found[1]) - flat(of_local)) > 0
    assert abs(np.corrcoef(*seen)[0, 1]) < 0.2
    assert not torch.equal(data[0]["shared_linear"], data[2]["shared_linear"])
    assert torch.equal(data[0]["shared_linear"], noisy.client_data.data(0, 0)["shared_linear"])
    assert noisy.scores.client_metrics(shared, local, 0) == exact.scores.client_metrics(shared, local, 0)
    assert not noisy.client_data.fixed_data


# --- files


@pytest.mark.parametrize("clients", [3, 12])
def test_what_clients_have_in_common_is_drawn_once(monkeypatch, clients):
    """Each client adds its own four draws: the cost of a start is linear in their number, whatever they share."""
    drawn = []
    _quadratic_generators._kept_uniform.cache_clear()
    original = _quadratic_generators.generator
    monkeypatch.setattr(
        _quadratic_generators, "generator", lambda seed, what, **k: drawn.append(what) or original(seed, what, **k)
    )
    build(generator="comparison", zeta=1.0, **SMALL | {"clients": clients})
    assert drawn.count("quadratic matrices of all") == 1
    assert len(drawn) == 1 + 4 * clients


@pytest.mark.parametrize("zeta", [1.0, 0.0])
def test_file_holds_the_problem(tmp_path, zeta):
    """A generated problem written out and read again is the same problem, in bits."""
    recipe = settings(generator="comparison", zeta=zeta, **SMALL)._recipe()
    problem = from_clients(tmp_path, list(map(recipe.clients_of(0), range(5))))
    for client in range(5):
        for key, value in small(zeta=zeta).client_data.data(client, 0).items():
            assert torch.equal(problem.client_data.data(client, 0)[key], value)
    assert problem.client_data.client_names == ("0000", "0001", "0002", "0003", "0004")


def test_rows_may_differ_between_clients(tmp_path):
    clients = reference.random_clients(2, rows=12) + reference.random_clients(1, rows=9, seed=1)
    clients[0]["H"], clients[0]["b"] = clients[0]["H"][:5], clients[0]["b"][:5]
    problem = from_clients(tmp_path, clients)
    assert problem.client_data.num_train_samples == (12, 12, 9)
    np.testing.assert_allclose(problem.theory.theta_star["theta"].numpy(), reference.theta_star(clients), rtol=1e-9)


def _replace(field, value):
    def damage(file):
        del file[f"clients/0001/{field}"]
        if value is not None:
            file[f"clients/0001/{field}"] = value

    return damage


def _poison(value):
    def damage(file):
        file["clients/0001/A"][2, 3] = value

    return damage


def _remove_all(file):
    del file["clients"]


def _empty(file):
    del file["clients"]
    file.create_group("clients")


def _client_is_array(file):
    del file["clients/0001"]
    file["clients/0001"] = np.zeros(3)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_remove_all, ["no clients", "group 'clients'"]),
        (_empty, ["no clients"]),
        (_client_is_array, ["clients/0001 is not a group"]),
        *[(_replace(field, None), [f"clients/0001/{field} is missing", "H, b, A, B, y"]) for field in "HbABy"],
        (_replace("A", np.zeros((12, 6), np.float32)), ["clients/0001/A is float32", "float64"]),
        (_replace("b", np.zeros(12, int)), ["clients/0001/b is int64", "float64"]),
        (_replace("y", np.zeros((12, 1))), ["clients/0001/y has shape (12, 1)", "a vector"]),
        (_replace("B", np.zeros((12, 0))), ["clients/0001/B has shape (12, 0)", "not empty"]),
        (_replace("y", np.zeros(11)), ["clients/0001/y has shape (11,)", "wanted (12,)"]),
        (_replace("b", np.zeros(11)), ["clients/0001/b has shape (11,)", "wanted (12,)"]),
        (_replace("H", np.zeros((12, 5))), ["clients/0001/H has shape (12, 5)", "wanted (12, 6)"]),
        (_replace("A", np.zeros((12, 7))), ["clients/0001/A has shape (12, 7)", "wanted (12, 6)"]),
        (_replace("B", np.zeros((12, 3))), ["clients/0001/B has shape (12, 3)", "wanted (12, 4)"]),
        (_replace("B", np.zeros((11, 4))), ["clients/0001/B has shape (11, 4)", "wanted (12, 4)"]),
        (_poison(np.nan), ["clients/0001/A has NaN or inf"]),
        (_poison(-np.inf), ["clients/0001/A has NaN or inf"]),
    ],
)
def test_bad_files(tmp_path, damage, words):
    path = reference.write_clients(tmp_path / "problem.h5", reference.random_clients(3))
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(UserError) as caught:
        build(file=str(path))
    for word in [str(path), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "precision", "reached"), [(1e160, torch.float64, "inf"), (1e80, torch.float32, "1e+160")]
)
def test_entries_whose_products_are_no_numbers(tmp_path, entry, precision, reached):
    clients = reference.random_clients(3)
    clients[1]["A"][2, 3] = entry
    path = reference.write_clients(tmp_path / "problem.h5", clients)

    def message(communicator) -> str:
        with pytest.raises(UserError) as caught:
            build(communicator=communicator, file=str(path), dtype=precision)
        return str(caught.value)

    for told in on_ranks(2, message):
        assert f"{path}: clients/0001: sums of products of its entries reach {reached}" in told
    generator = {"generator": "comparison", **SMALL, "noise": entry}
    with pytest.raises(UserError, match="problem: client 0: sums of products"):
        build(**generator, dtype=precision)


def test_clients_are_sorted_whatever_the_order_of_creation(tmp_path):
    clients = dict(zip("bca", reference.random_clients(3), strict=True))
    with h5py.File(tmp_path / "tracked.h5", "w", track_order=True) as file:
        group = file.create_group("clients", track_order=True)
        for name, fields in clients.items():
            for field, values in fields.items():
                group[f"{name}/{field}"] = values.astype(">f8")
        assert list(group) == ["b", "c", "a"]
    problem = build(file=str(tmp_path / "tracked.h5"))
    assert problem.client_data.client_names == ("a", "b", "c")
    np.testing.assert_allclose(
        problem.theory.theta_star["theta"].numpy(), reference.theta_star([clients[name] for name in "abc"]), rtol=1e-9
    )


def test_a_file_is_opened_once_for_all_clients(tmp_path, monkeypatch):
    """Opening it for each of them made a start take 2 ms a client."""
    opened = []
    original = h5py.File.__init__
    monkeypatch.setattr(h5py.File, "__init__", lambda self, *a, **k: opened.append(a[0]) or original(self, *a, **k))
    path = reference.write_clients(tmp_path / "problem.h5", reference.random_clients(4))
    opened.clear()
    build(file=str(path))
    assert opened == [path]


def test_a_file_that_is_not_hdf5(tmp_path):
    path = tmp_path / "problem.h5"
    path.write_text("no")
    with pytest.raises(UserError, match="cannot be read as HDF5"):
        build(file=str(path))


def test_a_rank_reads_its_own_clients_only_and_all_ranks_fail_together(tmp_path, monkeypatch):
    path = reference.write_clients(tmp_path / "problem.h5", reference.random_clients(3))
    read = []
    original = _quadratic_file._read
    monkeypatch.setattr(_quadratic_file, "_read", lambda *of: read.append(of[-1]) or original(*of))
    on_ranks(3, lambda communicator: build(communicator=communicator, file=str(path)))
    assert sorted(read) == ["0000", "0001", "0002"]
    with h5py.File(path, "a") as file:
        _poison(np.nan)(file)

    def message(communicator) -> str:
        with pytest.raises(UserError) as caught:
            build(communicator=communicator, file=str(path))
        return str(caught.value)

    messages = on_ranks(3, message)
    assert len(set(messages)) == 1
    assert "clients/0001/A has NaN" in messages[0]


# --- settings


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ["one of comparison, asynchronous, byzantine, means, isotropic, or a `file`"]),
        ({"generator": "comparison", "file": "FILE"}, ["exactly one"]),
        ({"file": "FILE", "zeta": 1}, ["nothing beside `file`"]),
        ({"file": "FILE", "noise": 0.0}, ["nothing beside `file`"]),
        ({"generator": "byzantine", "zeta": 0.0}, ["zeta", "nothing with `generator: byzantine`"]),
        ({"generator": "nonsense"}, ["generator"]),
        ({"generator": ["comparison"]}, ["generator"]),
        ({"generator": "comparison", "zeta": -1}, ["zeta"]),
        ({"generator": "comparison", "noise": -0.1}, ["noise"]),
        ({"generator": "comparison", "noise": float("nan")}, ["noise"]),
        ({"generator": "comparison", "clients": 0}, ["clients"]),
        ({"generator": "comparison", "rows": 2.5}, ["rows"]),
        ({"generator": "comparison", "targets": "mine"}, ["targets"]),
        ({"generator": "comparison", "tau": 1}, ["tau"]),
        ({"generator": "comparison", "split": {"local": ["head.*"]}}, ["split", "theta, w"]),
        ({"generator": "comparison", "split": {"local": ["theta", "w"]}}, ["split", "'*'"]),
    ],
)
def test_bad_settings(tmp_path, fields, words):
    path = reference.write_clients(tmp_path / "problem.h5", reference.random_clients(1))
    fields = {key: str(path) if value == "FILE" else value for key, value in fields.items()}
    with pytest.raises(ValidationError) as caught:
        settings(**fields)
    for word in words:
        assert word in str(caught.value)


def test_equal_problems_have_equal_settings():
    assert settings(generator="comparison") == settings(generator="comparison", clients=8, zeta=0, noise=0)
    chosen = settings(generator="byzantine", rows=50)
    assert QuadraticSettings.model_validate(chosen.model_dump()) == chosen
    assert QuadraticSettings.model_validate_json(chosen.model_dump_json()) == chosen
