"""Pruned methods: ratio 0 is the method without pruning, bit for bit; masks are counted, and found on every rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.agree import SharedUserError
from ppfl.core.params import flatten
from ppfl.engine.choose import AnyEngine, open_engine
from ppfl.engine.exchange.sent import Sent
from ppfl.engine.ledger import Scored
from ppfl.interfaces.pruning import Pruned, largest, num_kept
from ppfl.runs.assemble import build
from tests.algorithms.cases import sections
from tests.engine.build import config
from tests.ranks import on_ranks

PLAIN = ("fedalt", "fedsim", "ffgg")


def started(plain: str, problem: str = "digits", ratios: Any = None, **others: Any) -> AnyEngine:
    """Return an engine of a method, pruned where there are ratios."""
    given = sections(plain, problem, **others)
    if ratios is not None:
        given["algorithm"] = {**given["algorithm"], "name": f"pruned_{plain}", "ratios": ratios}
    return open_engine(build(config(**given), SoloCommunicator()))


def bits(engine: AnyEngine, scored: list[Scored]) -> list[Any]:
    """Everything but seconds, and what clients deploy."""
    numbers = [
        (one.round, name, np.asarray(value).tobytes())
        for one in scored
        for name, value in {**one.metrics, **one.costs}.items()
        if not name.endswith("seconds")
    ]
    local = [flatten(engine.group.state(m)["local"]).numpy().tobytes() for m in engine.group.clients]
    return [*numbers, *local, flatten(engine.server["shared"]).numpy().tobytes()]


def played(engine: AnyEngine) -> list[Any]:
    scored = list(engine)
    return bits(engine, scored)


@pytest.mark.parametrize("others", [{}, {"precision": "float32"}, {"cohort": 3, "weights": "samples"}], ids=str)
@pytest.mark.parametrize("plain", PLAIN)
def test_without_pruning_it_is_the_method_bit_for_bit(plain: str, others: dict[str, Any]) -> None:
    assert played(started(plain, ratios=0.0, **others)) == played(started(plain, **others))


@pytest.mark.parametrize("plain", PLAIN)
def test_without_pruning_it_is_the_method_on_a_quadratic_and_with_momentum(plain: str) -> None:
    others = {"server_optimizer": {"name": "momentum"}}
    assert played(started(plain, "quadratic", 0.0, **others)) == played(started(plain, "quadratic", **others))


def by_hand(theta: np.ndarray, number: int) -> np.ndarray:
    order = np.lexsort((np.arange(len(theta)), -np.abs(theta)))
    kept = np.zeros(len(theta), bool)
    kept[order[:number]] = True
    return kept


@pytest.mark.parametrize("number", [0, 1, 5, 11, 12])
def test_masks_keep_the_largest_and_of_equal_ones_the_first(number: int) -> None:
    x = torch.tensor([3.0, -1.0, 0.0, 1.0, -3.0, 2.0, 0.0, -0.0, 1.0, 5.0, -1.0, 0.5])
    params = {"a": x[:7], "b": x[7:11].reshape(2, 2), "c": x[11:]}
    found = largest(params, torch.tensor(number))
    assert {name: value.shape for name, value in found.items()} == {name: x.shape for name, x in params.items()}
    assert (flatten(found).numpy() == by_hand(x.numpy(), number)).all()
    side_by_side = torch.func.vmap(lambda k: flatten(largest(params, k)))(torch.tensor([number, 3]))
    assert (side_by_side[0] == flatten(found)).all()


def test_nan_counts_as_largest() -> None:
    """So that θ that has diverged is not deployed as if it had not, and ratio 0 keeps everything."""
    x = {"a": torch.tensor([1.0, float("nan"), 3.0, -float("inf"), float("nan")])}
    kept = [largest(x, torch.tensor(number))["a"].tolist() for number in (1, 4, 2**62)]
    assert kept == [[False, True, False, False, False], [False, True, True, True, True], [True] * 5]


def test_one_client_is_masking_again_and_again() -> None:
    """θ ← θ − (θ⊙M − its steps on kept coordinates), without any effect of a mean; what is not kept stays as it is."""
    problem = {"dataset": {"name": "digits", "partition": {"name": "iid", "clients": 1}}}
    given = sections("fedsim", "digits")
    given["problem"] = {**given["problem"], **problem}
    given["algorithm"] = {"name": "pruned_fedsim", "lr": 0.1, "local_steps": 2, "ratios": 0.7}
    engine = open_engine(build(config(**{**given, "rounds": 3}), SoloCommunicator()))
    setup, server = engine.setup, engine.server["shared"]
    objective = setup.problem.objective
    theta, w = {name: x.clone() for name, x in server.items()}, objective.init_local(0)
    D = len(flatten(theta))
    for round in range(3):
        data = setup.problem.client_data.data(0, round)
        kept = torch.tensor(by_hand(flatten(theta).numpy(), num_kept(0.7, D)))
        masks = dict(zip(theta, torch.split(kept, [x.numel() for x in theta.values()]), strict=True))
        masks = {name: mask.reshape(theta[name].shape) for name, mask in masks.items()}
        start = {name: x * masks[name] for name, x in theta.items()}
        now = dict(start)
        for _ in range(2):
            of_theta, of_w = objective.gradients(now, w, data)
            now = {name: x - 0.1 * of_theta[name] * masks[name] for name, x in now.items()}
            w = {name: x - 0.1 * of_w[name] for name, x in w.items()}
        theta = {name: x - (start[name] - now[name]) for name, x in theta.items()}
    list(engine)
    np.testing.assert_allclose(flatten(engine.server["shared"]).numpy(), flatten(theta).numpy(), rtol=1e-12, atol=1e-15)


def sent_in_a_round(engine: AnyEngine) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """Return what the clients would send now, and the weights of its coordinates."""
    setup, server = engine.setup, engine.server
    method, objective, data = setup.algorithm, setup.problem.objective, setup.problem.client_data
    uplinks, weights = {}, {}
    for m in data.clients:
        message, seen = method.downlink(server, 0), data.data(m, 0)
        assert message is not None
        draws = method.draws(objective, m, 0, len(next(iter(seen.values()))))
        uplinks[m] = flatten(method.client(objective, message, engine.group.state(m), seen, draws).uplink)
        mask = method.coordinate_weights(server, 0, m)
        assert mask is not None
        weights[m] = flatten(mask)
    return uplinks, weights


@pytest.mark.parametrize("plain", PLAIN)
def test_masks_are_averaged_by_counts(plain: str) -> None:
    """θ_j moves by the mean over those that keep j, and not at all where nobody does; counts are whole numbers."""
    ratios = [0.2, 0.5, 0.9, 0.99, 0.95, 0.8]
    engine = started(plain, ratios=ratios, rounds=1)
    before = flatten(engine.server["shared"]).clone()
    uplinks, weights = sent_in_a_round(engine)
    counts = sum(weights.values(), torch.zeros_like(before))
    D = len(before)
    assert [int(mask.sum()) for mask in weights.values()] == [num_kept(ratio, D) for ratio in ratios]
    assert (counts == counts.round()).all()
    assert counts.max() == len(ratios)
    assert (counts == 0).any()
    assert all((uplinks[m][weights[m] == 0] == 0).all() for m in uplinks)
    mean = sum(uplinks.values(), torch.zeros_like(before)) / counts.clamp(min=1)
    lr = engine.setup.algorithm.lr if plain == "ffgg" else 1.0  # type: ignore[attr-defined]
    scored = list(engine)
    after = flatten(engine.server["shared"])
    assert torch.equal(after[counts == 0], before[counts == 0])
    torch.testing.assert_close(after, before - lr * mean, rtol=1e-12, atol=1e-15)
    assert scored[-1].costs["uplink_bytes"] == 8 * sum(num_kept(ratio, D) for ratio in ratios)
    assert scored[-1].costs["downlink_bytes"] == 8 * D * len(ratios)


def test_the_mean_over_equal_masks_is_the_ordinary_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    weighed = played(started("fedalt", ratios=0.6))
    sent_before = Sent.__init__

    def unweighed(self: Sent, *given: Any) -> None:
        sent_before(self, *given)
        self.is_weighed = False

    monkeypatch.setattr(Sent, "__init__", unweighed)
    ordinary = played(started("fedalt", ratios=0.6))
    assert [one for one in ordinary if one[1] != "uplink_bytes"] == [one for one in weighed if one[1] != "uplink_bytes"]


def test_what_is_deployed_is_pruned_once_a_client_has_taken_part() -> None:
    engine = started("fedsim", ratios=0.75, rounds=2, cohort=2)
    setup = engine.setup
    assert isinstance(setup.algorithm, Pruned)
    list(engine)
    shared = engine.server["shared"]
    begun = setup.cohort(0) | setup.cohort(1)
    assert len(begun) < len(engine.group.clients)
    for m in engine.group.clients:
        theta, _ = setup.algorithm.view(engine.server, engine.group.state(m))
        wanted = flatten(shared).clone()
        if m in begun:
            wanted[~by_hand(wanted.numpy(), setup.algorithm.kept[m])] = 0.0
        assert torch.equal(flatten(theta), wanted)


@pytest.mark.parametrize("plain", PLAIN)
def test_ranks_and_chunks(plain: str) -> None:
    given = sections(plain, "digits", cohort=4)
    given["algorithm"] = {**given["algorithm"], "name": f"pruned_{plain}", "ratios": [0.1, 0.5, 0.9, 0.3, 0.0, 0.7]}
    checked = config(**given)

    def play(communicator: Any) -> bytes:
        engine = open_engine(build(checked, communicator))
        list(engine)
        return flatten(engine.server["shared"]).numpy().tobytes()

    alone = play(SoloCommunicator())
    assert all(found == alone for found in on_ranks(3, play))
    together = open_engine(build(config(**given, engine={"clients_per_chunk": 3}), SoloCommunicator()))
    list(together)
    wanted = torch.frombuffer(bytearray(alone), dtype=torch.float64)
    torch.testing.assert_close(flatten(together.server["shared"]), wanted, rtol=1e-9, atol=1e-12)


def test_as_many_ratios_as_clients() -> None:
    with pytest.raises(SharedUserError, match=r"algorithm\.ratios: 2 for 6 clients; one for each, or one for all"):
        started("fedsim", ratios=[0.5, 0.5])
