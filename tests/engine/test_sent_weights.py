"""Weights that clients send with what they weigh: the plug-in `trusted_rows` of tests/examples/partial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import Config
from ppfl.core.agree import SharedUserError
from ppfl.core.communicator import LocalParameterError
from ppfl.core.errors import UserError
from ppfl.core.types import Params
from ppfl.engine.choose import open_engine
from ppfl.engine.exchange.sent import Sent
from ppfl.engine.exchange.sums import weighted_mean
from ppfl.engine.mapping.batched import Batched
from ppfl.engine.mapping.mapping import Uplink, UplinkRows, UplinkSum
from ppfl.engine.setup import Setup
from ppfl.runs.assemble import build
from tests.engine.build import config
from tests.engine.test_partial import LR, PLUG_INS, ROUNDS, STEPS, run, told
from tests.numpy_reference import Array, random_clients, write_clients
from tests.ranks import on_ranks

NUM_CLIENTS, D, PARTS = 5, 6, 3
PLAIN = {"name": "fedsim", "lr": LR, "local_steps": STEPS}


def document(folder: Path, parts: int = PARTS, **sections: Any) -> dict[str, Any]:
    """Return a run on clients in a file, of whom each has a fixed w."""
    path = folder / "clients.h5"
    if not path.exists():
        write_clients(path, random_clients(NUM_CLIENTS, shared=D, local=2))
    return {
        "problem": {"name": "quadratic", "file": str(path)},
        "algorithm": {"name": "trusted_rows", "lr": LR, "local_steps": STEPS, "parts": parts},
        "rounds": ROUNDS, "plugins": [PLUG_INS], "evaluate": {"every": 2, "tuned": {"epochs": 0}}, **sections,
    }  # fmt: skip


def opened(folder: Path, trust: Array, **sections: Any) -> Any:
    """Return an engine whose clients have w as given, (M, 2)."""
    running = open_engine(build(config(**document(folder, **sections)), SoloCommunicator()))
    for m, row in enumerate(trust):
        running.group.keep(m, {"local": {"w": torch.tensor(row)}})
    return running


def moved_alone(running: Any) -> tuple[Array, Array]:
    """Return what every client of round 0 sends by itself, (M, PARTS, D/PARTS), and its trust, (M, PARTS)."""
    setup, sent = running.setup, []
    for m in range(NUM_CLIENTS):
        message, data = setup.algorithm.downlink(running.server, 0), setup.problem.client_data.data(m, 0)
        sent.append(setup.algorithm.client(setup.problem.objective, message, running.group.state(m), data, {}).uplink)
    return tuple(np.stack([one[name].numpy() for one in sent]) for name in ("theta", "trust"))  # type: ignore[return-value]


def test_each_row_is_the_mean_with_the_weights_of_those_who_sent_them(tmp_path: Path) -> None:
    """Part 1 counts for nobody, and its rows stay as they are."""
    trust = np.abs(np.random.default_rng(0).normal(size=(NUM_CLIENTS, 2)))
    trust[:, 1] = 0.0
    running = opened(tmp_path, trust, rounds=1)
    before = running.server["shared"]["theta"].numpy().reshape(PARTS, -1).copy()
    moved, weights = moved_alone(running)
    list(running)
    after = running.server["shared"]["theta"].numpy().reshape(PARTS, -1)
    assert np.array_equal(after[1], before[1])
    for part in (0, 2):
        wanted = before[part] - weights[:, part] @ moved[:, part] / weights[:, part].sum()
        np.testing.assert_allclose(after[part], wanted, rtol=1e-13)


def test_weights_of_one_are_the_plain_mean(tmp_path: Path) -> None:
    """Bit for bit."""
    running = opened(tmp_path, np.ones((NUM_CLIENTS, 2)), rounds=1)
    moved, _ = moved_alone(running)
    before = running.server["shared"]["theta"].clone()
    like = {"theta": torch.zeros(D, dtype=torch.float64)}
    alone = [Uplink(m, {"theta": torch.tensor(moved[m]).reshape(-1)}, {}) for m in range(NUM_CLIENTS)]
    plain = build(config(**document(tmp_path) | {"algorithm": PLAIN}), SoloCommunicator())
    mean = weighed(plain, alone, like)["theta"]
    list(running)
    assert torch.equal(running.server["shared"]["theta"], before - mean)


@pytest.mark.parametrize("sections", [{}, {"cohort": 3}, {"engine": {"client_state": "file"}}], ids=str)
def test_ranks_do_not_change_a_bit(tmp_path: Path, sections: dict[str, Any]) -> None:
    given = config(**document(tmp_path, **sections))
    wanted = told(*run(given))
    for size in (1, 2, 5):
        for found in on_ranks(size, lambda communicator: told(*run(given, communicator))):
            assert found == wanted


def test_chunks_give_what_single_clients_give(tmp_path: Path) -> None:
    alone = run(config(**document(tmp_path)))[0].server["shared"]["theta"]
    checked = config(**document(tmp_path, engine={"clients_per_chunk": 2}))
    running, scored = run(checked)
    assert isinstance(running.group.mapping, Batched)
    torch.testing.assert_close(running.server["shared"]["theta"], alone, rtol=1e-12, atol=1e-12)
    for found in on_ranks(2, lambda communicator: told(*run(checked, communicator))):
        assert found == told(running, scored)


def test_weights_are_sent_and_counted(tmp_path: Path) -> None:
    _, scored = run(config(**document(tmp_path)))
    assert scored[-1].costs["uplink_bytes"] == 8 * ROUNDS * NUM_CLIENTS * (D + PARTS)
    assert scored[-1].costs["downlink_bytes"] == 8 * ROUNDS * NUM_CLIENTS * D


def weighed(setup: Setup, uplinks: list[Any], like: Params) -> Params:
    sent = Sent(setup.algorithm, {"shared": {}}, uplinks, frozenset(range(NUM_CLIENTS)), like, 0)
    found = weighted_mean(setup, sent, frozenset(range(NUM_CLIENTS)), like)
    return dict(zip(like, torch.split(found, [value.numel() for value in like.values()]), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sums_are_exact(tmp_path: Path, dtype: torch.dtype) -> None:
    """One by one, as rows and in any order the bits are the same; weights of nobody, and what nobody weighs, too."""
    setup = build(config(**document(tmp_path)), SoloCommunicator())
    draw = torch.Generator().manual_seed(0)
    trust = torch.rand(NUM_CLIENTS, PARTS, generator=draw, dtype=dtype)
    theta = torch.randn(NUM_CLIENTS, PARTS, 2, 4, generator=draw, dtype=dtype) * 10.0 ** torch.arange(4)
    trust[:, 1], theta[0, 1] = 0.0, torch.nan
    rows = {"other": theta[:, 0, 0], "theta": theta, "trust": trust}
    like = {name: value[0] for name, value in rows.items()}
    single = [Uplink(m, {name: value[m] for name, value in rows.items()}, {}) for m in range(NUM_CLIENTS)]
    found = weighed(setup, single, like)
    for others in (single[::-1], [UplinkRows(range(NUM_CLIENTS), rows, [{}] * NUM_CLIENTS)]):
        for name, value in weighed(setup, others, like).items():
            assert torch.equal(value, found[name])
    wide, weights = theta.double(), trust.double()
    wanted = (
        torch.einsum("mc,mcij->cij", weights[:, [0, 2]], wide[:, [0, 2]]) / weights[:, [0, 2]].sum(0)[:, None, None]
    )
    of_parts = found["theta"].reshape(PARTS, 2, 4)
    torch.testing.assert_close(of_parts[[0, 2]], wanted, rtol=1e-14, atol=0)
    assert bool((of_parts[1] == 0).all())
    torch.testing.assert_close(found["trust"], weights.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(found["other"], wide[:, 0, 0].mean(0), rtol=1e-14, atol=0)


def test_weights_leave_a_client_only_where_they_are_announced(tmp_path: Path) -> None:
    """The guard covers them: what is not in `uplink_like` stays on its rank."""
    setup = build(config(**document(tmp_path)), SoloCommunicator())
    sent = {"trust": torch.ones(PARTS), "theta": torch.zeros(PARTS, 2)}
    with pytest.raises(LocalParameterError, match="the uplink of trusted_rows has trust, theta, but only theta"):
        weighed(setup, [Uplink(0, sent, {})], {"theta": torch.zeros(PARTS, 2)})


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    def refused(**sections: Any) -> Config:
        return config(**document(tmp_path, **sections))

    attack = {"attack": {"name": "sign_flip"}, "clients": 1, "placement": "beside"}
    with pytest.raises(SharedUserError, match=r"^algorithm.name: 'trusted_rows' weighs coordinates") as error:
        run(refused(byzantine=attack))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="other rules know no weights of rows"):
        run(refused(aggregator={"name": "median"}))
    with pytest.raises(UserError, match="a row is averaged over those of a cohort"):
        run(refused(asynchronous={"engine": "virtual"}, compute_times={"name": "exponential"}))
    setup = build(config(**document(tmp_path)), SoloCommunicator())
    like = {"trust": torch.zeros(PARTS), "theta": torch.zeros(PARTS, 2)}
    with pytest.raises(TypeError, match="adds clients up"):
        weighed(setup, [UplinkSum(range(NUM_CLIENTS), like, [{}] * NUM_CLIENTS)], like)


def test_weights_of_both_kinds_do_not_go_together(tmp_path: Path) -> None:
    setup = build(config(**document(tmp_path)), SoloCommunicator())

    class Both(type(setup.algorithm)):  # type: ignore[misc]
        def coordinate_weights(self, server: Any, round: int, client: int) -> Params:
            return {}

    algorithm = Both(**dict(setup.algorithm))
    with pytest.raises(TypeError, match="weighs coordinates twice"):
        Sent(algorithm, {}, [], frozenset([0]), {"trust": torch.zeros(1)}, 0)
