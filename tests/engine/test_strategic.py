"""Strategic clients: what they send, who they are, and that all else of a run is as if they were honest."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.errors import ConfigError
from ppfl.core.agree import SharedUserError
from ppfl.core.communicator import Communicator
from ppfl.engine.choose import open_engine
from ppfl.engine.exchange.misreports import rows_as_sent
from ppfl.engine.mapping.batched import Batched
from ppfl.engine.mapping.joint import Joint
from ppfl.interfaces.strategic import Strategic, squared_norm
from ppfl.runs.assemble import build
from tests.algorithms import test_floral as floral
from tests.algorithms.cases import NAMES, is_gossip, sections
from tests.engine.build import config, engine, ffgg
from tests.engine.interrupted import fingerprint
from tests.engine.test_partial import NUM_CLIENTS, D, coordinates, document
from tests.ranks import on_ranks
from tests.supervised_problems import CNN, CONFIG

SMALL: dict[str, Any] = {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 5, "rows": 20}
ROUNDS: dict[str, Any] = {
    "problem": SMALL,
    "rounds": 4,
    "evaluate": {"every": 1, "reports": ["squared_norm"], "tuned": {"epochs": 0}},
}
NETWORK: dict[str, Any] = {
    "problem": {**CONFIG, "model": {**CNN, "channels": [4, 4], "normalization": "none"}},
    "algorithm": ffgg({"name": "gradient_descent", "steps": 2, "lr": 0.1}, 0.1),
    "precision": "float32",
}
CLOCK = {"asynchronous": {"engine": "virtual"}, "compute_times": {"name": "exponential"}, "rounds": 23}
WAYS: dict[str, dict[str, Any]] = {
    "mean": {},
    "rule": {"aggregator": {"name": "median"}},
    "attack beside": {"byzantine": {"attack": {"name": "sign_flip"}, "clients": 1, "placement": "beside"}},
    "sampled": {"cohort": 3, "weights": "samples"},
    "clock": CLOCK,
    "buffer of a rule": {
        **CLOCK, "asynchronous": {"engine": "virtual", "buffer": 3}, "aggregator": {"name": "median"},
        "byzantine": {"attack": {"name": "sign_flip"}, "clients": ["1"]},
    },
    "pruned on a network": {
        "algorithm": {
            "name": "pruned_ffgg", "ratios": "network", "lr": 0.1,
            "fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": 0.1},
        },
        "network": {
            "name": "wireless", "bandwidth_hz": 1e3, "rates": [1.0, 2.0, 3.0, 4.0, 5.0], "computing_seconds": 1.0,
            "personal_seconds": 0.1, "target_share": 0.6,
        },
    },
    "chunks": {**NETWORK, "engine": {"clients_per_chunk": 2}, "rounds": 2},
    "chunks added up": {
        **NETWORK, "engine": {"clients_per_chunk": 2}, "rounds": 2, "evaluate": {"every": 1, "tuned": {"epochs": 0}},
    },
}  # fmt: skip
HONEST = {
    "interpolation": "they answer at many query points a round, and no one message is what they report",
    "l2gd": "its clients send models, and neither gradients nor changes that could be scaled",
    "l2gd_theta": "its clients send models, and neither gradients nor changes that could be scaled",
    "local_only": "its clients send nothing that they could change",
    **dict.fromkeys(
        filter(is_gossip, NAMES), "no server asks its nodes for reports, and what they send corrects what they sent"
    ),
    "pfedgraph": "they send all that they have moved since θ_0, what they received included, and a lie would grow",
}
"""Methods whose clients send no gradients or changes of a round, and what is said of them."""


def bits(communicator: Communicator | None = None, **document: Any) -> dict[Any, bytes]:
    running = open_engine(build(config(**{**ROUNDS, **document}), communicator or SoloCommunicator()))
    return fingerprint(running, list(running))


def norms(**document: Any) -> np.ndarray:
    """Return the squared norms of every round, (K, M)."""
    running = engine(**{**ROUNDS, **document})
    return np.stack([np.asarray(scored.metrics["report_squared_norm"]) for scored in running])[1:]


@pytest.mark.parametrize("sections", WAYS.values(), ids=list(WAYS))
def test_who_says_the_truth_changes_no_bit(sections: dict[str, Any]) -> None:
    """Scale 1 and noise 0, on ranks too; and any other scale changes some."""
    plain, names = bits(**sections), ["0", "2"]
    honest = {**sections, "strategic": {"clients": names}}
    assert bits(**honest) == plain
    parts = on_ranks(2, lambda one: bits(one, **honest))
    assert {key: value for part in parts for key, value in part.items()} == plain
    assert bits(**sections, strategic={"clients": names, "scale": 2}) != plain


def test_noise_alone_is_a_lie() -> None:
    assert bits(strategic={"clients": ["2"], "noise": 0.1}) != bits()


@pytest.mark.parametrize("sections", WAYS.values(), ids=list(WAYS))
def test_liars_have_the_same_bits_on_any_number_of_ranks(sections: dict[str, Any]) -> None:
    lying = {**sections, "strategic": {"clients": 2, "scale": -1.5, "noise": 0.3}}
    wanted = bits(**lying)
    num_ranks = 2 if "engine" in sections else 3
    parts = on_ranks(num_ranks, lambda one: bits(one, **lying))
    assert {key: value for part in parts for key, value in part.items()} == wanted


def test_what_is_sent_is_a_multiple_of_what_was_computed() -> None:
    """By a power of 2, so that products are exact; in the first round all else is as without."""
    told = norms()
    for scale in (0.0, -1.0, 4.0):
        lied = norms(strategic={"clients": ["3"], "scale": scale})
        others = [0, 1, 2, 4]
        assert lied[0, 3] == scale**2 * told[0, 3]
        assert lied[0, others].tobytes() == told[0, others].tobytes()
        assert (lied[1] != told[1]).all()


def test_what_was_computed_stays_as_it_was() -> None:
    setup = build(config(**ROUNDS, strategic={"clients": ["3"], "scale": 2.0}), SoloCommunicator())
    computed = {"theta": torch.ones(2, 4, dtype=torch.float64)}
    sent = rows_as_sent(setup, [1, 3], computed, 0)["theta"]
    assert sent.tolist() == [[1.0] * 4, [2.0] * 4]
    assert bool((computed["theta"] == 1.0).all())


def test_a_scaled_gradient_moves_theta_by_as_much() -> None:
    """θ_1 − θ_0 = −γ/M (Σ_j g_j + (a − 1) g_i), with a = 1 subtracted: what one liar adds is linear in a."""

    def after_a_round(scale: float) -> torch.Tensor:
        running = engine(**{**ROUNDS, "rounds": 1, "strategic": {"clients": ["1"], "scale": scale}})
        list(running)
        theta: torch.Tensor = running.server["shared"]["theta"]
        return theta

    honest, twice, opposite = (after_a_round(scale) for scale in (1.0, 2.0, -1.0))
    torch.testing.assert_close(opposite - honest, -2 * (twice - honest), rtol=1e-12, atol=1e-14)
    assert (twice - honest).norm() > 1e-3


def test_noise_has_the_norm_that_is_asked_for_and_is_drawn_by_round_and_client() -> None:
    role, rounds = Strategic(clients=1, scale=0.0, noise=3.0), 400
    computed = {"a": torch.zeros(7, dtype=torch.float64), "b": torch.zeros(2, 3, dtype=torch.float64)}
    drawn = [role.misreport(computed, 5, 0, round) for round in range(rounds)]
    for name in computed:
        lengths = torch.stack([one[name].square().sum() for one in drawn])
        # E‖βξ‖² = β²; its standard deviation is β²√(2/d)
        assert float(lengths.mean()) == pytest.approx(9.0, abs=5 * 9 * (2 / 6 / rounds) ** 0.5)
    once = role.misreport(computed, 5, 0, 1)
    assert torch.equal(once["a"], drawn[1]["a"])
    others = [role.misreport(computed, seed, client, 1)["a"] for seed, client in ((6, 0), (5, 1))]
    for one, other in itertools.combinations([once["a"], drawn[0]["a"], *others], 2):
        assert not torch.equal(one, other)


def test_strategic_clients_are_scored_as_all_others() -> None:
    """What they lie about changes θ, and who counts does not."""
    first = next(iter(engine(**{**ROUNDS, "strategic": {"clients": 2, "scale": 5}})))
    plain = next(iter(engine(**ROUNDS)))
    assert first.metrics["loss"] == plain.metrics["loss"]


def test_single_uplinks_are_needed_for_lies_and_norms_alone() -> None:
    asked = {"every": 1, "reports": ["squared_norm"], "tuned": {"epochs": 0}}
    chunks = {**NETWORK, "engine": {"clients_per_chunk": 2}}
    assert isinstance(engine(**chunks, strategic={"clients": 1}).group.mapping, Joint)
    for section in ({"strategic": {"clients": 1, "scale": 2}}, {"evaluate": asked}):
        assert isinstance(engine(**chunks, **section).group.mapping, Batched)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_takes_strategic_clients_or_says_why_not(name: str) -> None:
    lying = sections(name, "quadratic", strategic={"clients": 1, "scale": 3}, rounds=2)
    if name in HONEST:
        with pytest.raises(ConfigError, match=f"null, since no client of '{name}' can be strategic: {HONEST[name]}"):
            engine(**lying)
        return
    running, plain = engine(**lying), engine(**{**lying, "strategic": None})
    assert [len(list(one)) for one in (running, plain)] == [2, 2]
    lied, honest = running.server["shared"], plain.server["shared"]
    assert any(not torch.equal(lied[key], honest[key]) for key in honest)


def test_norms_are_of_what_is_sent_and_of_nothing_0() -> None:
    assert squared_norm({}) == 0.0
    assert squared_norm({"a": torch.full((2, 2), 3.0), "b": torch.tensor([1.0])}) == 37.0
    # more than float32 holds
    assert squared_norm({"a": torch.full((3,), 1e25, dtype=torch.float32)}) == pytest.approx(3e50, rel=1e-6)
    assert (norms(**sections("local_only", "quadratic")) == 0.0).all()


@pytest.mark.parametrize("clients_per_chunk", [1, 2])
def test_weights_that_clients_send_stay_the_truth(clients_per_chunk: int) -> None:
    """FLoRAL: changes of base and adaptors are scaled, the mixture is neither scaled, nor noisy, nor in the norm."""
    lies, who, told = {"clients": ["1", "4"], "scale": 3.0, "noise": 0.5}, (1, 4), {"reports": ["squared_norm"]}
    engine_section = {"clients_per_chunk": clients_per_chunk}
    sections = floral.document(rounds=1, evaluate={**told, "tuned": {"epochs": 0}}, engine=engine_section)
    running = engine(**sections, strategic=lies)
    setup, before, sent = running.setup, running.server["shared"], floral.sent_by_each(running)
    pi = torch.stack([one.pop("floral.mixture") for one in sent])
    lying = Strategic(**lies)
    sent = [lying.misreport(one, 0, m, 0) if m in who else one for m, one in enumerate(sent)]
    *_, last = running
    norms_of_sent = [sum(float(value.square().sum()) for value in one.values()) for one in sent]
    np.testing.assert_allclose(last.metrics["report_squared_norm"], norms_of_sent, rtol=1e-10)
    n = torch.tensor(setup.client_weights, dtype=torch.float64)
    for name, value in running.server["shared"].items():
        moved = torch.stack([one[name] for one in sent])
        weights = n[:, None] * pi if name in setup.algorithm.sent_weights() else n[:, None]
        weights = (weights / weights.sum(0)).reshape(len(n), -1, *[1] * (moved.ndim - 2))
        torch.testing.assert_close(value, before[name] - (weights * moved).sum(0), rtol=1e-10, atol=1e-12)


def test_norms_leave_out_coordinates_without_weight(tmp_path: Path) -> None:
    """What has no weight stays with its client, noise as well."""
    lies = {"clients": NUM_CLIENTS, "scale": 0, "noise": 1}
    evaluate = {"every": 1, "reports": ["squared_norm"], "tuned": {"epochs": 0}}
    running = engine(**document(tmp_path, strategic=lies, evaluate=evaluate))
    found = np.stack([np.asarray(scored.metrics["report_squared_norm"]) for scored in running])
    role, zeros = Strategic(clients=NUM_CLIENTS, scale=0.0, noise=1.0), {"theta": torch.zeros(D, dtype=torch.float64)}
    for round, row in enumerate(found[1:]):
        for client, norm in enumerate(row):
            noise = role.misreport(zeros, 0, client, round)["theta"][coordinates(client, round)]
            assert norm == pytest.approx(float(noise.square().sum()), rel=1e-12)


def test_a_sampled_client_tells_its_norm_in_its_rounds_alone() -> None:
    running = engine(**{**ROUNDS, "cohort": 2})
    found = np.stack([np.asarray(scored.metrics["report_squared_norm"]) for scored in running])[1:]
    for round, row in enumerate(found):
        assert set(np.flatnonzero(~np.isnan(row)).tolist()) == running.setup.cohort(round)


def members(**sections: Any) -> frozenset[int]:
    return build(config(**{**ROUNDS, **sections}), SoloCommunicator()).roles.strategic


def test_who_is_strategic_is_drawn_by_the_seed_or_named() -> None:
    assert members(strategic={"clients": ["4", "1", "4"]}) == {1, 4}
    assert members(strategic={"clients": 5}) == set(range(5))
    assert members(strategic={"clients": ["0", "1", "2", "3", "4", "4"]}) == set(range(5))
    found = {members(strategic={"clients": 2}, seed=seed) for seed in range(8)}
    assert {len(one) for one in found} == {2}
    assert len(found) > 2


def test_who_has_no_training_samples_says_nothing() -> None:
    names, samples = ("a", "b", "c"), (3, 0, 5)
    assert Strategic(clients=2).members(names, samples, frozenset(), 0) == {0, 2}
    with pytest.raises(SharedUserError, match=r"^strategic.clients: 3 wanted, and 2 have training samples"):
        Strategic(clients=3).members(names, samples, frozenset(), 0)
    with pytest.raises(SharedUserError, match=r"^strategic.clients: b without training samples would never take part"):
        Strategic(clients=("b",)).members(names, samples, frozenset(), 0)


def test_nobody_is_strategic_and_byzantine() -> None:
    attackers = {"attack": {"name": "sign_flip"}, "clients": 2}
    for seed in range(6):
        roles = build(
            config(**ROUNDS, byzantine=attackers, strategic={"clients": 3}, seed=seed), SoloCommunicator()
        ).roles
        assert roles.strategic == set(range(5)) - roles.byzantine
    # attackers beside the clients take nobody's place
    beside = {**attackers, "placement": "beside"}
    assert members(byzantine=beside, strategic={"clients": 5}) == set(range(5))
    both = {"byzantine": {**attackers, "clients": ["1"]}, "strategic": {"clients": ["1", "2"]}}
    with pytest.raises(SharedUserError, match=r"^strategic.clients: 1 is Byzantine, and nobody can be both"):
        members(**both)


@pytest.mark.parametrize(
    ("section", "wanted"),
    [
        ({"clients": 6}, "strategic.clients: too many strategic clients"),
        ({"clients": ["7"]}, "strategic.clients: no client is called 7"),
        ({"clients": 1, "scale": float("inf")}, "strategic.scale"),
        ({"clients": 1, "noise": -1.0}, "strategic.noise"),
        ({"clients": 0}, "strategic.clients"),
        ({"clients": []}, "strategic.clients"),
        ({"scale": 2.0}, "strategic.clients: missing"),
    ],
)
def test_what_makes_no_sense_is_refused(section: dict[str, Any], wanted: str) -> None:
    with pytest.raises((ConfigError, SharedUserError), match=wanted):
        members(strategic=section)


def test_the_section_is_silent_where_there_is_none() -> None:
    plain, null = config(**ROUNDS), config(**ROUNDS, strategic=None)
    assert plain.digest == null.digest
    assert "strategic" not in plain.scientific()
    assert config(**ROUNDS, strategic={"clients": 1}).digest != plain.digest
