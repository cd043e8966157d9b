"""Series of what clients tell: kept for those that took part, the same whatever ranks and engines do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import ppfl
from ppfl.algorithms.ffgg import FFGG
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import Config, load
from ppfl.core.agree import SharedUserError
from ppfl.core.communicator import Communicator
from ppfl.engine.choose import open_engine
from ppfl.engine.ledger import Scored
from ppfl.engine.lockstep import Lockstep
from ppfl.engine.mapping.joint import Joint
from ppfl.engine.mapping.laned import Laned
from ppfl.engine.synchronous import Synchronous
from ppfl.runs.assemble import build
from ppfl.runs.experiment import run as run_experiment
from ppfl.runs.progress import Silent
from tests.engine.build import config, engine, ffgg
from tests.engine.each_run import scores_of_each
from tests.engine.interrupted import go_on
from tests.engine.test_mapping import one_by_one
from tests.engine.test_partial import CLOCK, MESSAGES, NUM_CLIENTS, document
from tests.ranks import on_ranks
from tests.supervised_problems import CNN, CONFIG

LOSS = "report_loss_before"
SMALL = {"name": "quadratic", "generator": "comparison", "clients": 4, "rows": 20}


def telling(folder: Path, *names: str, every: int = 2, **sections: Any) -> Config:
    evaluate = {"every": every, "tuned": {"epochs": 0}, "reports": list(names or ["loss_before"])}
    return config(**document(folder, "partial_news", evaluate=evaluate, **sections))


def scores(checked: Config, communicator: Communicator | None = None) -> list[Scored]:
    return list(open_engine(build(checked, communicator or SoloCommunicator())))


def series(scored: list[Scored], name: str = LOSS) -> np.ndarray:
    return np.stack([np.asarray(one.metrics[name]) for one in scored])


def test_each_row_has_what_was_told_last_since_the_row_before(tmp_path: Path) -> None:
    checked = telling(tmp_path, every=1, cohort=2)
    every = series(scores(checked))
    setup = build(checked, SoloCommunicator())
    assert every.shape == (8, NUM_CLIENTS)
    assert np.isnan(every[0]).all()
    for round in range(7):
        assert {m for m in range(NUM_CLIENTS) if not np.isnan(every[round + 1, m])} == setup.cohort(round)
    third = series(scores(telling(tmp_path, every=3, cohort=2)))
    for row, rounds in enumerate([(1, 2, 3), (4, 5, 6), (7,)], start=1):
        wanted = np.full(NUM_CLIENTS, np.nan)
        for round in rounds:
            wanted = np.where(np.isnan(every[round]), wanted, every[round])
        np.testing.assert_array_equal(third[row], wanted)


def test_what_is_told_is_what_the_client_computed(tmp_path: Path) -> None:
    """At round 1 the loss of the initial θ, as scored at round 0."""
    scored = scores(telling(tmp_path, every=1))
    assert np.mean(series(scored)[1]) == pytest.approx(float(scored[0].metrics["loss"]))


@pytest.mark.parametrize("sections", [{}, {"cohort": 2}, {**CLOCK, "rounds": 23}], ids=["all", "sampled", "clock"])
def test_ranks_and_interruptions_do_not_change_a_bit(tmp_path: Path, sections: dict[str, Any]) -> None:
    """A stop between two rows loses nothing of what was told before it."""
    checked = telling(tmp_path, "loss_before", "shared_gradients", every=3, **sections)
    alone = scores(checked)
    wanted = [series(alone, name).tobytes() for name in (LOSS, "report_shared_gradients")]
    for found in on_ranks(3, lambda communicator: scores(checked, communicator)):
        assert [series(found, name).tobytes() for name in (LOSS, "report_shared_gradients")] == wanted
    before = on_ranks(2, lambda communicator: go_on(communicator, tmp_path, 5, checked=checked)[1])[0]
    _, after = go_on(SoloCommunicator(), tmp_path, None, checked=checked)
    assert len(before) < len(alone)
    assert [series(before + after, name).tobytes() for name in (LOSS, "report_shared_gradients")] == wanted


def test_messages_tell_what_their_replay_tells(tmp_path: Path) -> None:
    """Of jobs that have arrived, whichever rank had them."""

    def by_messages(communicator: Communicator) -> tuple[Any, list[Scored]]:
        running = open_engine(build(checked, communicator))
        assert not isinstance(running, Synchronous)
        scored = list(running)
        return running.arrivals.arrays(), scored

    checked = telling(tmp_path, every=7, **MESSAGES, rounds=30)
    log, wanted = on_ranks(2, by_messages)[0]
    setup = build(telling(tmp_path, every=7, **CLOCK, rounds=30), SoloCommunicator())
    replayed = list(open_engine(replace(setup, compute_times=None, replay=log)))
    assert series(replayed).tobytes() == series(wanted).tobytes()
    assert np.isfinite(series(wanted)[1:]).any(axis=1).all()


class Telling(FFGG):
    """FFGG that tells the loss it begins with: a function of lanes."""

    def client(self, objective: Any, message: Any, state: Any, data: Any, draws: Any) -> Any:
        step = super().client(objective, message, state, data, draws)
        return replace(step, report={**step.report, "loss_before": objective.loss(message, state["local"], data)})


def test_lanes_of_one_run_and_of_several_tell_what_a_loop_tells() -> None:
    def setup(seed: int) -> Any:
        evaluate = {"every": 2, "reports": ["loss_before"]}
        made = build(config(problem=SMALL, rounds=5, seed=seed, evaluate=evaluate), SoloCommunicator())
        return replace(made, algorithm=Telling(**dict(made.algorithm)))

    wanted = [series(list(one_by_one(Synchronous(setup(seed))))).tobytes() for seed in (0, 1)]
    running = Synchronous(setup(0))
    assert isinstance(running.group.mapping, Laned)
    assert series(list(running)).tobytes() == wanted[0]
    together = scores_of_each(Lockstep([setup(0), setup(1)]))
    assert [series(one).tobytes() for one in together] == wanted


def test_clients_that_are_added_up_tell_each_its_own() -> None:
    network = {**CONFIG, "model": {**CNN, "channels": [4, 4], "normalization": "none"}}
    gd = {"name": "gradient_descent", "steps": 3, "lr": 0.1}
    running = engine(
        problem=network, algorithm=ffgg(gd, 0.1), precision="float32", engine={"clients_per_chunk": 2}, cohort=2,
        rounds=2, evaluate={"every": 1, "reports": ["local_gradients"]},
    )  # fmt: skip
    assert isinstance(running.group.mapping, Joint)
    found = series(list(running), "report_local_gradients")
    for round in range(2):
        told = {m for m in range(found.shape[1]) if found[round + 1, m] == 3.0}
        assert told == running.setup.cohort(round)
        assert np.isnan(found[round + 1]).sum() == found.shape[1] - 2


@pytest.mark.parametrize("sections", [{}, {"cohort": 1}, CLOCK], ids=["all", "one", "clock"])
def test_what_nobody_tells_is_refused_after_the_first_round(tmp_path: Path, sections: dict[str, Any]) -> None:
    checked = telling(tmp_path, "loss_before", "loss_after", every=1, **sections)
    wanted = (
        r"^evaluate.reports: clients of 'partial_news' tell local_gradients, loss_before, shared_gradients, and no "
        r"loss_after$"
    )
    seen: list[int] = []

    def on_rank(communicator: Communicator) -> None:
        seen.extend(scored.round for scored in open_engine(build(checked, communicator)))

    for size in (1, 3):
        with pytest.raises(SharedUserError, match=wanted):
            on_ranks(size, on_rank)
    assert set(seen) == {0}


def test_the_file_has_them_and_the_digest_without_them_is_the_old_one(tmp_path: Path) -> None:
    plain = {"name": "told", "rounds": 4, "problem": SMALL, "algorithm": ffgg({"name": "exact"})}
    asked = {**plain, "evaluate": {"every": 2, "reports": ["local_gradients"]}}
    for name, given in {"plain": plain, "asked": asked}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(given))
    digests = [load(tmp_path / "plain.yaml", changes).digest for changes in ([], ["evaluate.reports=[]"])]
    assert digests[0] == digests[1] != load(tmp_path / "asked.yaml", ["evaluate.every=10"]).digest
    assert "reports" not in str(load(tmp_path / "plain.yaml").scientific())
    run_experiment(load(tmp_path / "asked.yaml"), tmp_path / "r.h5", Silent())
    found = ppfl.open_result(tmp_path / "r.h5")["rounds"]["report_local_gradients"]
    assert found.dims == ("round", "client")
    assert np.isnan(found.sel(round=0)).all()
    assert (found.sel(round=[2, 4]) == 0.0).all()
