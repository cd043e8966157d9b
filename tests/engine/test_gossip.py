"""Nodes without a server: what holds of their methods by the paper's own recursion, and what crosses ranks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.core.errors import UserError
from ppfl.core.params import flatten, num_bytes, unflatten
from ppfl.engine.consensus import meet
from ppfl.engine.exchange import gossip as exchange
from ppfl.engine.exchange.gossip import Neighbours
from ppfl.engine.run import play_round
from ppfl.engine.synchronous import Synchronous
from tests.algorithms.cases import sections
from tests.engine.build import config, engine
from tests.numpy_reference import write_clients
from tests.ranks import on_ranks

NODES, ROUNDS = 6, 40
QUADRATIC = {
    "name": "quadratic", "generator": "comparison", "zeta": 1, "clients": NODES, "rows": 30, "shared_dimension": 12,
    "local_dimension": 3, "split": {"local": []},
}  # fmt: skip
TOP_K = {"name": "top_k", "share": 0.25}
NONE = {"name": "none"}
STEPS = {"lr": 0.2, "mixing": 0.3}
COMPRESSED = {**STEPS, "compressor": TOP_K}
RING = {"graph": {"name": "ring"}}


def nodes(name: str, *, communicator: Any = None, gossip: Any = RING, **settings: Any) -> Synchronous:
    """Return an engine; settings are those of the method, but for whole sections."""
    of_run = ("problem", "rounds", "evaluate", "seed", "server_optimizer")
    document = {key: settings.pop(key) for key in of_run if key in settings}
    base = {"problem": QUADRATIC, "rounds": ROUNDS, **document, "gossip": gossip}
    return engine(communicator, algorithm={"name": name, **settings}, **base)


def vectors(run: Synchronous, name: str) -> torch.Tensor:
    """Return one of the vectors that each node keeps, (M, D)."""
    states = [run.group.state(node) for node in run.group.clients]
    return torch.stack([flatten(state["model"]) if name == "model" else state["vectors"][name] for state in states])


def gradients(run: Synchronous, x: torch.Tensor) -> torch.Tensor:
    """∇f_i(x_i), (M, D)."""
    objective, data, like = run.setup.problem.objective, run.setup.problem.client_data, run.server["shared"]
    found = [objective.shared_gradient(unflatten(row, like), {}, data.data(node, 0)) for node, row in enumerate(x)]
    return torch.stack([flatten(gradient) for gradient in found])


def top_k(x: torch.Tensor, share: float) -> torch.Tensor:
    """The largest entries of each row."""
    places = x.abs().topk(round(share * x.shape[1]), dim=1).indices
    return torch.zeros_like(x).scatter(1, places, x.gather(1, places))


def weights_of(run: Synchronous) -> torch.Tensor:
    assert run.neighbours is not None
    return torch.from_numpy(run.neighbours.weights.matrix())


def motef_of_the_paper(
    run: Synchronous, compress: Callable[[torch.Tensor], torch.Tensor], lr: float, mixing: float, momentum: float
) -> torch.Tensor:
    """X after so many rounds, as Algorithm 1 is printed: a gradient before the first round, then x before M and V."""
    W = weights_of(run) - torch.eye(NODES, dtype=torch.float64)
    X = vectors(run, "model")
    H, M = X, gradients(run, X)
    V = G = M
    for _ in range(ROUNDS):
        X = X + mixing * W @ H - lr * V
        H = H + compress(X - H)
        new = (1 - momentum) * M + momentum * gradients(run, X)
        V = V + mixing * W @ G + new - M
        G, M = G + compress(V - G), new
    return X


def assert_near(found: torch.Tensor, wanted: torch.Tensor, rtol: float = 1e-12) -> None:
    """To rounding of the largest number."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=rtol * float(wanted.abs().max()))


@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_motef_is_the_recursion_of_the_paper(momentum: float) -> None:
    run = nodes("motef", **COMPRESSED, momentum=momentum)
    wanted = motef_of_the_paper(run, partial(top_k, share=0.25), **STEPS, momentum=momentum)
    list(run)
    assert_near(vectors(run, "model"), wanted, 1e-9)  # who is largest may be settled by rounding


@pytest.mark.parametrize("name", ["motef", "motef_vr"])
def test_momentum_tracker_and_what_is_known_of_it_begin_as_the_gradient(name: str) -> None:
    run = nodes(name, **COMPRESSED, momentum=0.05)
    wanted = gradients(run, vectors(run, "model"))
    play_round(run, 0)
    for kept in ("momentum", "tracker", "tracker known"):
        assert torch.equal(vectors(run, kept), wanted), kept


@pytest.mark.parametrize("name", ["motef", "motef_vr", "beer", "gradient_tracking"])
def test_the_mean_of_trackers_is_that_of_momenta_and_moves_the_mean(name: str) -> None:
    own = {} if name == "beer" else {"momentum": 0.3}
    settings = STEPS if name == "gradient_tracking" else COMPRESSED
    run = nodes(name, **settings, **own)
    for round in range(ROUNDS):
        before = vectors(run, "model").mean(0)
        play_round(run, round)
        tracker = vectors(run, "tracker").mean(0)
        assert_near(tracker, vectors(run, "momentum").mean(0), 1e-12)
        assert_near(vectors(run, "model").mean(0), before - STEPS["lr"] * tracker)


def test_without_compression_motef_is_gradient_tracking_with_momentum_and_damped_weights() -> None:
    """And that is the recursion with matrix I + γ(W − I), written down once more."""
    run = nodes("motef", **STEPS, momentum=0.2, compressor=NONE)
    plain = nodes("gradient_tracking", **STEPS, momentum=0.2)
    A = torch.eye(NODES, dtype=torch.float64) + STEPS["mixing"] * (weights_of(run) - torch.eye(NODES))
    X = vectors(run, "model")
    V = M = gradients(run, X)
    for _ in range(ROUNDS):
        X = A @ X - STEPS["lr"] * V
        new = 0.8 * M + 0.2 * gradients(run, X)
        V, M = A @ V + new - M, new
    list(run), list(plain)
    assert_near(vectors(run, "model"), X)
    assert_near(vectors(plain, "model"), X)


@pytest.mark.parametrize("name", ["motef", "gradient_tracking"])
def test_a_single_node_is_gradient_descent_with_momentum(name: str) -> None:
    compressor = {"compressor": NONE} if name == "motef" else {}
    graph = {"graph": {"name": "complete"}}
    run = nodes(name, **STEPS, **compressor, momentum=0.2, problem={**QUADRATIC, "clients": 1}, gossip=graph)
    x = vectors(run, "model")
    M = gradients(run, x)
    for _ in range(ROUNDS):
        x = x - STEPS["lr"] * M
        M = 0.8 * M + 0.2 * gradients(run, x)
    costs = list(run)[-1].costs
    assert_near(vectors(run, "model"), x)
    assert costs["uplink_bytes"] == costs["downlink_bytes"] == 0


@pytest.mark.parametrize("problem", ["quadratic", "digits"])
def test_with_momentum_one_motef_is_beer_bit_by_bit(problem: str) -> None:
    settings = {"lr": 0.1, "mixing": 0.4, "compressor": TOP_K}
    states = []
    for name, own in (("beer", {}), ("motef", {"momentum": 1.0})):
        given = sections(name, problem)
        tuner = {"fine_tuner": given["algorithm"]["fine_tuner"]}
        run = engine(**{**given, "algorithm": {"name": name, **settings, **own, **tuner}})
        list(run)
        states.append([run.group.state(node) for node in run.group.clients])
    for one, other in zip(*states, strict=True):
        for group, params in one.items():
            for name, value in params.items():
                assert value.numpy().tobytes() == other[group][name].numpy().tobytes()


def test_variance_reduction_takes_both_gradients_on_the_samples_of_the_round() -> None:
    """On data that never change it is M = ∇f_i(x_i) from the first round on, hence BEER."""
    reduced, beer = nodes("motef_vr", **COMPRESSED, momentum=0.2), nodes("beer", **COMPRESSED)
    costs = [list(run)[-1].costs["shared_gradients"] for run in (reduced, beer)]
    assert_near(vectors(reduced, "model"), vectors(beer, "model"), 1e-9)
    assert costs == [NODES * (2 * ROUNDS - 1), NODES * ROUNDS]


def test_choco_and_dsgd_are_their_recursions() -> None:
    choco, dsgd = nodes("choco_sgd", **COMPRESSED), nodes("dsgd", lr=0.2)
    W = weights_of(dsgd)
    X = Y = known = vectors(dsgd, "model")
    for _ in range(ROUNDS):
        X = W @ X - 0.2 * gradients(dsgd, X)
        Y = Y - 0.2 * gradients(choco, Y)
        known = known + top_k(Y - known, 0.25)
        Y = Y + 0.3 * (W - torch.eye(NODES)) @ known
    list(choco), list(dsgd)
    assert_near(vectors(dsgd, "model"), X)
    assert_near(vectors(choco, "model"), Y, 1e-9)


def floor(folder: Path, name: str, zeta: float, **settings: Any) -> float:
    """‖∇f(x̄)‖² in the end, f_i = ½‖s_i θ − b_i‖² + ½‖w‖² with b_i ~ N(0, ζ²/i² I): the quadratic of MoTEF, tamer."""
    draw, size = np.random.default_rng(0), 8
    of_w = {"A": np.zeros((1, size)), "B": np.eye(1), "y": np.zeros(1)}
    clients = [
        {"H": (0.6 + 0.08 * i) * np.eye(size), "b": zeta / i * draw.standard_normal(size), **of_w}
        for i in range(1, NODES + 1)
    ]
    problem = {"name": "quadratic", "file": str(write_clients(folder / f"{zeta:g}.h5", clients))}
    tuner = {"fine_tuner": {"name": "exact"}}
    scored = list(nodes(name, rounds=500, problem=problem, evaluate={"every": 500}, **settings, **tuner))
    return float(scored[-1].metrics["operator_norm"]) ** 2


@pytest.mark.parametrize("name", ["motef", "beer", "gradient_tracking"])
def test_trackers_come_to_the_optimum(tmp_path: Path, name: str) -> None:
    """Without noise ‖∇f(x̄)‖² → 0, however unlike nodes are."""
    settings = {"lr": 0.1, "mixing": 0.4, **({} if name == "gradient_tracking" else {"compressor": TOP_K})}
    momentum = {"momentum": 0.5} if name == "motef" else {}
    assert floor(tmp_path, name, 10.0, **settings, **momentum) < 1e-20


@pytest.mark.parametrize(("name", "settings"), [("dsgd", {"lr": 0.1}), ("choco_sgd", {**COMPRESSED, "lr": 0.1})])
def test_others_stop_at_a_floor_that_grows_with_the_square_of_how_unlike_nodes_are(
    tmp_path: Path, name: str, settings: Any
) -> None:
    low, high = (floor(tmp_path, name, zeta, **settings) for zeta in (1.0, 10.0))
    assert low > 1e-8
    np.testing.assert_allclose(high / low, 100.0, rtol=1e-6)


def test_with_local_parameters_nodes_tune_them_and_a_complete_graph_is_ffgg() -> None:
    """DSGD on a complete graph from a common start: its mean takes FFGG's steps, at x_i that only then differ."""
    problem = {**QUADRATIC, "split": {"local": ["w"]}}
    tuner = {"fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": "theory"}, "lr": 0.1}
    run = nodes("dsgd", **tuner, problem=problem, rounds=1, gossip={"graph": {"name": "complete"}})
    served = engine(problem=problem, algorithm={"name": "ffgg", **tuner}, rounds=1)
    list(run), list(served)
    assert_near(flatten(run.server["shared"]), flatten(served.server["shared"]))
    for node in range(NODES):
        assert torch.equal(run.group.state(node)["local"]["w"], served.group.state(node)["local"]["w"])


def test_local_parameters_that_nobody_trains_are_refused() -> None:
    with pytest.raises(UserError, match=r"algorithm.fine_tuner: nothing trains w, which problem.split keeps local"):
        nodes("dsgd", lr=0.1, problem={**QUADRATIC, "split": {"local": ["w"]}})


def test_a_server_optimizer_without_a_server_is_refused() -> None:
    with pytest.raises(UserError, match=r"algorithm.name: the server of 'dsgd' takes no steps"):
        nodes("dsgd", lr=0.1, server_optimizer={"name": "momentum"})


def test_scores_are_of_the_mean_and_consensus_is_the_distance_from_it() -> None:
    run = nodes("choco_sgd", **COMPRESSED, rounds=3)
    *_, last = run
    x = vectors(run, "model")
    assert_near(flatten(run.server["shared"]), x.mean(0))
    np.testing.assert_allclose(float(last.metrics["consensus"]), float((x - x.mean(0)).square().sum()), rtol=1e-12)
    assert meet(run) == {"consensus": last.metrics["consensus"]}


def test_consensus_of_single_precision_is_found_in_double() -> None:
    run = engine(**{**sections("dsgd", "digits"), "precision": "float32"})
    *_, last = run
    x = vectors(run, "model")
    assert x.dtype == torch.float32
    wide = x.to(torch.float64)
    wanted = float((wide - wide.mean(0)).square().sum())
    np.testing.assert_allclose(float(last.metrics["consensus"]), wanted, rtol=1e-12)


GRAPHS: list[dict[str, Any]] = [
    {"name": "ring"}, {"name": "star"}, {"name": "complete"}, {"name": "erdos_renyi", "probability": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("graph", GRAPHS, ids=[graph["name"] for graph in GRAPHS])
@pytest.mark.parametrize("at_once", [True, False])
def test_any_number_of_ranks_gives_the_same_bits(
    graph: dict[str, Any], *, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of all nodes at once on one rank, or one message after the other, here and there."""
    settings = {**COMPRESSED, "momentum": 0.2, "gossip": {"graph": graph}, "rounds": 5}

    def states(communicator: Any = None) -> dict[int, bytes]:
        run = nodes("motef", communicator=communicator, **settings)
        list(run)
        found = {node: run.group.state(node) for node in run.group.clients}
        return {
            node: b"".join(value.numpy().tobytes() for group in state.values() for value in group.values())
            for node, state in found.items()
        }

    alone = states()
    if not at_once:
        monkeypatch.setattr(exchange, "_FEW", 0)
    for size in (1, 2, 4):
        together: dict[int, bytes] = {}
        for found in on_ranks(size, states):
            together |= found
        assert together == alone


def test_a_message_crosses_ranks_once_and_no_rank_holds_all() -> None:
    """What is handed to the exchange is what is counted by hand, and what comes are the neighbours' messages alone."""

    def held(communicator: Any) -> tuple[list[int], int, int, int]:
        handed: list[int] = []
        inner = communicator.neighbourhood

        def counting(ranks: Any) -> Any:
            send = inner(ranks)

            def counted(tensor: torch.Tensor, counts: Any, expected: Any) -> torch.Tensor:
                handed.append(tensor.numel())
                return send(tensor, counts, expected)

            return counted

        communicator.neighbourhood = counting
        problem = {**QUADRATIC, "clients": 12}
        run = nodes("dsgd", lr=0.1, communicator=communicator, problem=problem, rounds=2)
        costs = list(run)[-1].costs
        assert isinstance(run.neighbours, Neighbours)
        come = sum(len(senders) for senders in run.neighbours.incoming.values())
        return handed, come, num_bytes(run.server["shared"]), int(costs["uplink_bytes"])

    for handed, come, size, counted in on_ranks(4, held):
        # a ring of three nodes on each rank: one to either side
        assert handed == [2 * size] * 2
        assert come == 2
        assert counted == 2 * 12 * 2 * size


@pytest.mark.parametrize(("name", "vectors_sent"), [("motef", 2), ("choco_sgd", 1)])
def test_what_each_message_draws_is_its_own(name: str, vectors_sent: int) -> None:
    """Of a node, a round and a vector: equal draws would leave the same coordinates out everywhere."""
    own = {"momentum": 0.2} if name == "motef" else {}
    run = nodes(name, **STEPS, **own, compressor={"name": "rand_k", "share": 0.5})
    method, objective = run.setup.algorithm, run.setup.problem.objective
    found = [
        value.numpy().tobytes()
        for node in range(2)
        for round in range(1, 3)
        for value in method.draws(objective, node, round, 1).values()
    ]
    assert len(set(found)) == len(found) == 2 * 2 * vectors_sent


def test_what_is_known_begins_at_the_start_and_sums_of_neighbours_are_of_it() -> None:
    """On a network, whose θ_0 is not 0: else nobody would see a start at 0."""
    given = sections("motef", "digits")
    run = engine(**{**given, "algorithm": {**given["algorithm"], **COMPRESSED, "momentum": 0.5}})
    start = vectors(run, "model")
    assert float(start.abs().max()) > 0
    assert torch.equal(vectors(run, "model known"), start)
    list(run)
    W = weights_of(run)
    for what in ("model", "tracker"):
        known = vectors(run, f"{what} known").to(torch.float64)
        apart = vectors(run, f"{what} apart").to(torch.float64)
        assert_near(apart, W @ known - known, 1e-5 if start.dtype == torch.float32 else 1e-12)


def test_the_section_is_silent_where_there_is_a_server() -> None:
    assert "gossip" not in config().to_yaml()
