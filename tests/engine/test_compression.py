"""Compressed uplinks: what is sent and remembered, by other hands, and that bits depend on nothing but the settings."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.errors import ConfigError
from ppfl.core.agree import SharedUserError
from ppfl.core.communicator import Communicator
from ppfl.engine.choose import AnyEngine, open_engine
from ppfl.engine.compressed import Compressed
from ppfl.engine.ledger import Scored
from ppfl.engine.lockstep import fits
from ppfl.engine.mapping.batched import Batched
from ppfl.engine.mapping.mapping import Uplink
from ppfl.engine.participants import Downlink
from ppfl.engine.synchronous import Synchronous
from ppfl.interfaces.personal_aggregates import PersonalAggregates
from ppfl.runs.assemble import build
from tests import examples
from tests.algorithms.cases import NAMES, sections
from tests.engine.build import EXACT, config, engine, ffgg
from tests.engine.interrupted import fingerprint
from tests.engine.test_interrupted import whole_and_pieces
from tests.ranks import on_ranks
from tests.supervised_problems import CNN, CONFIG

SMALL: dict[str, Any] = {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 5, "rows": 20}
EVALUATE: dict[str, Any] = {"every": 2, "tuned": {"epochs": 0}}
ROUNDS: dict[str, Any] = {"problem": SMALL, "rounds": 4, "evaluate": EVALUATE}
NETWORK: dict[str, Any] = {
    "problem": {**CONFIG, "model": {**CNN, "channels": [4, 4], "normalization": "none"}},
    "algorithm": ffgg({"name": "gradient_descent", "steps": 2, "lr": 0.1}, 0.1),
    "precision": "float32",
    "rounds": 2,
}
TOP: dict[str, Any] = {"compression": {"compressor": {"name": "top_k", "share": 0.1}}}
CLOCK: dict[str, Any] = {
    "asynchronous": {"engine": "virtual", "concurrency": 3}, "compute_times": {"name": "exponential"}, "rounds": 23,
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "mean": {},
    "rule": {"aggregator": {"name": "median"}},
    "attack beside": {"byzantine": {"attack": {"name": "sign_flip"}, "clients": 1, "placement": "beside"}},
    "scaled by a liar": {"strategic": {"clients": 1, "scale": -2.0}},
    "sampled": {"cohort": 3, "weights": "samples"},
    "states in a file": {"engine": {"client_state": "file"}},
    "clock": CLOCK,
    "buffer of a rule": {
        **CLOCK, "asynchronous": {"engine": "virtual", "buffer": 3}, "aggregator": {"name": "median"},
        "byzantine": {"attack": {"name": "sign_flip"}, "clients": ["1"]},
    },
    "best round": {
        **NETWORK, "rounds": 6,
        "evaluate": {"every": 2, "best_round": {"metric": "loss"}, "tuned": {"epochs": 1}},
    },
    "chunks": {**NETWORK, "engine": {"clients_per_chunk": 2}},
}  # fmt: skip
LOCAL = ffgg({"name": "gradient_descent", "steps": 2, "lr": 0.01}, 0.01)
HALVED: dict[str, Any] = {"name": "step", "every": 1, "decay": 0.5}
WHOLE = {
    "floral": "its adaptors are averaged by weights",
    "interpolation": "each client gets an aggregate of its own",
    "l2gd": "its clients send models",
    "l2gd_theta": "its clients send models",
    "local_only": "its clients send nothing",
    "pfedgraph": "each client gets an aggregate of its own",
    "pruned_fedalt": "its masks say already",
    "pruned_fedsim": "its masks say already",
    "pruned_ffgg": "its masks say already",
    "scaffold": "its c has to stay the mean",
    "scaffold_theta": "its c has to stay the mean",
}
"""Methods whose uplinks cannot be compressed, and how the reason begins."""


def run(communicator: Communicator | None = None, **document: Any) -> tuple[AnyEngine, list[Scored]]:
    running = open_engine(build(config(**{**ROUNDS, **document}), communicator or SoloCommunicator()))
    return running, list(running)


def bits(communicator: Communicator | None = None, **document: Any) -> dict[Any, bytes]:
    return fingerprint(*run(communicator, **document))


def compression(name: str, *, error_feedback: bool = True, **settings: Any) -> dict[str, Any]:
    compressor = {"name": name, **settings} if settings else examples.section("compressors", name)
    return {"compression": {"compressor": compressor, "error_feedback": error_feedback}}


@pytest.mark.parametrize("error_feedback", [True, False])
@pytest.mark.parametrize("sections", WAYS.values(), ids=list(WAYS))
def test_none_changes_no_bit(sections: dict[str, Any], error_feedback: bool) -> None:
    assert bits(**sections, **compression("none", error_feedback=error_feedback)) == bits(**sections)


@pytest.mark.parametrize(
    "method",
    # one that deploys other models than θ, and one whose steps are others in every round
    [{}, sections("ditto", "quadratic", rounds=4), {"algorithm": {**LOCAL, "lr_schedule": HALVED}}],
    ids=["ffgg", "ditto", "schedule"],
)
def test_what_loses_nothing_changes_no_bit_either(method: dict[str, Any]) -> None:
    """The same by way of the method that compresses, whose error memory stays 0."""
    document = {**ROUNDS, **method}
    plain = build(config(**document), SoloCommunicator())
    setup = build(config(**document, **compression("top_k", share=1.0)), SoloCommunicator())
    assert isinstance(setup.algorithm, Compressed)
    wanted, running = Synchronous(plain), Synchronous(setup)
    wanted_scores, scores = list(wanted), list(running)
    assert all(not running.group.state(m)["error"]["error"].any() for m in running.group.clients)
    found = {key: value for key, value in fingerprint(running, scores).items() if "error" not in key}
    expected = fingerprint(wanted, wanted_scores)
    assert {key for key in expected if found[key] != expected[key]} == {
        key for key in expected if key[0] == "scores" and key[1] > 0 and "uplink_bytes" in key
    }


@pytest.mark.parametrize("name", [name for name in examples.names("compressors") if name != "none"])
@pytest.mark.parametrize("sections", WAYS.values(), ids=list(WAYS))
def test_bits_are_the_same_on_any_number_of_ranks(sections: dict[str, Any], name: str) -> None:
    document = {**sections, **compression(name)}
    wanted = bits(**document)
    assert wanted != bits(**sections, **compression(name, error_feedback=False)) != bits(**sections)
    parts = on_ranks(2, lambda one: bits(one, **copy.deepcopy(document)))
    assert {key: value for part in parts for key, value in part.items()} == wanted


def test_clients_in_chunks_are_compressed_together() -> None:
    running, _ = run(**WAYS["chunks"], **TOP)
    assert isinstance(running.group.mapping, Batched)


@pytest.mark.parametrize("way", ["sampled", "states in a file", "best round", "chunks"])
def test_error_memories_go_on_with_the_same_bits(tmp_path: Path, way: str) -> None:
    document = {**ROUNDS, "rounds": 6, **TOP, **{key: value for key, value in WAYS[way].items() if key != "rounds"}}
    whole, pieces = whole_and_pieces(tmp_path, [(2, 2), (1, 4), (2, None)], **document)
    assert whole == pieces
    assert any("error" in key for key in whole)


def test_error_memories_of_clients_in_flight_go_on(tmp_path: Path) -> None:
    whole, pieces = whole_and_pieces(tmp_path, [(1, 3), (2, 12), (3, None)], **{**ROUNDS, **CLOCK, **TOP})
    assert whole == pieces


def top(x: np.ndarray, k: int) -> np.ndarray:
    """Return x without all but its k largest entries, of equal ones those of lowest index."""
    kept = sorted(range(len(x)), key=lambda i: (-abs(x[i]), i))[:k]
    found = np.zeros_like(x)
    found[kept] = x[kept]
    return found


@pytest.mark.parametrize("error_feedback", [True, False])
def test_what_is_sent_is_what_the_definition_says(error_feedback: bool) -> None:
    """x̂ = C(x + e), e ← x + e − x̂, θ ← θ − γ mean x̂, with x of the method itself and C written in NumPy."""
    setup = build(
        config(**ROUNDS, **compression("top_k", error_feedback=error_feedback, share=0.1)), SoloCommunicator()
    )
    assert isinstance(setup.algorithm, Compressed)
    method, k = setup.algorithm.of, setup.algorithm.compressor.kept(setup.algorithm.size)  # type: ignore[attr-defined]
    plain = Synchronous(replace(setup, algorithm=method))
    running = Synchronous(setup)
    for _ in running:
        pass
    server = plain.server
    errors = np.zeros((len(plain.group.clients), setup.algorithm.size))
    for round in range(setup.num_rounds):
        sent = np.zeros_like(errors)
        for uplink in plain.group.step(Downlink(method, server, round), frozenset(plain.group.clients), round):
            for one in [uplink] if isinstance(uplink, Uplink) else uplink.one_by_one():  # type: ignore[union-attr]
                x = one.params["theta"].numpy() + errors[one.client]
                sent[one.client] = top(x, k)
                errors[one.client] = (x - sent[one.client]) * error_feedback
        server = method.server(server, {"theta": torch.from_numpy(sent.mean(0))}, setup.server_optimizer, round)
    torch.testing.assert_close(running.server["shared"], server["shared"], rtol=1e-12, atol=1e-14)
    for client in running.group.clients if error_feedback else ():
        found = running.group.state(client)["error"]["error"].numpy()
        np.testing.assert_allclose(found, errors[client], rtol=1e-9, atol=1e-12)


def test_error_memory_is_kept_by_those_who_did_not_take_part() -> None:
    running, _ = run(cohort=2, **TOP)
    taken = frozenset().union(*(running.setup.cohort(round) for round in range(3)))
    idle = [m for m in running.group.clients if m not in taken | running.setup.cohort(3)]
    assert all(not running.group.state(m)["error"]["error"].any() for m in idle)
    assert all(running.group.state(m)["error"]["error"].any() for m in taken)


def write_common(path: Path) -> Path:
    """Write two clients that want the same θ* = (3, −4), each seeing one direction of it, whose larger entry is the
    first; w fits what is left. f_m = ½(v_m·θ − v_m·θ*)² + ½‖A_m θ + 2w − y_m‖²."""
    rng, star = np.random.default_rng(0), np.array([3.0, -4.0])
    with h5py.File(path, "w") as file:
        for name, v in (("a", np.array([2.0, 1.0])), ("b", np.array([-2.0, 1.0]))):
            for field, value in {
                "H": v[None], "b": np.array([v @ star]), "A": rng.normal(size=(1, 2)), "B": np.array([[2.0]]),
                "y": rng.normal(size=1),
            }.items():  # fmt: skip
                file[f"clients/{name}/{field}"] = value
    return path


def test_error_feedback_converges_where_top_k_alone_stalls(tmp_path: Path) -> None:
    """Both clients send the first entry of all gradients, which is the larger one whatever θ is, and the mean moves θ
    along it alone: the second entry stays as it began. What is remembered is sent in the end."""
    problem = {"name": "quadratic", "file": str(write_common(tmp_path / "common.h5"))}
    found = {}
    for error_feedback in (False, True):
        section = compression("top_k", k=1, error_feedback=error_feedback)
        running = engine(
            problem=problem, algorithm=ffgg(EXACT), rounds=600, evaluate={**EVALUATE, "every": 600}, **section
        )
        start = running.server["shared"]["theta"].clone()
        *_, last = running
        found[error_feedback] = float(last.metrics["operator_norm"])
        if not error_feedback:
            assert running.server["shared"]["theta"][1] == start[1]
            assert abs(float(running.server["shared"]["theta"][0]) - 3.0) < 1e-9
    plain = engine(problem=problem, algorithm=ffgg(EXACT), rounds=600, evaluate={**EVALUATE, "every": 600})
    *_, last = plain
    assert found[True] < 1e-10 > float(last.metrics["operator_norm"])
    assert found[False] > 1e-2


def test_bytes_are_those_of_messages() -> None:
    for way, num_sent in (({}, 4 * 5), ({"cohort": 3}, 4 * 3), (CLOCK, 23)):
        running, scores = run(**way, **compression("top_k", k=10))
        width = (running.setup.algorithm.size - 1).bit_length()  # type: ignore[attr-defined]
        assert scores[-1].costs["uplink_bytes"] == num_sent * (10 * 8 + -(-10 * width // 8))
        _, plain = run(**way)
        assert scores[-1].costs["downlink_bytes"] == plain[-1].costs["downlink_bytes"]


@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_compressed_or_says_why_not(name: str) -> None:
    document = sections(name, "quadratic", rounds=2, **compression("quantizer", bits=4))
    kind = examples.kind("algorithms", name)
    assert bool(kind.needs_whole_uplinks) == (name in WHOLE or issubclass(kind, PersonalAggregates))
    if kind.needs_whole_uplinks:
        reason = WHOLE.get(name, kind.needs_whole_uplinks)
        with pytest.raises(ConfigError, match=f"null, since what '{name}' sends cannot be compressed: {reason}"):
            engine(**document)
        bits(**{**document, **compression("none")})
        return
    shorter, plain = engine(**document), engine(**{**document, "compression": None})
    costs = [list(one)[-1].costs["uplink_bytes"] for one in (shorter, plain)]
    assert 0 < costs[0] < costs[1]
    theta, wanted = (next(iter(one.server["shared"].values())) for one in (shorter, plain))
    assert not torch.equal(theta, wanted)
    # the factor 1/τ shortens steps, and little is lost beside: it goes the same way
    assert float((theta * wanted).sum()) > 0


@pytest.mark.parametrize("name", [name for name in examples.names("compressors") if name != "none"])
def test_a_run_that_diverges_is_seen_to(name: str) -> None:
    tuner = {"name": "gradient_descent", "steps": 1, "lr": "theory"}
    running, scores = run(algorithm=ffgg(tuner, 1e200), rounds=30, **compression(name))
    assert running.status == "diverged"
    assert scores[-1].round < 30


def test_clients_of_compressed_runs_are_no_lanes() -> None:
    assert fits(build(config(**ROUNDS), SoloCommunicator()))
    assert not fits(build(config(**ROUNDS, **TOP), SoloCommunicator()))


def test_what_the_section_does_not_say_is_in_no_digest() -> None:
    assert config(**ROUNDS).digest == config(**ROUNDS, compression=None).digest
    digests = {config(**ROUNDS, **compression("top_k", share=share)).digest for share in (0.1, 0.2)}
    assert len(digests | {config(**ROUNDS).digest}) == 3


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"compression": {"compressor": {"name": "top_k", "k": 3, "share": 0.5}}},
            "compression.compressor.k: .*one of",
        ),
        ({"compression": {"compressor": {"name": "top_k"}}}, "compression.compressor.k: .*exactly one of the two"),
        ({"compression": {"compressor": {"name": "top_k", "k": 0}}}, "compression.compressor.k"),
        ({"compression": {"compressor": {"name": "rand_k", "share": 1.5}}}, "compression.compressor.share"),
        ({"compression": {"compressor": {"name": "quantizer", "bits": 1}}}, "compression.compressor.bits"),
        ({"compression": {"compressor": {"name": "bottom_k"}}}, "compression.compressor.name"),
        ({"compression": {"error_feedback": True}}, "compression.compressor"),
        ({**TOP, "strategic": {"clients": 1, "noise": 0.1}}, "strategic.noise: .*0 beside `compression`"),
    ],
)
def test_bad_settings_are_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**ROUNDS, **sections)


def test_what_only_the_problem_shows_is_refused() -> None:
    where = r"^compression\.compressor\.k: 1000 entries of vectors that have \d+; at most \d+$"
    with pytest.raises(SharedUserError, match=where):
        engine(**ROUNDS, **compression("top_k", k=1000))
    with pytest.raises(SharedUserError, match=r"^compression\.compressor\.name: 'none', since nothing of this problem"):
        engine(**{**ROUNDS, "problem": {**SMALL, "split": {"local": ["*"]}}}, **TOP)
