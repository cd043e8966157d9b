"""Timing without arithmetic: the numbers of the run itself, whose clients are never asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.agree import SharedUserError
from ppfl.engine.choose import open_engine
from ppfl.engine.timing import COUNTED, Arrivals, series
from ppfl.runs.assemble import build
from tests import examples
from tests.engine.build import config
from tests.engine.test_network import CLOCK, LINKS, LOSSY, RULE, SMALL, WARM, ffgg

DIGITS = {**examples.section("problems", "supervised"), "split": {"local": ["head.*"]}}
WIRELESS: dict[str, Any] = {
    "name": "wireless", "bandwidth_hz": 1e5, "snr_db": {"low": 0.0, "high": 20.0}, "computing_seconds": 0.5,
    "personal_seconds": 0.1, "drop_out": 0.2, "timeout_seconds": 3.0,
}  # fmt: skip
COMPRESSED: dict[str, Any] = {"compression": {"compressor": {"name": "rand_k", "k": 2}}}
CASES: dict[str, dict[str, Any]] = {
    "rounds": {"cohort": 7, "rounds": 9},
    "compute times alone": {"network": None, "compute_times": {"name": "pareto"}},
    "rule": {**RULE, "rounds": 9},
    "asynchronous": CLOCK,
    "asynchronous rule": {**CLOCK, **RULE, "asynchronous": {"engine": "virtual", "buffer": 4, "max_staleness": 6}},
    "masks": {"problem": DIGITS, "algorithm": examples.section("algorithms", "pruned_fedsim"), "cohort": 4},
    "masks by band": {
        "problem": DIGITS, "algorithm": examples.section("algorithms", "pruned_ffgg"), "network": WIRELESS,
    },
    "coins": {"algorithm": examples.section("algorithms", "l2gd_theta"), "network": LINKS, "rounds": 20},
    "coins, sampled": {
        "algorithm": examples.section("algorithms", "l2gd_theta"), "network": LINKS, "rounds": 20, "cohort": 3,
    },
    "query points": {
        "problem": DIGITS, "network": LINKS, "cohort": 4,
        "algorithm": {**examples.section("algorithms", "interpolation"), "main_clients": 2},
    },
    "mixing": {
        "problem": DIGITS, "algorithm": examples.section("algorithms", "pfedgraph"),
        "network": {**LINKS, **LOSSY, "timeout_seconds": 60.0, "least_arrivals": 3}, "rounds": 12,
    },
    "compressed": {**COMPRESSED, "cohort": 6},
    "compressed arrivals": {**COMPRESSED, **CLOCK},
    "neighbours": {
        # whose first message is longer than those after it
        "algorithm": {**examples.section("algorithms", "motef"), "compressor": {"name": "top_k", "share": 0.2}},
        "gossip": {"graph": {"name": "ring"}}, "network": LINKS,
        "compute_times": {"name": "exponential"},
    },
    "nothing sent": {"algorithm": examples.section("algorithms", "local_only")},
    "control variates": {
        "problem": DIGITS, "algorithm": examples.section("algorithms", "scaffold_theta"), "network": LINKS,
    },
}  # fmt: skip


def refuse(*_: Any) -> None:
    raise AssertionError("a client was asked")


@pytest.mark.parametrize("case", CASES)
def test_timing_says_what_the_run_will_record(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {
        "problem": SMALL, "algorithm": ffgg(WARM, 0.01), "network": {**LINKS, **LOSSY}, "rounds": 6,
        "evaluate": {"every": 1, "tuned": {"epochs": 0}}, **CASES[case],
    }  # fmt: skip
    setup = build(config(**document), SoloCommunicator())
    scored = list(open_engine(setup))
    with monkeypatch.context() as patch:
        patch.setattr(type(setup.algorithm), "client", refuse)
        found = series(setup)
    assert found["round"].tolist() == [row.round for row in scored]
    for name in COUNTED:
        if name in scored[-1].costs:
            assert found[name].tolist() == [row.costs[name] for row in scored], name
    assert {"virtual_seconds", "uplink_bytes", "downlink_bytes"} <= scored[-1].costs.keys()
    assert (np.diff(found["virtual_seconds"]) >= 0).all()


@pytest.mark.parametrize("rules", [{}, RULE], ids=["mean", "rule"])
def test_versions_are_those_of_the_run(rules: dict[str, Any]) -> None:
    """A method of one's own may send messages that are longer in some versions than in others."""
    document = {
        "problem": SMALL, "algorithm": ffgg(WARM, 0.01), "network": LINKS, **CLOCK, **rules, "rounds": 60,
        "asynchronous": {"engine": "virtual", "concurrency": 6, "buffer": 4, "max_staleness": 1},
        "compute_times": {"name": "pareto"}, "evaluate": {"every": 1, "tuned": {"epochs": 0}},
    }  # fmt: skip
    setup = build(config(**document), SoloCommunicator())
    _, *scored = open_engine(setup)
    assert scored[-1].costs["dropped_arrivals"] > 0
    assert not rules or scored[-1].costs["replaced_arrivals"] > 0
    arrivals, versions = Arrivals(setup), []
    for _ in scored:
        arrivals.arrive()
        versions.append(arrivals.version)
    assert versions == [one.costs["server_updates"] for one in scored]


def test_the_times_of_real_messages_are_refused() -> None:
    document = {"problem": SMALL, "algorithm": ffgg(WARM, 0.01), "asynchronous": {"engine": "messages"}}
    with pytest.raises(SharedUserError, match=r"asynchronous\.engine: 'virtual'"):
        series(build(config(**document), SoloCommunicator()))


def test_timeouts_in_which_nothing_arrives_end() -> None:
    document = {
        "problem": SMALL, "algorithm": ffgg(WARM, 0.01), "network": {**LINKS, "timeout_seconds": 0.1},
        **CLOCK, "asynchronous": {"engine": "virtual", "concurrency": 1},
    }  # fmt: skip
    setup = build(config(**document), SoloCommunicator())
    for go in (lambda: series(setup), lambda: list(open_engine(setup))):
        with pytest.raises(SharedUserError, match=r"network\.timeout_seconds: 1000 jobs in a row"):
            go()
