"""Jobs that are stopped, killed, and started twice: real ranks, real signals; a rank that dies ends its job."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ppfl.config.run import load
from ppfl.core.errors import UserError
from ppfl.jobs.failures import rank_log_path, read_failure
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.algorithms.cases import ADAPTORS, DIGITS
from tests.mpi.jobs import ATTACKED, CG, MESSAGES, VIRTUAL, arrays, claim_of, finish, job, left_beside, wait_for

pytestmark = pytest.mark.mpi

LYING: dict[str, Any] = {
    "strategic": {"clients": 2, "scale": 1.5, "noise": 0.1},
    "evaluate": {"every": 10, "tuned": {"epochs": 1}, "reports": ["squared_norm"]},
}
"""Noise and norms are drawn and told by round, whatever was stopped before it."""
LOSSY: dict[str, Any] = {
    "name": "log_normal", "up_bits_per_second": 2e3, "jitter_seconds": 0.5, "availability": 0.8, "drop_out": 0.1,
    "timeout_seconds": 4.0,
}  # fmt: skip
"""Clients that are away, drop out and come too late; those that were lost have worked."""
ENGINES: dict[str, dict[str, Any]] = {
    "rounds": LYING,
    "virtual": {**VIRTUAL, "rounds": 400},
    "compressed": {
        "compression": {"compressor": {"name": "top_k", "share": 0.1}}, "network": LOSSY, "cohort": 5, "rounds": 200,
    },
    "compressed arrivals": {
        **VIRTUAL, "rounds": 400, "network": LOSSY,
        "compression": {"compressor": {"name": "rand_k", "share": 0.2}},
    },
    "adaptors": {
        "problem": {**DIGITS, "split": ADAPTORS},
        "algorithm": {"name": "floral", "lr": 0.1, "local_steps": 2, "batch_size": 5, "router_lr": 0.3},
        "rounds": 60,
    },
    "buffered": {**VIRTUAL, **ATTACKED, "rounds": 400, "asynchronous": {**VIRTUAL["asynchronous"], "buffer": 6}},
    "query points": {
        **ATTACKED,
        "algorithm": {"name": "interpolation", "lr": "theory", "collaboration": 0.5, "main_clients": 3},
        "server_optimizer": {"name": "sgd"},
    },
    "mixing": {
        "algorithm": {"name": "pfedgraph", "lr": "theory", "local_steps": 2, "penalty": 0.5},
        "server_optimizer": {"name": "sgd"},
        "cohort": 6,
        "evaluate": {"every": 10, "tuned": {"epochs": 0}, "reports": ["mixing"]},
    },
    "gossip": {
        "algorithm": {
            "name": "motef", "lr": 0.001, "mixing": 0.3, "momentum": 0.2, "fine_tuner": CG,
            "compressor": {"name": "top_k", "share": 0.1},
        },
        "server_optimizer": {"name": "sgd"},
        "gossip": {"graph": {"name": "ring"}},
    },
}  # fmt: skip


class Undisturbed(dict[str, dict[str, bytes]]):
    """What a run holds that nothing disturbed, once somebody asks for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __missing__(self, engine: str) -> dict[str, bytes]:
        with job(1, self._folder / f"{engine}.h5", config=ENGINES[engine]) as process:
            finish(process)
        self[engine] = arrays(self._folder / f"{engine}.h5")
        assert len(self[engine]) > 20
        return self[engine]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    ("engine", "number", "ranks", "rounds"),
    [
        ("rounds", signal.SIGTERM, (3, 2, 1), (0, 250)),
        ("rounds", signal.SIGUSR1, (1, 3, 2), (100, 250)),
        ("virtual", signal.SIGUSR1, (2, 3, 1), (10, 25)),  # of a client: it has about 44
    ],
)
def test_a_signal_saves_and_stops_and_other_ranks_finish(
    tmp_path: Path,
    whole: Undisturbed,
    engine: str,
    number: signal.Signals,
    ranks: tuple[int, ...],
    rounds: tuple[int, int],
) -> None:
    out = tmp_path / "r.h5"
    for count, round in zip(ranks, rounds, strict=False):
        mark = tmp_path / f"stays-{round}"
        with job(count, out, mark, 0, round, config=ENGINES[engine]) as process:
            wait_for(process, mark)
            process.send_signal(number)
            process.send_signal(number)
            said = finish(process, 75)
        assert said.count("start again to continue") == 1, said
        assert left_beside(out) == {".checkpoint"}
    with job(ranks[2], out, config=ENGINES[engine]) as process:
        said = finish(process)
    assert "goes on at round" in said
    assert arrays(out) == whole[engine]
    assert left_beside(out) == set()


@pytest.mark.parametrize(
    ("engine", "rounds", "kills"),
    [
        ("rounds", 95, 4),
        pytest.param("compressed", 30, 3, marks=pytest.mark.slow),  # of a client: it has about 110
        pytest.param("compressed arrivals", 12, 3, marks=pytest.mark.slow),
        pytest.param("adaptors", 25, 2, marks=pytest.mark.slow),
        pytest.param("buffered", 10, 4, marks=pytest.mark.slow),  # of a client: it has about 44
        pytest.param("query points", 95, 4, marks=pytest.mark.slow),
        pytest.param("mixing", 60, 4, marks=pytest.mark.slow),  # of those in which a client takes part
        pytest.param("gossip", 95, 3, marks=pytest.mark.slow),
    ],
)
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    tmp_path: Path, whole: Undisturbed, engine: str, rounds: int, kills: int
) -> None:
    out, draw, gone_on, saved = tmp_path / "r.h5", random.Random(5), 0, 0
    current = out.with_name("r.h5.checkpoint") / "current.json"
    checkpoints = {**ENGINES[engine], "checkpoint": {"every_rounds": 20}}
    for attempt in range(kills):
        # it would end some day, and has a checkpoint or more until there
        stays = (tmp_path / f"stays-{attempt}", 0, rounds * (attempt + 1))
        with job(1 + attempt % 3, out, *stays, config=checkpoints) as process:
            wait_for(process, current, lambda old=saved: json.loads(current.read_text())["round"] > old)
            time.sleep(draw.uniform(0.0, 0.05))
            os.kill(claim_of(out)["pid"], signal.SIGKILL)
            gone_on += "goes on at round" in process.communicate(timeout=60)[0]
            saved = json.loads(current.read_text())["round"]
    with job(2, out, config=checkpoints) as process:
        finish(process)
    assert gone_on == kills - 1
    assert arrays(out) == whole[engine]
    assert left_beside(out) == set()


@pytest.mark.parametrize("config", [{}, MESSAGES], ids=["rounds", "messages"])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raise", "RuntimeError: something broke"),
        ("exit", "SystemExit: 3"),
        ("leave", "exit code 0"),
        ("SIGKILL", "killed by SIGKILL"),
        ("SIGSEGV", "killed by SIGSEGV"),
    ],
)
def test_a_rank_that_dies_ends_the_job_and_leaves_why(
    tmp_path: Path, config: dict[str, Any], how: str, reason: str
) -> None:
    out = tmp_path / "r.h5"
    with job(3, out, how, 1, 20, config={**config, "rounds": 1_000_000}) as process:
        said, _ = process.communicate(timeout=120)
        assert process.returncode not in (0, 2, 75), said
    failure = read_failure(out)
    assert failure is not None, said
    assert reason in failure.reason
    assert failure.rank == 1
    assert failure.round is not None
    log = rank_log_path(out, 1).read_text()
    assert reason in log
    assert f"on {failure.host}" in log
    if how == "raise":
        assert "sabotage.py" in log
        assert any("sabotage.py" in line for line in failure.log_tail)
    elif how == "SIGSEGV":
        assert "sabotage.py" in log


def test_the_others_do_not_outlive_a_dead_rank_by_more_than_seconds(tmp_path: Path) -> None:
    out = tmp_path / "r.h5"
    with job(3, out, config={"rounds": 1_000_000}) as process:
        wait_for(process, out)
        os.kill(claim_of(out)["pid"], signal.SIGKILL)
        killed = time.monotonic()
        finish(process, 9, seconds=20)
        assert time.monotonic() - killed < 20
    failure = read_failure(out)
    assert failure is not None
    assert (failure.rank, "SIGKILL" in failure.reason) == (0, True)


def test_a_success_removes_the_note_of_a_failure(tmp_path: Path) -> None:
    out = tmp_path / "r.h5"
    with job(2, out, "raise", 1, 20, config={"rounds": 60}) as process:
        process.communicate(timeout=120)
    assert left_beside(out) >= {".failed.json", ".rank-1.log"}
    with job(2, out, config={"rounds": 60}) as process:
        finish(process)
    assert left_beside(out) == set()


def test_a_second_job_on_a_run_is_refused_and_damages_nothing(tmp_path: Path, whole: Undisturbed) -> None:
    out, mark = tmp_path / "r.h5", tmp_path / "stays"
    with job(2, out, mark, 0, 100, config=ENGINES["rounds"]) as first:
        wait_for(first, mark)
        with pytest.raises(UserError, match=f"at work on it .process {claim_of(out)['pid']} on "):
            run(load(out.with_suffix(".yaml")), out, Silent())
        mark.unlink()
        finish(first)
    assert arrays(out) == whole["rounds"]
    assert left_beside(out) == set()


def test_a_second_job_says_who_is_at_work_and_ends_with_code_2(tmp_path: Path) -> None:
    out = tmp_path / "r.h5"
    with job(1, out, config={"rounds": 1_000_000}) as first:
        wait_for(first, out.with_name("r.h5.running.json"))
        with job(2, out, config={"rounds": 1_000_000}) as second:
            said = finish(second, 2)
        assert said.count(f"another job is at work on it (process {first.pid} on ") == 1, said
        # what the first is writing at this moment passes, what the second has left would stay
        wait_for(first, out.with_name("r.h5.running.json"), lambda: left_beside(out) == {".running.json"})
        first.send_signal(signal.SIGTERM)
        finish(first, 75)


@pytest.mark.parametrize(
    ("sections", "rules"),
    [
        pytest.param({}, {}, id="mean"),
        pytest.param(ATTACKED, {"buffer": 5}, id="buffered", marks=pytest.mark.slow),
    ],
)
def test_by_messages_it_goes_on_and_its_log_replays(
    tmp_path: Path, sections: dict[str, Any], rules: dict[str, Any]
) -> None:
    out = tmp_path / "r.h5"
    config = {**sections, "rounds": 800, "asynchronous": {**MESSAGES["asynchronous"], **rules}}
    for ranks, number in ((3, 3), (2, 8)):  # of a client of rank 0: it has dozens
        mark = tmp_path / f"stays-{number}"
        with job(ranks, out, mark, 0, number, config=config) as process:
            wait_for(process, mark)
            process.send_signal(signal.SIGTERM)
            finish(process, 75)
    with job(3, out, config=config) as process:
        finish(process)
    again = tmp_path / "again.h5"
    config = {**config, "asynchronous": {"engine": "virtual", "replay": str(out), **rules}}
    with job(1, again, config=config) as process:
        finish(process)
    live, replayed = arrays(out), arrays(again)
    assert "rounds/virtual_seconds" in replayed
    assert {key: replayed[key] for key in live} | {"arrivals/seconds": b""} == live | {"arrivals/seconds": b""}
