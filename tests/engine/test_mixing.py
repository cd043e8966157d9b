"""The exchange that gives each client of a cohort a mean of its own: the same bits everywhere, N×D on no rank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest
import torch

from ppfl.algorithms.pfedgraph import PFedGraph
from ppfl.comm.solo import SoloCommunicator
from ppfl.core.agree import SharedUserError
from ppfl.core.communicator import Communicator
from ppfl.engine.synchronous import Synchronous
from ppfl.results.reader import open_result
from ppfl.runs.assemble import build
from ppfl.runs.experiment import run as run_experiment
from ppfl.runs.progress import Silent
from tests.algorithms.cases import sections
from tests.engine.build import config, engine
from tests.engine.interrupted import go_on, merged
from tests.grids import ppfl
from tests.ranks import on_ranks

EVALUATE: dict[str, Any] = {"every": 2, "tuned": {"epochs": 0}, "reports": ["mixing", "shared_gradients"]}
NAME = "report_mixing"


def document(**others: Any) -> dict[str, Any]:
    return {**sections("pfedgraph", "digits", rounds=5, evaluate=EVALUATE), "weights": "samples", **others}


def finished(communicator: Communicator | None = None, **others: Any) -> tuple[Synchronous, list[Any]]:
    running = engine(communicator, **document(**others))
    return running, list(running)


ATTACK = {"attack": {"name": "sign_flip", "factor": 2.0}, "clients": 2}
CASES: dict[str, dict[str, Any]] = {
    "all": {},
    "sampled": {"cohort": 3},
    "in chunks, in a file": {"engine": {"clients_per_chunk": 2, "client_state": "file"}},
    "attackers": {"byzantine": ATTACK, "weights": "uniform"},
    "attackers beside": {"byzantine": {**ATTACK, "placement": "beside"}, "weights": "uniform", "cohort": 3},
    "a schedule, small messages": {
        "engine": {"bucket_bytes": 1024},
        "algorithm": {"name": "pfedgraph", "lr": 0.1, "epochs": 1, "batch_size": 5, "penalty": 0.2,
                      "lr_schedule": {"name": "linear"}},
    },
}  # fmt: skip


@pytest.mark.parametrize("others", CASES.values(), ids=list(CASES))
def test_ranks_and_interruptions_do_not_change_a_bit(tmp_path: Path, others: dict[str, Any]) -> None:
    whole = merged([finished(**others)])
    assert any(key[-1] == NAME for key in whole)
    for size in (2, 3):
        assert merged(on_ranks(size, lambda one: finished(one, **others))) == whole
    before = merged(on_ranks(2, lambda one: go_on(one, tmp_path, 3, **document(**others))))
    after = merged(on_ranks(3, lambda one: go_on(one, tmp_path, None, **document(**others))))
    assert {key: value for key, value in before.items() if key[0] == "scores"} | after == whole


def test_each_receives_its_row_of_the_weights_times_what_was_sent() -> None:
    running, scored = finished(evaluate={**EVALUATE, "every": 1}, rounds=1)
    W = torch.from_numpy(scored[1].metrics[NAME])
    sent: dict[int, torch.Tensor] = {}

    class Watching(PFedGraph):
        def client(self, objective: Any, message: Any, state: Any, data: Any, draws: Any) -> Any:
            step = super().client(objective, message, state, data, draws)
            sent[len(sent)] = torch.cat([value.flatten() for value in step.uplink.values()])
            return step

    setup = running.setup
    list(Synchronous(replace(setup, algorithm=Watching(**dict(setup.algorithm)))))
    uplinks = torch.stack([sent[m] for m in sorted(sent)])
    for client in running.group.clients:
        received = torch.cat([x.flatten() for x in running.group.state(client)["received"].values()])
        torch.testing.assert_close(received, W[client] @ uplinks, rtol=1e-12, atol=1e-15)


def test_who_is_not_in_the_cohort_keeps_what_it_had() -> None:
    running, scored = finished(cohort=3, evaluate={**EVALUATE, "every": 1}, rounds=4)
    last = running.setup.cohort(3)
    W = scored[-1].metrics[NAME]
    everybody = range(running.setup.problem.client_data.num_clients)
    assert {m for m in everybody if np.isfinite(W[m]).all()} == last
    np.testing.assert_allclose(W[sorted(last)].sum(axis=1), 1.0, rtol=1e-14)
    assert not W[sorted(last)][:, sorted(set(everybody) - last)].any()
    three, _ = finished(cohort=3, rounds=3)
    for client in set(everybody) - last:
        assert fingerprint_of(running, client) == fingerprint_of(three, client)


def fingerprint_of(running: Synchronous, client: int) -> list[bytes]:
    return [x.numpy().tobytes() for group in running.group.state(client).values() for x in group.values()]


def test_attackers_beside_have_a_vote_and_no_row() -> None:
    byzantine = {**ATTACK, "placement": "beside"}
    algorithm = {**document()["algorithm"], "penalty": 1e300}
    _, scored = finished(byzantine=byzantine, weights="uniform", algorithm=algorithm)
    W = scored[-1].metrics[NAME]
    np.testing.assert_allclose(W, np.full_like(W, 1 / (len(W) + 2)), rtol=1e-14)


def test_sign_flippers_are_left_alone() -> None:
    """Turned round, they point the other way: nobody works with them where λ is small."""
    running, scored = finished(byzantine=ATTACK, weights="uniform",
                               algorithm={**document()["algorithm"], "penalty": 0.05})  # fmt: skip
    hostile, W = sorted(running.setup.roles.byzantine), scored[-1].metrics[NAME]
    honest = [m for m in range(len(W)) if m not in hostile]
    assert len(hostile) == 2
    assert not W[honest][:, hostile].any()


class Broken(PFedGraph):
    """One client of it sends NaN from round 2 on."""

    name: Literal["pfedgraph"]
    client_of_nan: int = 0

    def draws(self, objective: Any, client: int, round: int, num_samples: int) -> Any:
        is_broken = client == self.client_of_nan and round >= 1
        return {
            **super().draws(objective, client, round, num_samples),
            "factor": torch.tensor(np.nan if is_broken else 1.0),
        }

    def client(self, objective: Any, message: Any, state: Any, data: Any, draws: Any) -> Any:
        step = super().client(objective, message, state, data, draws)
        return replace(step, uplink={name: x * draws["factor"] for name, x in step.uplink.items()})


def broken(client: int, **others: Any) -> Synchronous:
    setup = build(config(**document(weights="uniform", **others)), SoloCommunicator())
    return Synchronous(replace(setup, algorithm=Broken(**{**dict(setup.algorithm), "client_of_nan": client})))


def test_nan_of_an_honest_client_is_divergence() -> None:
    running = broken(1)
    scored = list(running)
    assert running.status == "diverged"
    assert scored[-1].round == 2


def test_nan_of_an_attacker_is_left_out_and_counted() -> None:
    byzantine = {"attack": {"name": "label_flip"}, "clients": 1}
    (hostile,) = engine(**document(byzantine=byzantine)).setup.roles.byzantine
    running = broken(hostile, byzantine=byzantine)
    scored = list(running)
    assert running.status == "complete"
    assert scored[-1].costs["nonfinite_clients"] == 4
    W = scored[-1].metrics[NAME]
    others = [m for m in range(len(W)) if m != hostile]
    np.testing.assert_allclose(W[others].sum(axis=1), 1.0, rtol=1e-14)
    assert not W[others][:, hostile].any()
    assert np.isnan(W[hostile]).all()


def test_bytes_are_those_of_what_each_sends_and_receives() -> None:
    running, scored = finished(cohort=3)
    a_vector = sum(8 * value.numel() for value in running.server["shared"].values())
    assert scored[-1].costs["uplink_bytes"] == scored[-1].costs["downlink_bytes"] == 5 * 3 * a_vector


class Counting:
    """A communicator that knows the largest tensor that came to this rank."""

    def __init__(self, inner: Communicator) -> None:
        self._inner = inner
        self.most = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in ("allreduce", "allgather_rows", "rows_to_columns", "columns_to_rows", "broadcast"):
            return found

        def counted(*arguments: Any, **named: Any) -> Any:
            received = found(*arguments, **named)
            self.most = max(self.most, received.numel(), arguments[0].numel())
            return received

        return counted


def test_no_rank_has_all_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in what it sends or is sent, nor in a matrix: columns of its share, rows of its clients."""
    from ppfl.rows import client_matrix, client_rows

    for module in (client_matrix, client_rows):
        monkeypatch.setattr(module, "block_columns", lambda device: 16)
    monkeypatch.setattr(client_rows, "BLOCK_COLUMNS", 16)
    held: list[int] = []
    original = client_rows.ClientRows.__init__

    def noting(self: Any, communicator: Any, columns: torch.Tensor, *others: Any) -> None:
        held.append(columns.numel())
        original(self, communicator, columns, *others)

    monkeypatch.setattr(client_rows.ClientRows, "__init__", noting)

    def most(inner: Communicator) -> tuple[int, int, int]:
        one = Counting(inner)
        running = engine(one, **document(rounds=2, evaluate={"every": 9, "tuned": {"epochs": 0}}))
        list(running)
        dimension = sum(value.numel() for value in running.server["shared"].values())
        return one.most, dimension, running.setup.problem.client_data.num_clients

    found = on_ranks(3, most)
    _, dimension, number = found[0]
    assert max(one for one, _, _ in found) <= 0.5 * number * dimension
    assert 0 < max(held) <= 0.5 * number * dimension


def test_the_result_has_weights_of_pairs(tmp_path: Path) -> None:
    run_experiment(config(**document()), tmp_path / "r.h5", Silent(), SoloCommunicator())
    (tmp_path / "all").mkdir()
    weights = open_result(tmp_path / "r.h5").rounds[NAME]
    assert weights.dims == ("round", "client", "partner")
    assert weights.partner.to_numpy().tolist() == weights.client.to_numpy().tolist()
    assert np.isnan(weights.sel(round=0)).all()
    np.testing.assert_allclose(weights.sel(round=[2, 4, 5]).sum("partner"), 1.0, rtol=1e-14)
    collected = ppfl("collect", tmp_path, "--clients", "--out", tmp_path / "all" / "grid.h5")
    assert collected.exit_code == 0, collected.stderr
    with h5py.File(tmp_path / "all" / "grid.h5") as file:
        assert "report_shared_gradients" in file
        assert NAME not in file


def test_reports_that_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = {"every": 1, "reports": ["mixing", "nothing"]}
    with pytest.raises(SharedUserError, match="tell local_gradients, mixing, shared_gradients, and no nothing"):
        list(engine(**document(evaluate=evaluate)))
    with pytest.raises(SharedUserError, match=r"clients of 'fedsim' tell .* and no mixing"):
        list(engine(**sections("fedsim", "digits", evaluate=evaluate)))
    monkeypatch.setattr("ppfl.engine.history.MOST_BYTES", 1000)
    with pytest.raises(SharedUserError, match=r"^evaluate\.reports: mixing of 6 clients .* allowed: fewer evaluations"):
        engine(**document())
