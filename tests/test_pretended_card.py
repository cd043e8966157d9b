"""Runs on a card that is none (tests/pretended_card.py): nothing mixes devices, and numbers are those of the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ppfl.core.types import Params
from ppfl.engine.evaluate import score_stages
from tests.algorithms.cases import NAMES, PROBLEMS, sections
from tests.engine.build import engine
from tests.engine.test_queries import asking
from tests.mpi.test_same_bits import robust_cases
from tests.pretended_card import CARD, OnCard, pretended_card, under
from tests.test_on_a_gpu import CNN, FFGG

pytestmark = pytest.mark.slow  # each operation goes through Python

SCORED = {"evaluate": {"every": 2, "tuned": {"epochs": 1}}}


def found(**document: Any) -> tuple[Params, dict[str, Any]]:
    """Return θ and what the first client keeps after a run with all scores, and those of its stages."""
    run = engine(**{**SCORED, **document})
    for _ in run:
        pass
    assert run.status == "complete"
    kept = {f"{group}/{name}": value for group, params in run.group.state(0).items() for name, value in params.items()}
    return {**run.server["shared"], **kept}, score_stages([run])[0].scores


def check(monkeypatch: pytest.MonkeyPatch, **document: Any) -> None:
    expected, expected_scores = found(**document)
    with pretended_card(monkeypatch):
        shared, scores = found(**document)
    for name, value in expected.items():
        assert isinstance(shared[name], OnCard)
        assert torch.allclose(under(shared[name]), value, rtol=1e-9, atol=1e-12)
    assert scores.keys() == expected_scores.keys()


def test_a_mixture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    host = torch.ones(2)
    with pretended_card(monkeypatch) as waits:
        card = torch.ones(2, device=CARD)
        with pytest.raises(RuntimeError, match=r"add\.Tensor of tensors of a card and of the host"):
            card + host
        assert waits.where.total() == 0
        assert float((card * 3 + host.to(CARD)).sum()) == 8
        assert waits.where.total() == 1
        assert torch.equal((card * torch.tensor(2.0)).cpu(), 2 * host)
        assert waits.where.total() == 2


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm(name: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, **sections(name, problem) | {"rounds": 2})


@pytest.mark.parametrize("clients_per_chunk", [1, 2, 5])
@pytest.mark.parametrize("client_state", ["device", "file"])
def test_networks(client_state: str, clients_per_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"client_state": client_state, "clients_per_chunk": clients_per_chunk}
    check(monkeypatch, problem=CNN, algorithm=FFGG, rounds=2, engine=chosen)


def test_an_attack_at_query_points(monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, **asking(rounds=2, main_clients=2))


@pytest.mark.parametrize("case", robust_cases())
def test_every_rule(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document: dict[str, Any] = {**robust_cases()[case], "rounds": 2}
    document["problem"] = {**document["problem"], "rows": 60}
    check(monkeypatch, **document)
