"""FLoRAL: what it is equal to in the corners of its settings, and what its server does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.communicator import Communicator
from ppfl.core.errors import UserError
from ppfl.core.params import flatten
from ppfl.core.types import Params
from ppfl.engine.choose import open_engine
from ppfl.interfaces.mixture import ROUTER
from ppfl.networks.adaptor_gradients import preconditioned
from ppfl.runs.assemble import build
from tests.engine.build import config, engine
from tests.engine.interrupted import go_on
from tests.engine.test_partial import run, told
from tests.ranks import on_ranks
from tests.supervised_problems import CNN, make

CLUSTERS, CLIENTS, LR, TEMPERATURE = 3, 6, 0.05, 0.8
FLORAL: dict[str, Any] = {"adaptors": CLUSTERS, "layers": ["*"], "rank": 2, "temperature": TEMPERATURE}
STEPS: dict[str, Any] = {"lr": LR, "epochs": 2, "batch_size": 25}
DIGITS: dict[str, Any] = {
    "name": "supervised",
    "dataset": {
        "name": "digits", "partition": {"name": "dirichlet", "clients": CLIENTS, "alpha": 5.0}, "test": 0.7,
        "shift": {"name": "label_permutation", "clusters": CLUSTERS},
    },
    "model": {"name": "mlp", "hidden": [8]},
    "split": {"local": [ROUTER], "floral": FLORAL},
    "batch_size": "all",
}  # fmt: skip


def document(split: dict[str, Any] | None = None, name: str = "floral", **keys: Any) -> dict[str, Any]:
    """Return a run; `keys` are the algorithm's settings and whole sections."""
    sections = {key: keys.pop(key) for key in list(keys) if key in type(config()).model_fields}
    more = {"router_lr": 0.5} if name == "floral" else {}
    problem = {**DIGITS, "split": split or DIGITS["split"]}
    short: dict[str, Any] = {"rounds": 3, "weights": "samples", "evaluate": {"every": 3, "tuned": {"epochs": 0}}}
    return {"problem": problem, "algorithm": {"name": name, **STEPS, **more, **keys}, **short, **sections}


def ran(*args: Any, **keys: Any) -> Any:
    running = engine(**document(*args, **keys))
    list(running)
    return running


def routers(running: Any) -> list[list[float]]:
    return [running.group.state(m)["local"][ROUTER].tolist() for m in range(CLIENTS)]


def mixtures(running: Any) -> torch.Tensor:
    """Return π_m of all clients, a row each."""
    return torch.softmax(torch.tensor(routers(running), dtype=torch.float64) / TEMPERATURE, dim=1)


def equal(one: Params, other: Params) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def assert_close(one: Params, other: Params) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("split", [{"local": []}, {"local": [], "floral": {**FLORAL, "adaptors": 0}}], ids=str)
def test_without_adaptors_it_is_fedavg(split: dict[str, Any]) -> None:
    one, other = ran(split), ran({"local": []}, "fedavg")
    assert equal(one.server["shared"], other.server["shared"])
    assert one.ledger.costs.uplink_bytes == other.ledger.costs.uplink_bytes


def test_without_adaptors_it_is_fedsim_where_something_is_local() -> None:
    one, other = (ran({"local": ["head.*"]}, name) for name in ("floral", "fedsim"))
    assert equal(one.server["shared"], other.server["shared"])
    assert equal(one.group.state(2)["local"], other.group.state(2)["local"])


@pytest.mark.parametrize("model", [{"name": "mlp", "hidden": [8]}, {**CNN, "normalization": "none"}], ids=str)
@pytest.mark.parametrize("cohort", ["all", 2])
def test_with_one_adaptor_it_is_fedavg_on_base_and_adaptor(model: dict[str, Any], cohort: Any) -> None:
    """Bit for bit: the router of one has no gradient, and the only weight is 1."""
    floral = {**FLORAL, "adaptors": 1}
    keys = {"problem": {**DIGITS, "model": model, "split": {"local": [ROUTER], "floral": floral}}, "cohort": cohort}
    one = ran(**keys)
    keys["problem"] = {**keys["problem"], "split": {"local": [], "floral": floral}}
    other = ran(None, "fedavg", **keys)
    theta = {name: value for name, value in other.server["shared"].items() if name != ROUTER}
    assert equal(one.server["shared"], theta)
    assert float(one.server["shared"]["head.floral_U"].abs().max()) > 0


def test_routers_that_stay_weigh_adaptors_by_samples() -> None:
    """r = 0 for all: q_mc = p_m, and FedAvg on a model whose mixture is frozen."""
    one = ran(router_lr=0.0, noise=0.0)
    other = ran({"local": [], "frozen": [ROUTER], "floral": FLORAL}, "fedavg")
    assert_close(one.server["shared"], other.server["shared"])
    assert routers(one) == [[0.0] * CLUSTERS] * CLIENTS


def sent_by_each(running: Any) -> list[Params]:
    """Return what every client would send in round 0."""
    setup, found = running.setup, []
    for m in range(CLIENTS):
        data = setup.problem.client_data.data(m, 0)
        draws = setup.algorithm.draws(setup.problem.objective, m, 0, len(data["y"]))
        message = setup.algorithm.downlink(running.server, 0)
        step = setup.algorithm.client(setup.problem.objective, message, running.group.state(m), data, draws)
        found.append(step.uplink)
    return found


@pytest.mark.parametrize("cohort", ["all", 4])
def test_a_step_of_the_server_is_clustered_averaging_with_one_hot_routers(cohort: Any) -> None:
    """Exactly: the base by all samples, each adaptor by those of its cluster."""
    running = engine(**document(router="optimal", router_lr=0.0, rounds=1, cohort=cohort))
    before, sent = running.server["shared"], sent_by_each(running)
    sizes, who = running.setup.client_weights, sorted(running.setup.cohort(0))
    list(running)
    for name, value in running.server["shared"].items():
        if "floral" not in name:
            mean = sum(sizes[m] * sent[m][name] for m in who) / sum(sizes[m] for m in who)
            torch.testing.assert_close(value, before[name] - mean, rtol=1e-12, atol=1e-14)
            continue
        for c in range(CLUSTERS):
            own = [m for m in who if m % CLUSTERS == c]
            mean = sum(sizes[m] * sent[m][name][c] for m in own) / max(1, sum(sizes[m] for m in own))
            torch.testing.assert_close(value[c], before[name][c] - mean, rtol=1e-12, atol=1e-14)


def test_adaptors_are_averaged_by_the_mixtures() -> None:
    """Σ_m n_m π_mc a_mc / Σ_m n_m π_mc, π of where the routers have come in the round."""
    running = engine(**document(rounds=1, router_lr=20.0))
    for m in range(CLIENTS):
        state = running.group.state(m)
        running.group.keep(m, {"local": {ROUTER: state["local"][ROUTER] + torch.arange(CLUSTERS) * (m - 2.0)}})
    before, sent = running.server["shared"], sent_by_each(running)
    sizes = running.setup.client_weights
    list(running)
    weights = mixtures(running) * torch.tensor(sizes, dtype=torch.float64)[:, None]
    name = "hidden1.floral_V"
    moved = torch.stack([one[name] for one in sent])
    mean = torch.einsum("mc,mcij->cij", weights, moved) / weights.sum(0)[:, None, None]
    torch.testing.assert_close(running.server["shared"][name], before[name] - mean, rtol=1e-12, atol=1e-14)


def begun(change: Any, **keys: Any) -> Any:
    """Return an engine after its rounds, whose θ and routers begin changed; routers of unlike clients differ."""
    running = engine(**document(noise=0.0, **keys))
    draw = torch.Generator().manual_seed(0)
    own = [torch.randn(CLUSTERS, generator=draw, dtype=torch.float64) for _ in range(CLIENTS)]
    shared, own = change(running.server["shared"], own)
    running.server = {**running.server, "shared": shared}
    for m, router in enumerate(own):
        running.group.keep(m, {"local": {ROUTER: router}})
    list(running)
    return running


def test_a_constant_in_a_router_changes_nothing() -> None:
    one = begun(lambda shared, own: (shared, own))
    other = begun(lambda shared, own: (shared, [router + 1.5 * m for m, router in enumerate(own)]))
    assert_close(one.server["shared"], other.server["shared"])
    for m in range(CLIENTS):
        moved = [running.group.state(m)["local"][ROUTER] for running in (one, other)]
        torch.testing.assert_close(moved[0] + 1.5 * m, moved[1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("precondition", [False, True])
def test_permuted_adaptors_permute_everything(precondition: bool) -> None:
    order = [2, 0, 1]

    def permuted(shared: Params) -> Params:
        return {name: value[order] if "floral" in name else value for name, value in shared.items()}

    one = begun(lambda shared, own: (shared, own), precondition=precondition)
    other = begun(lambda shared, own: (permuted(shared), [r[order] for r in own]), precondition=precondition)
    for name, value in permuted(one.server["shared"]).items():
        torch.testing.assert_close(value, other.server["shared"][name], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.array(routers(one))[:, order], routers(other), rtol=1e-9, atol=1e-12)


def test_an_adaptor_without_weight_stays() -> None:
    """Clients have three clusters, and nobody's router points to the fourth adaptor: bit for bit, though the least
    weight in a layer has its factors trained by all."""
    split = {"local": [ROUTER], "floral": {**FLORAL, "adaptors": CLUSTERS + 1}}
    running = engine(**document(split, router="optimal", router_lr=0.0))
    before = running.server["shared"]
    assert any(bool((one["head.floral_U"][CLUSTERS] != 0).any()) for one in sent_by_each(running))
    list(running)
    for name, value in running.server["shared"].items():
        if "floral" in name:
            assert torch.equal(value[CLUSTERS], before[name][CLUSTERS])
            assert not torch.equal(value[0], before[name][0])


def test_routers_are_told_and_sent() -> None:
    reports = [f"router_{c}" for c in range(CLUSTERS)]
    running = engine(**document(evaluate={"every": 3, "tuned": {"epochs": 0}, "reports": reports}))
    last = list(running)[-1]
    told = np.stack([last.metrics[f"report_{name}"] for name in reports])
    assert told.shape == (CLUSTERS, CLIENTS)
    np.testing.assert_allclose(told.sum(axis=0), 1.0, rtol=1e-12)
    np.testing.assert_allclose(told.T, mixtures(running), rtol=1e-6)
    size = flatten(running.server["shared"]).numel()
    assert last.costs["downlink_bytes"] == 8 * 3 * CLIENTS * size
    assert last.costs["uplink_bytes"] == 8 * 3 * CLIENTS * (size + CLUSTERS)


def test_a_step_sees_the_noise_and_a_score_does_not() -> None:
    running = engine(**document(local_steps=2, epochs=None, batch_size="all", rounds=1, noise=2.0))
    setup, draw = running.setup, torch.Generator().manual_seed(1)
    shared = {name: x + 0.2 * torch.randn(x.shape, generator=draw, dtype=x.dtype)
              for name, x in running.server["shared"].items()}  # fmt: skip
    objective, state, data = setup.problem.objective, running.group.state(1), setup.problem.client_data.data(1, 0)
    draws = setup.algorithm.draws(objective, 1, 0, len(data["y"]))
    noise = draws["noise of routers"]
    assert noise.shape == (2, CLUSTERS)
    assert 0.0 <= float(noise.min()) < float(noise.max()) < 2.0
    step = setup.algorithm.client(objective, shared, state, data, draws)
    moved, router = shared, torch.zeros_like(noise[0])
    for of_step in noise:  # drawn anew in each
        of_shared, of_local = objective.gradients(moved, {ROUTER: router + of_step}, data)
        moved = {name: value - LR * of_shared[name] for name, value in moved.items()}
        router = router - 0.5 * of_local[ROUTER]
    wanted = shared["head.weight"] - moved["head.weight"]
    torch.testing.assert_close(step.uplink["head.weight"], wanted, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(step.state["local"][ROUTER], router, rtol=1e-12, atol=1e-14)
    assert equal(setup.algorithm.view({"shared": shared}, state)[1], state["local"])
    others = [setup.algorithm.draws(objective, m, k, 40)["noise of routers"] for m, k in ((1, 0), (2, 0), (1, 1))]
    assert torch.equal(others[0], noise)
    assert not torch.equal(others[1], noise)
    assert not torch.equal(others[2], noise)


def test_preconditioned_gradients() -> None:
    """Of matrices by explicit inverses, of kernels by the norm of the Gram matrix."""
    problem = make({
        "model": {**CNN, "normalization": "none"}, "split": {"local": [ROUTER], "floral": FLORAL},
    })  # fmt: skip
    mixture, draw = problem.objective.mixture, np.random.default_rng(0)
    assert mixture is not None
    params = {name: torch.tensor(draw.normal(size=x.shape)) for name, x in problem.objective.init_shared().items()}
    gradients = {name: torch.tensor(draw.normal(size=x.shape)) for name, x in params.items()}
    better = preconditioned(gradients, params, mixture)
    for layer in ("hidden", "conv2"):
        u, v = (params[f"{layer}.floral_{factor}"].numpy() for factor in "UV")
        of_u, of_v = (gradients[f"{layer}.floral_{factor}"].numpy() for factor in "UV")
        for c in range(CLUSTERS):
            if layer == "hidden":
                wanted_v = np.linalg.inv(u[c].T @ u[c] + 1e-5 * np.eye(2)) @ of_v[c]
                wanted_u = of_u[c] @ np.linalg.inv(v[c] @ v[c].T + 1e-5 * np.eye(2))
            else:
                gram_u, gram_v = np.einsum("ora,osa->rs", u[c], u[c]), np.einsum("ria,sia->rs", v[c], v[c])
                wanted_v = of_v[c] / (np.linalg.norm(gram_u) + 1e-5)
                wanted_u = of_u[c] / (np.linalg.norm(gram_v) + 1e-5)
            np.testing.assert_allclose(better[f"{layer}.floral_V"][c], wanted_v, rtol=1e-9)
            np.testing.assert_allclose(better[f"{layer}.floral_U"][c], wanted_u, rtol=1e-9)
    assert all(
        better[name] is value for name, value in gradients.items() if "floral_U" not in name and "_V" not in name
    )


PARTIAL = {"local": [ROUTER, "head.weight", "head.bias"], "floral": {**FLORAL, "layers": ["hidden1"]}}
RUNS: dict[str, dict[str, Any]] = {
    "mixture": {}, "output layer local": {"split": PARTIAL}, "optimal": {"router": "optimal", "router_lr": 0.0},
    "sampled": {"cohort": 3, "precondition": True}, "chunks": {"engine": {"clients_per_chunk": 3}},
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_ranks_and_stops_do_not_change_a_bit(name: str, tmp_path: Any) -> None:
    given = config(**document(**RUNS[name]))
    wanted = told(*run(given))
    for found in on_ranks(2, lambda communicator: told(*run(given, communicator))):
        assert found == wanted

    def stopped(communicator: Communicator) -> list[Any]:
        return go_on(communicator, tmp_path, 1, checked=given)[1]

    before = on_ranks(2, stopped)[0]
    running, after = go_on(SoloCommunicator(), tmp_path, None, checked=given)
    assert told(running, before + after) == wanted


def test_other_parts_may_be_local() -> None:
    """The output layer stays with each client; its adaptors may do so, too."""
    running = ran(PARTIAL)
    heads = [running.group.state(m)["local"]["head.weight"] for m in (0, 1)]
    assert not torch.equal(*heads)
    assert "head.weight" not in running.server["shared"]
    alone = ran({"local": ["*floral*"], "floral": {**FLORAL, "adaptors": 1}})
    assert not any("floral" in name for name in alone.server["shared"])
    size = flatten(alone.server["shared"]).numel()
    assert alone.ledger.costs.uplink_bytes == alone.ledger.costs.downlink_bytes == 8 * 3 * CLIENTS * size


def test_chunks_give_what_single_clients_give() -> None:
    one, other = ran(), ran(engine={"clients_per_chunk": 3})
    for name, value in one.server["shared"].items():
        torch.testing.assert_close(value, other.server["shared"][name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("split", "keys", "said"),
    [
        ({"local": ["head.*"], "floral": FLORAL}, {},
         r"algorithm.name: 'floral' trains a router of each client; add 'floral.router' to problem.split.local"),
        (None, {"router": "optimal", "router_lr": 0.1}, r"router_lr.*0 with `router: optimal`"),
        ({"local": [ROUTER], "floral": {**FLORAL, "adaptors": 2}}, {"router": "optimal", "router_lr": 0.0},
         r"algorithm.router: 'optimal' needs an adaptor for each of 3 clusters.*adaptors is 2"),
        (None, {"aggregator": {"name": "median"}, "weights": "uniform"}, "of which other rules know nothing"),
        (None, {"asynchronous": {"engine": "virtual"}, "compute_times": {"name": "exponential"}},
         "over the clients of a round, by what their routers say"),
        (None, {"router_lr": -1.0}, "router_lr"), (None, {"noise": -1.0}, "noise"),
    ],
)  # fmt: skip
def test_what_is_refused(split: Any, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_engine(build(config(**document(split, **keys)), SoloCommunicator()))


def test_an_optimal_router_needs_clusters() -> None:
    plain = {**DIGITS, "dataset": {key: value for key, value in DIGITS["dataset"].items() if key != "shift"}}
    with pytest.raises(UserError, match=r"^algorithm.router: 'optimal' is the true cluster.*have none") as error:
        build(config(**document(router="optimal", router_lr=0.0, problem=plain)), SoloCommunicator())
    assert "\n" not in str(error.value)
