"""Graphs of nodes: their edges and weights, and what is no graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.core.errors import UserError
from ppfl.graphs.erdos_renyi import ErdosRenyi
from ppfl.graphs.file import File
from ppfl.graphs.ring import Ring
from ppfl.graphs.star import Star
from ppfl.graphs.torus import Torus
from ppfl.interfaces.graph import LARGEST_WITH_GAP, Weights
from tests.engine.test_gossip import GRAPHS, QUADRATIC, nodes, weights_of


@pytest.mark.parametrize(
    ("graph", "text", "wanted"),
    [
        ({"name": "ring"}, None, r"graph: .*a ring has at least 3 nodes"),
        ({"name": "torus", "rows": 3, "columns": 4}, None, r"gossip.graph.rows: .*3 rows of 4 nodes are 12"),
        (
            {"name": "erdos_renyi", "probability": 1e-9},
            None,
            r"gossip.graph.probability: none of 100 graphs of 2 nodes",
        ),
        ({"name": "file"}, "0 0\n0 0\n", r"gossip.graph: .*is not connected: of 2 nodes 1 can be reached"),
        ({"name": "file"}, "0 1\n0 0\n", r"gossip.graph.path: .*is not symmetric"),
        ({"name": "file"}, "0 1 0\n1 0 1\n", r"gossip.graph.path: .*has 2 rows of 3 numbers, and here are 2 nodes"),
        ({"name": "file"}, "0 inf\ninf 0\n", r"gossip.graph.path: .*negative or not finite"),
        ({"name": "file"}, "0 -1\n-1 0\n", r"gossip.graph.path: .*negative or not finite"),
        ({"name": "file"}, "a b\n", r"gossip.graph.path: .*no matrix of numbers"),
        ({"name": "file"}, "", r"gossip.graph.path: .*has 0 rows"),
        ({"name": "file", "entries": "weights"}, "0.5 0.4\n0.4 0.5\n", r"gossip.graph.path: .*not doubly stochastic"),
        ({"name": "file", "entries": "weights"}, "0 1\n1 0\n", r"gossip.graph: the graph of two steps along .* is not"),
    ],
)
def test_graphs_that_are_none_are_refused(tmp_path: Path, graph: dict[str, Any], text: str | None, wanted: str) -> None:
    if text is not None:
        (tmp_path / "graph.txt").write_text(text)
        graph = {**graph, "path": str(tmp_path / "graph.txt")}
    with pytest.raises(UserError, match=wanted):
        nodes("dsgd", lr=0.1, problem={**QUADRATIC, "clients": 2}, gossip={"graph": graph})


def gap(weights: list[list[float]]) -> float:
    return Weights(tuple(tuple(enumerate(row)) for row in weights)).spectral_gap()


def test_the_spectral_gap_is_of_the_largest_eigenvalue_but_one_whatever_its_sign() -> None:
    ring = Ring(name="ring").weights(8, seed=0)
    np.testing.assert_allclose(ring.spectral_gap(), (2 - 2 * np.cos(2 * np.pi / 8)) / 3, rtol=1e-12)
    np.testing.assert_allclose(gap([[0.1, 0.9], [0.9, 0.1]]), 0.2, rtol=1e-12)
    assert gap([[1.0]]) == 1.0
    assert ring.facts() == {"num_edges": 8.0, "spectral_gap": ring.spectral_gap()}


def test_of_many_nodes_no_spectral_gap_is_told() -> None:
    assert Star(name="star").weights(LARGEST_WITH_GAP + 1, seed=0).facts() == {"num_edges": LARGEST_WITH_GAP}


def test_edges_are_those_of_the_drawing() -> None:
    star = Star(name="star").weights(5, seed=0)
    assert [star.neighbours(node) for node in range(5)] == [[1, 2, 3, 4], [0], [0], [0], [0]]
    torus = Torus(name="torus", rows=3, columns=4).weights(12, seed=0)
    assert torus.neighbours(0) == [1, 3, 4, 8]
    assert torus.neighbours(11) == [3, 7, 8, 10]
    assert (star.num_edges, torus.num_edges) == (4, 24)
    dense = ErdosRenyi(name="erdos_renyi", probability=0.9).weights(40, seed=0)
    # of 780 pairs 702 are expected, give or take 8
    assert abs(dense.num_edges - 702) < 50


def test_weights_of_a_file_are_taken_and_those_of_others_are_doubly_stochastic(tmp_path: Path) -> None:
    path = tmp_path / "weights.txt"
    path.write_text("0.5, 0.5, 0\n0.5, 0.25, 0.25\n0, 0.25, 0.75\n")
    problem = {**QUADRATIC, "clients": 3}
    given = nodes(
        "dsgd", lr=0.1, problem=problem, gossip={"graph": {"name": "file", "path": str(path), "entries": "weights"}}
    )
    assert weights_of(given).tolist() == [[0.5, 0.5, 0.0], [0.5, 0.25, 0.25], [0.0, 0.25, 0.75]]
    assert given.setup.weights_of_graph is not None
    assert [given.setup.weights_of_graph.neighbours(node) for node in range(3)] == [[1], [0, 2], [1]]
    for graph in (*GRAPHS, {"name": "torus", "rows": 3, "columns": 4}):
        run = nodes("dsgd", lr=0.1, problem={**QUADRATIC, "clients": 12}, gossip={"graph": graph})
        W = weights_of(run).numpy()
        np.testing.assert_allclose(W.sum(axis=0), 1.0, rtol=0, atol=1e-15)
        assert (W == W.T).all()
        assert (W >= 0).all()
        assert run.neighbours is not None
        assert 0 < run.neighbours.weights.spectral_gap() <= 1 + 1e-15


def test_random_edges_are_drawn_again_until_the_graph_is_connected() -> None:
    sparse = ErdosRenyi(name="erdos_renyi", probability=0.3)
    for seed in range(10):
        sparse.check(8, seed)


def test_one_node_that_counts_itself_is_enough_for_all_to_agree(tmp_path: Path) -> None:
    path = tmp_path / "weights.txt"
    path.write_text("0.5 0.5 0\n0.5 0 0.5\n0 0.5 0.5\n")
    path_graph = File.model_validate({"name": "file", "path": str(path), "entries": "weights"})
    path_graph.check(3, seed=0)
    assert path_graph.weights(3, seed=0).spectral_gap() > 0


def test_random_edges_are_those_of_the_seed() -> None:
    graph = {"graph": {"name": "erdos_renyi", "probability": 0.5}}
    one, same, other = (weights_of(nodes("dsgd", lr=0.1, gossip=graph, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
