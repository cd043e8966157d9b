"""The best round by validation: which it is, what is kept of it, and when a run ends because none was better."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.errors import ConfigError
from ppfl.config.run import Config
from ppfl.core.agree import SharedUserError
from ppfl.core.communicator import Communicator
from ppfl.engine.choose import AnyEngine, open_engine
from ppfl.engine.final_stages import final_stages
from ppfl.engine.ledger import Scored
from ppfl.engine.synchronous import Synchronous
from ppfl.interfaces.best_round import BestRound
from ppfl.runs.assemble import build
from ppfl.submit.memory import memory_mb
from tests.engine.build import config, ffgg
from tests.engine.interrupted import go_on, merged
from tests.ranks import on_ranks
from tests.supervised_problems import CONFIG

CLOCK: dict[str, Any] = {
    "asynchronous": {"engine": "virtual", "concurrency": 4}, "compute_times": {"name": "exponential"}, "rounds": 60,
}  # fmt: skip
SAMPLED: dict[str, Any] = {"cohort": 3}
STEPS = {"name": "gradient_descent", "steps": 3, "lr": 0.5}


def document(patience: int | None = None, metric: str = "loss", min_delta: float = 0.0, **sections: Any) -> Any:
    """Return a run whose validation loss soon goes up and down."""
    rule = {"metric": metric, "min_delta": min_delta, "patience": patience}
    evaluate = {"every": 2, "history": True, "best_round": rule, "tuned": {"epochs": 1}}
    return {"problem": CONFIG, "algorithm": ffgg(STEPS, 1.5), "rounds": 30, "evaluate": evaluate, **sections}


def run(checked: Config, communicator: Communicator | None = None) -> tuple[AnyEngine, list[Scored]]:
    engine = open_engine(build(checked, communicator or SoloCommunicator()))
    return engine, list(engine)


def bits(engine: AnyEngine) -> dict[Any, bytes]:
    """Return what is found at the end, and what of the best round."""
    stages = final_stages(engine)
    found = {(stage, metric): values.tobytes() for stage, of in stages.scores.items() for metric, values in of.items()}
    assert engine.best is not None
    return {**found, "facts": repr(engine.best.facts).encode()}


def expected(values: list[float], rule: BestRound) -> tuple[int, int]:
    """Return which evaluation is the best and which the last one, from the definition."""
    best, sign = 0, 1.0 if rule.metric == "loss" else -1.0
    for number in range(1, len(values)):
        if sign * values[number] < sign * values[best] - rule.min_delta:
            best = number
        elif rule.patience is not None and number - best >= rule.patience:
            return best, number
    return best, len(values) - 1


@pytest.mark.parametrize("sections", [{}, SAMPLED, CLOCK], ids=["rounds", "sampled", "clock"])
@pytest.mark.parametrize(
    ("metric", "patience", "min_delta"),
    [("loss", None, 0.0), ("loss", 2, 0.0), ("accuracy", 2, 0.01), ("loss", 1, 0.3)],
)
def test_it_is_the_round_that_its_definition_says(
    metric: str, patience: int | None, min_delta: float, sections: dict[str, Any]
) -> None:
    """An early end changes nothing before it: the run is the beginning of the one that goes on."""
    whole = run(config(**document(**sections)))[1]
    values = [float(scored.metrics[f"validation_{metric}"]) for scored in whole]
    engine, scored = run(config(**document(patience, metric, min_delta, **sections)))
    assert engine.best is not None
    best, last = expected(values, engine.best.rule)
    assert (engine.best.round, engine.best.last_round) == (whole[best].round, whole[last].round)
    assert engine.best.value == values[best]
    assert engine.status == "complete"
    assert (
        merged([(engine, scored)]).items()
        >= {
            ("scores", one.round, name): np.asarray(value).tobytes()
            for one in whole[: last + 1]
            for name, value in one.metrics.items()
        }.items()
    )
    assert len(scored) == last + 1


@pytest.mark.parametrize("sections", [{}, SAMPLED, CLOCK], ids=["rounds", "sampled", "clock"])
def test_what_is_scored_at_the_end_is_what_was_scored_then(sections: dict[str, Any]) -> None:
    """Client by client; of θ and w of other rounds these are other numbers."""
    engine, scored = run(config(**document(patience=3, **sections)))
    assert engine.best is not None
    assert 0 < engine.best.round < engine.best.last_round
    of_round = {one.round: one.metrics for one in scored}
    stages = final_stages(engine).scores
    for stage, round in {"best_personal": engine.best.round, "personal": engine.best.last_round}.items():
        for metric, values in stages[stage].items():
            np.testing.assert_array_equal(values, of_round[round][f"client_{metric}"])
    assert list(stages) == ["global", "personal", "tuned", "best_global", "best_personal", "best_tuned"]
    assert not np.array_equal(stages["best_personal"]["test_loss"], stages["personal"]["test_loss"])
    assert not np.array_equal(stages["best_tuned"]["test_loss"], stages["tuned"]["test_loss"])


@pytest.mark.parametrize("engine", [{}, {"client_state": "file"}, {"clients_per_chunk": 2, "client_state": "file"}])
def test_the_last_round_may_be_the_best(engine: dict[str, Any]) -> None:
    """Wherever states are kept, and however they are dealt to chunks."""
    algorithm = ffgg({**STEPS, "lr": 0.01}, 0.01)
    running, _ = run(config(**document(algorithm=algorithm, engine=engine, rounds=4)))
    assert running.best is not None
    assert running.best.round == running.best.last_round == 4
    stages = final_stages(running)
    assert np.array_equal(stages.scores["best_tuned"]["test_loss"], stages.scores["tuned"]["test_loss"])
    assert stages.costs["best_tuned"] == stages.costs["tuned"]


@pytest.mark.parametrize("kept", [{"client_state": "file"}, {"clients_per_chunk": 2}])
def test_places_of_states_do_not_matter(kept: dict[str, Any]) -> None:
    """Chunks of several clients round otherwise, so they are compared with themselves on a device."""
    wanted, _ = run(config(**document(3, **SAMPLED, engine={**kept, "client_state": "device"})))
    found, _ = run(config(**document(3, **SAMPLED, engine={**kept, "client_state": "file"})))
    assert bits(found) == bits(wanted)


@pytest.mark.parametrize("sections", [{}, SAMPLED, CLOCK], ids=["rounds", "sampled", "clock"])
@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
def test_ranks_and_interruptions_do_not_change_a_bit(tmp_path: Path, sections: dict[str, Any], is_late: bool) -> None:
    """Neither before the best round nor after it, while the evaluations that are no better are counted."""
    checked = config(**document(patience=4, **sections))
    alone = run(checked)
    wanted, of_best = merged([alone]), bits(alone[0])
    best = alone[0].best
    assert best is not None
    stop_after = best.last_round - 4 if is_late else 3
    assert (best.round < stop_after) == is_late

    def whole(communicator: Communicator) -> Any:
        engine, scored = run(checked, communicator)
        return (engine, scored), bits(engine)

    def rest(communicator: Communicator) -> Any:
        engine, scored = go_on(communicator, tmp_path, None, checked=checked)
        return (engine, scored), bits(engine)

    found = on_ranks(3, whole)
    assert merged([one for one, _ in found]) == wanted
    assert all(mine == of_best for _, mine in found)
    stopped = on_ranks(2, lambda communicator: go_on(communicator, tmp_path, stop_after, checked=checked))
    assert stopped[0][0].status == "stopped"
    after = on_ranks(3, rest)
    assert merged([one for one, _ in after]).items() <= wanted.items()
    assert all(mine == of_best for _, mine in after)


def test_messages_find_what_their_replay_finds() -> None:
    """And end early on all ranks, whatever is under way."""

    def by_messages(communicator: Communicator) -> Any:
        engine, scored = run(checked, communicator)
        assert not isinstance(engine, Synchronous)
        return engine.arrivals.arrays(), scored, bits(engine)

    checked = config(**document(patience=1, asynchronous={"engine": "messages"}, rounds=200))
    log, scored, wanted = on_ranks(2, by_messages)[0]
    assert len(log["client"]) == scored[-1].round < 200
    setup = build(config(**document(patience=1, **{**CLOCK, "rounds": 200})), SoloCommunicator())
    # the rest of the log is never asked for
    longer = {name: np.resize(values, 200) for name, values in log.items()}
    cohort = build(checked, SoloCommunicator()).cohort
    replayed = open_engine(replace(setup, compute_times=None, replay=longer, cohort=cohort))
    assert [one.round for one in replayed] == [one.round for one in scored]
    assert bits(replayed) == wanted


def test_a_run_that_diverges_keeps_its_best_round() -> None:
    diverging = ffgg({**STEPS, "lr": 1e9}, 1e9)
    # and it has diverged, though there was no better round for as long as it takes to end
    engine, scored = run(config(**document(patience=1, algorithm=diverging, precision="float32")))
    assert engine.status == "diverged"
    assert engine.best is not None
    assert engine.best.round < scored[-1].round
    scores = final_stages(engine).scores
    assert np.isfinite(scores["best_personal"]["validation_loss"]).all()
    assert not np.isfinite(scores["personal"]["validation_loss"]).all()


def test_a_start_without_a_number_is_the_best_until_there_is_one() -> None:
    """As of a run that starts from parameters of one that diverged: there is always something to score at the end."""
    engine = open_engine(build(config(**document(patience=2)), SoloCommunicator()))
    assert engine.best is not None
    engine.best.judge(engine, Scored(0, {"validation_loss": math.nan}, {}))
    assert (engine.best.round, engine.best.numbers()["value"]) == (0, None)
    assert engine.best.server is engine.server
    engine.best.judge(engine, Scored(2, {"validation_loss": math.nan}, {}))
    assert (engine.best.round, engine.status) == (0, "running")
    engine.best.judge(engine, Scored(4, {"validation_loss": 9.0}, {}))
    assert (engine.best.round, engine.best.value) == (4, 9.0)


def test_nan_is_never_better_and_ties_are_not() -> None:
    rule = BestRound()
    assert not rule.is_better(math.nan, math.nan)
    assert not rule.is_better(math.nan, 1.0)
    assert rule.is_better(1.0, math.nan)
    assert not rule.is_better(1.0, 1.0)
    assert not BestRound(metric="accuracy", min_delta=0.5).is_better(1.0, 0.5)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"problem": {"name": "quadratic", "generator": "comparison"}},
            r"evaluate.best_round: .*no validation samples",
        ),
        ({"evaluate": {"best_round": {}, "parts": ["test"]}}, r"evaluate.parts: .*validation among them"),
        ({"evaluate": {"best_round": {"metric": "perplexity"}}}, r"evaluate.best_round.metric: .*'loss'"),
        ({"evaluate": {"best_round": {"patience": 0}}}, r"evaluate.best_round.patience: "),
        ({"evaluate": {"best_round": {"min_delta": -1.0}}}, r"evaluate.best_round.min_delta: "),
    ],
)
def test_what_cannot_be_judged_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**{**document(), **sections})


def test_data_without_validation_samples_are_refused_before_training() -> None:
    dataset = {**CONFIG["dataset"], "validation": 0.0}
    checked = config(**document(problem={**CONFIG, "dataset": dataset}))
    with pytest.raises(SharedUserError, match=r"^evaluate.best_round: no client has validation samples .*allowed: "):
        run(checked)


def test_a_task_without_accuracy_is_refused_before_training() -> None:
    engine = open_engine(build(config(**document(metric="accuracy")), SoloCommunicator()))
    assert engine.best is not None
    scored = Scored(0, {"loss": 1.0, "validation_loss": 1.0, "validation_r2": 0.5}, {})
    with pytest.raises(SharedUserError, match=r"^evaluate.best_round.metric: the task has no validation_accuracy"):
        engine.best.judge(engine, scored)


def test_a_job_asks_for_the_memory_of_both_states() -> None:
    wide = {**CONFIG, "model": {"name": "mlp", "hidden": [60_000]}, "split": {"local": ["*"]}}
    plain, asked = (config(**{**document(problem=wide), "evaluate": evaluate}) for evaluate in ({}, {"best_round": {}}))
    needed = [memory_mb([one], 1, gpus=False) for one in (plain, asked)]
    # 6 clients with 75 weights a unit in float64
    megabytes = 6 * 75 * 60_000 * 8 / 2**20
    assert needed[0] is not None
    assert needed[1] is not None
    # estimates are rounded
    assert needed[1] - needed[0] > megabytes - 100


def test_without_the_keys_a_run_is_the_one_that_it_was() -> None:
    plain = config(**{**document(), "evaluate": {"every": 2}})
    written = config(**{**document(), "evaluate": {"every": 2, "best_round": None, "history": False}})
    asked = config(**{**document(), "evaluate": {"every": 2, "best_round": {}}})
    assert plain.digest == written.digest != asked.digest
    assert "best_round" not in plain.to_yaml() + str(plain.scientific())
    assert "history" not in plain.to_yaml() + str(plain.scientific())
    wanted, scored = run(plain)
    found, of_asked = run(asked)
    assert merged([(found, of_asked)]) == merged([(wanted, scored)])
    assert torch.equal(found.server["shared"]["hidden1.weight"], wanted.server["shared"]["hidden1.weight"])
