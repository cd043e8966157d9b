"""The section `network`: bandwidth and ratios against a general optimizer, laws, refusals, and the seconds of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.errors import ConfigError
from ppfl.core.agree import SharedUserError
from ppfl.core.params import flatten, num_bytes
from ppfl.engine.choose import open_engine
from ppfl.interfaces.band import Shape
from ppfl.interfaces.bandwidth import Load, best_bandwidths, equal_bandwidths, fastest_bandwidths
from ppfl.interfaces.counting import count_flops
from ppfl.interfaces.objective import JointObjective
from ppfl.interfaces.pruning import Pruned
from ppfl.links.wireless import Wireless
from ppfl.runs.assemble import build
from tests import examples
from tests.engine.build import config
from tests.ranks import on_ranks
from tests.test_datasets import images, write

Array = NDArray[np.float64]
CLIENTS, BITS, BAND = 10, 1e6, 2e6
FEW = {key: value for key, value in examples.section("problems", "supervised").items() if key != "split"}
NETWORK: dict[str, Any] = {
    "name": "wireless", "bandwidth_hz": 1e5, "snr_db": {"low": 0.0, "high": 20.0},
    "computing_seconds": {"low": 0.5, "high": 2.0}, "personal_seconds": {"low": 0.05, "high": 0.2},
}  # fmt: skip


def load(seed: int) -> Load:
    """Return the law of the replica: c ~ U[.5, 2], loc ~ U[.05, .2], r ~ U[1, 8]."""
    draw = np.random.default_rng(seed)
    computing, personal, rates = (draw.uniform(*ends, CLIENTS) for ends in ((0.5, 2.0), (0.05, 0.2), (1.0, 8.0)))
    return Load(rates, computing, personal, np.full(CLIENTS, BITS))


def section(**changed: Any) -> dict[str, Any]:
    return {key: value for key, value in {**NETWORK, **changed}.items() if value is not None}


def document(method: str = "pruned_fedsim", ratios: Any = "network", **changed: Any) -> dict[str, Any]:
    algorithm = {**examples.section("algorithms", method), **({"ratios": ratios} if ratios is not None else {})}
    problem = {**FEW, "split": {"local": ["head.*"]}}
    return {"problem": problem, "algorithm": algorithm, "rounds": 3, "network": section(**changed)}


@pytest.mark.parametrize(
    ("target", "best", "equal"), [(1.0, 0.5933, 0.6229), (2.0, 0.2309, 0.2563), (3.0, 0.0, 0.0767)]
)
def test_the_numbers_of_the_replica(target: float, best: float, equal: float) -> None:
    one = load(0)
    assert one.ratios(best_bandwidths(one, BAND, target), target).mean() == pytest.approx(best, abs=5e-5)
    assert one.ratios(equal_bandwidths(one, BAND), target).mean() == pytest.approx(equal, abs=5e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("target", [0.8, 1.5, 2.5])
def test_the_closed_form_is_what_a_general_optimizer_finds(seed: int, target: float) -> None:
    one = load(seed)
    closed = best_bandwidths(one, BAND, target)
    left = target - one.personal

    def pruned(share: Array) -> float:
        return float(np.maximum(0.0, 1.0 - left / one.shared_seconds(np.maximum(share, 1e-9) * BAND)).sum())

    found = minimize(
        pruned, np.full(CLIENTS, 1.0 / CLIENTS), method="SLSQP", bounds=[(1e-9, 1.0)] * CLIENTS,
        constraints={"type": "ineq", "fun": lambda share: 1.0 - share.sum()}, options={"maxiter": 500, "ftol": 1e-13},
    )  # fmt: skip
    mine = pruned(closed / BAND)
    assert mine <= found.fun + 1e-9  # it is never beaten
    assert found.fun - mine <= 1e-4 * max(1.0, mine)  # and the optimizer comes as near as it can


@pytest.mark.parametrize("seed", range(8))
def test_what_must_hold_of_bandwidths_and_ratios(seed: int) -> None:
    one, before = load(seed), np.ones(CLIENTS)
    for target in (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0):
        best, equal = best_bandwidths(one, BAND, target), equal_bandwidths(one, BAND)
        of_best, of_equal = one.ratios(best, target), one.ratios(equal, target)
        assert best.sum() <= BAND * (1 + 1e-12)
        assert (best >= 0).all()
        assert of_best.sum() <= of_equal.sum() + 1e-12
        for bandwidths, ratios in ((best, of_best), (equal, of_equal)):
            assert ((ratios >= 0) & (ratios <= 1)).all()
            assert one.latencies(bandwidths, 1.0 - ratios).max() <= target * (1 + 1e-12)
        assert (of_equal <= before).all()  # falls with T
        assert (one.ratios(equal * 1.5, target) <= of_equal).all()  # with b
        faster = Load(one.rates * 1.5, one.computing, one.personal, one.bits)
        assert (faster.ratios(equal, target) <= of_equal).all()  # and with r
        before = of_equal


@pytest.mark.parametrize("seed", range(3))
def test_without_pruning_the_slowest_client_is_as_fast_as_can_be(seed: int) -> None:
    """All arrive at once, and a target a little below is not met by anybody's bandwidth."""
    one, everything = load(seed), np.ones(CLIENTS)
    seconds = one.latencies(fastest_bandwidths(one, BAND), everything)
    np.testing.assert_allclose(seconds, seconds.max(), rtol=1e-12)
    assert seconds.max() < one.latencies(equal_bandwidths(one, BAND), everything).max()
    assert one.ratios(best_bandwidths(one, BAND, seconds.max() * (1 + 1e-9)), seconds.max() * (1 + 1e-9)).sum() == 0.0
    assert one.ratios(best_bandwidths(one, BAND, seconds.max() * 0.999), seconds.max() * 0.999).sum() > 0.0


@pytest.mark.parametrize("exponent", [0, 4, 9, 16])
def test_numbers_far_apart(exponent: int) -> None:
    """Also where computing is nothing beside sending, or the other way round, and clients are alike or alone."""
    draw = np.random.default_rng(exponent)
    for number in range(60):
        size = int(draw.integers(1, 6))
        rates, computing, personal = (
            np.resize(10.0 ** draw.uniform(*ends, 1 if number % 3 == 0 else size), size)
            for ends in ((-exponent / 2, exponent / 2), (-exponent, 1.0), (-exponent / 2, 1.0))
        )
        one = Load(rates, computing, personal, np.full(size, 0.0 if number % 20 == 1 else 10.0 ** draw.uniform(0, 12)))
        band, everything = 10.0 ** draw.uniform(0, 10), np.ones(size)
        equal, fastest = equal_bandwidths(one, band), fastest_bandwidths(one, band)
        whole = one.latencies(equal, everything).max()
        assert fastest.sum() <= band * (1 + 1e-12)
        assert one.latencies(fastest, everything).max() <= whole * (1 + 1e-12)
        target = personal.max() + (whole - personal.max()) * draw.uniform(0.05, 1.2)
        best = best_bandwidths(one, band, target)
        ratios = one.ratios(best, target)
        assert best.sum() <= band * (1 + 1e-12)
        assert ((ratios >= 0) & (ratios <= 1)).all()
        assert one.latencies(best, 1.0 - ratios).max() <= target * (1 + 1e-12)
        assert ratios.sum() <= one.ratios(equal, target).sum() + 1e-9


def test_clients_that_hardly_compute_share_a_band_that_is_alike_good_for_all() -> None:
    """Where c is nothing, so that one step of ν decides on the whole band, nobody goes without for that."""
    one = Load(*(np.full(4, value) for value in (2.0, 1e-18, 0.1, 1e6)))
    best = best_bandwidths(one, BAND, 0.6)
    np.testing.assert_allclose(best, BAND / 4, rtol=1e-12)


@pytest.mark.parametrize(("decibels", "rate"), [(0.0, 1.0), (20.0, 6.658211482751795), (-200.0, 1.4426950408889e-20)])
def test_rates_from_decibels(decibels: float, rate: float) -> None:
    """log2(1 + 10^(dB/10)); far below 1 it is SNR/ln 2, far above it has no end."""
    shape = Shape(("0",), (0,), 64.0, None)
    of_decibels, of_rates, of_many = (
        Wireless.model_validate(section(**{"snr_db": None, **changed})).timing(shape, 0, [0.0]).load.rates
        for changed in ({"snr_db": decibels}, {"rates": rate}, {"snr_db": 1e6})
    )
    np.testing.assert_allclose(of_decibels, of_rates, rtol=1e-12)
    np.testing.assert_allclose(of_many, 1e5 * np.log2(10.0), rtol=1e-12)


@pytest.mark.parametrize("bandwidth", ["equal", "best"])
@pytest.mark.parametrize("share", [0.35, 0.75])
def test_a_run_lasts_as_its_target_says_and_sends_what_it_keeps(bandwidth: str, share: float) -> None:
    whole = list(open_engine(build(config(**document("fedsim", None)), SoloCommunicator())))
    given = document(bandwidth=bandwidth, target_share=share)
    engine = open_engine(build(config(**given), SoloCommunicator()))
    scored = list(engine)
    method, shared = engine.setup.algorithm, engine.server["shared"]
    assert isinstance(method, Pruned)
    seconds, target = scored[-1].costs["virtual_seconds"], share * whole[-1].costs["virtual_seconds"]
    assert target * 0.99 <= seconds <= target * (1 + 1e-9)
    # whole coordinates alone are kept; the best bandwidth may have somebody arrive at T with all of them
    assert bandwidth == "best" or seconds < target * (1 - 1e-9)
    assert scored[-1].costs["uplink_bytes"] == 3 * sum(method.kept) * 8
    assert scored[-1].costs["downlink_bytes"] == 3 * len(method.kept) * num_bytes(shared)
    assert whole[-1].costs["uplink_bytes"] == scored[-1].costs["downlink_bytes"]


def test_rounds_last_as_long_as_their_slowest_client() -> None:
    """Also with numbers for each client, ratios that are given, and cohorts."""
    numbers = {
        "rates": [1.0, 2.0, 4.0, 1.0, 2.0, 4.0],
        "snr_db": None,
        "computing_seconds": 0.5,
        "personal_seconds": 0.1,
    }
    given = {**document(ratios=[0.0, 0.5, 0.9, 0.3, 0.5, 0.9], **numbers), "cohort": 2}
    engine = open_engine(build(config(**given), SoloCommunicator()))
    setup, D = engine.setup, len(flatten(engine.server["shared"]))
    assert isinstance(setup.algorithm, Pruned)
    rates, kept = np.array(numbers["rates"]), np.array(setup.algorithm.kept) / D
    latencies = 0.1 + kept * (0.5 + 64 * D / (NETWORK["bandwidth_hz"] / 6 * rates))
    wanted = sum(max(latencies[client] for client in setup.cohort(round)) for round in range(3))
    assert wanted < 3 * max(latencies)  # the slowest of all is not always there
    assert list(engine)[-1].costs["virtual_seconds"] == pytest.approx(wanted, rel=1e-12)


def test_seconds_from_operations() -> None:
    """Twice the speed is half the time; a pruned method computes as much as the one without pruning."""
    of_speed: dict[str, Any] = {"computing_seconds": None, "personal_seconds": None, "bandwidth_hz": 1e12}

    def latencies(method: str, speed: float, **changed: Any) -> Array:
        sections = document(method, changed.pop("ratios", None), flops_per_second=speed, **of_speed)
        found = build(config(**sections), SoloCommunicator()).band
        assert found is not None
        return np.array(found.whole)

    slow, fast = latencies("fedsim", 1e6), latencies("fedsim", 2e6)
    np.testing.assert_allclose(slow, 2 * fast, rtol=1e-3)
    np.testing.assert_allclose(latencies("pruned_fedsim", 1e6, ratios=0.0), slow, rtol=1e-12)
    assert (latencies("pruned_fedsim", 1e6, ratios=0.5) < slow).all()


def test_operations_are_those_of_the_samples_of_a_round() -> None:
    """Of a mini-batch at most; what they come to on the shared part and on the personal one is what they are in all."""
    of_speed: dict[str, Any] = {"flops_per_second": 1.0, "computing_seconds": None, "personal_seconds": None}
    sections = document("fedsim", None, bandwidth_hz=1e30, **of_speed)
    for most in ("all", 5):
        problem = {**sections["problem"], "batch_size": most}
        setup = build(config(**{**sections, "problem": problem}), SoloCommunicator())
        data, objective = setup.problem.client_data, setup.problem.objective
        assert isinstance(objective, JointObjective)
        of_sample = objective.flops_of_sample(data.data(0, 0))
        assert of_sample is not None
        sizes = [size if most == "all" else min(size, 5) for size in data.num_train_samples]
        counted = [count_flops(setup.algorithm, setup.server_optimizer, of_sample, size)[0] for size in sizes]
        assert setup.band.whole == pytest.approx(counted, rel=1e-12)


def test_a_band_is_dealt_for_what_is_left_after_given_ratios() -> None:
    """All arrive at once, who sends little with little of the band."""
    setup = build(
        config(**document(ratios=[0.0, 0.5, 0.9, 0.0, 0.5, 0.9], bandwidth="best", personal_seconds=0.1)),
        SoloCommunicator(),
    )
    assert setup.band is not None
    assert max(setup.band.whole) == pytest.approx(min(setup.band.whole), rel=1e-9)


def test_laws_are_drawn_by_seed_client_and_key() -> None:
    law = {"low": 1.0, "high": 2.0}
    network = Wireless.model_validate(section(snr_db=None, rates=law, computing_seconds=law, personal_seconds=law))
    shape = Shape(("a", "b", "c"), (0, 1, 4), 64.0, None)
    loads = [network.timing(shape, seed, [0.0] * 3).load for seed in (0, 1)]
    drawn = np.concatenate([x for one in loads for x in (one.rates, one.computing, one.personal)])
    assert len(np.unique(drawn)) == len(drawn)
    assert ((drawn >= 1.0) & (drawn <= 2.0)).all()
    fewer = network.timing(Shape(("c",), (4,), 64.0, None), 0, [0.0]).load
    assert fewer.rates[0] == loads[0].rates[2]  # who else is there changes nothing


def test_operations_are_known_where_rank_0_has_no_samples(tmp_path: Path) -> None:
    """Who has no training samples is on nobody's list, and needs no number."""
    train = write(tmp_path / "train.h5", {"b": images(30), "c": images(21)})
    dataset = {"name": "federated_hdf5", "train": train, "test": write(tmp_path / "test.h5", {"a": images(4)})}
    speeds = {"flops_per_second": [1e5, 2e5], "computing_seconds": None, "personal_seconds": None}
    given = document(ratios="network", target_share=0.5, **speeds)
    checked = config(**{**given, "problem": {**given["problem"], "dataset": dataset}})
    alone = build(checked, SoloCommunicator())
    assert isinstance(alone.algorithm, Pruned)
    assert alone.band is not None
    assert alone.band.whole[0] == 0.0 < min(alone.band.whole[1:])
    for setup in on_ranks(3, lambda communicator: build(checked, communicator)):
        assert (setup.band, setup.algorithm) == (alone.band, alone.algorithm)


def test_every_rank_finds_the_same() -> None:
    given = config(**document(bandwidth="best", target_share=0.5))
    alone = build(given, SoloCommunicator())
    for size in (2, 3):
        for setup in on_ranks(size, lambda communicator: build(given, communicator)):
            assert (setup.band, setup.algorithm) == (alone.band, alone.algorithm)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"computing_seconds": 0.0}, "network.computing_seconds: client 0 has computing time on the shared part of 0"),
        ({"rates": 0.0, "snr_db": None}, "network.rates: client 0 has a rate of 0; allowed are numbers above 0"),
        ({"snr_db": -5000.0}, "network.snr_db: client 0 has a rate of 0"),
        ({"rates": [1.0, 1.0, 0.0, 1.0, 1.0, 1.0], "snr_db": None}, "network.rates: client 2 has a rate of 0"),
        ({"rates": [1.0], "snr_db": None}, "network.rates: 1 numbers for 6 clients"),
        ({"personal_seconds": -0.1}, "network.personal_seconds: client 0 has -0.1"),
        (
            {"target_share": None, "target_seconds": 0.3, "personal_seconds": [0.1, 0.1, 0.1, 0.3, 0.1, 0.1]},
            "network.target_seconds: the target of 0.3 s leaves client 3 nothing",
        ),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_no_network_can_do_is_refused_by_client(changed: dict[str, Any], said: str) -> None:
    given = config(**document(**{"target_share": 0.5, **changed}))
    with pytest.raises(SharedUserError) as refused:
        build(given, SoloCommunicator())
    assert said in str(refused.value)


def test_operations_that_are_not_known_are_refused() -> None:
    sections = document("fedsim", None, flops_per_second=1e9, computing_seconds=None, personal_seconds=None)
    given = config(network=sections["network"])
    with pytest.raises(SharedUserError, match=r"network\.flops_per_second: this problem does not tell its operations"):
        build(given, SoloCommunicator())


def test_a_client_without_bandwidth_keeps_nothing_and_takes_its_personal_time(caplog: pytest.LogCaptureFixture) -> None:
    """Where the rates are far apart, the best bandwidth leaves some client without."""
    rates = [8.0, 8.0, 8.0, 8.0, 8.0, 0.01]
    given = document(rates=rates, snr_db=None, bandwidth="best", target_seconds=0.5, computing_seconds=1.0)
    setup = build(config(**given), SoloCommunicator())
    assert isinstance(setup.algorithm, Pruned)
    assert setup.algorithm.kept[5] == 0
    assert "network: no bandwidth, and nothing of θ, is left for client(s) 5" in caplog.text
    scored = list(open_engine(setup))
    assert scored[-1].costs["uplink_bytes"] == 3 * 8 * sum(setup.algorithm.kept)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (document(), "network.target_seconds"),
        (document("fedsim", None, target_share=0.5), "network.target_share"),
        (document(ratios=0.5, target_seconds=0.5), "network.target_seconds"),
        ({**document(), "network": None}, "algorithm.ratios"),
        (document(ratios=1.0), "algorithm.ratios"),
        (document(bandwidth_hz=0.0), "network.bandwidth_hz"),
        (document(rates=1.0), "network.rates"),
        (document(flops_per_second=1e9), "network.computing_seconds"),
        (document(personal_seconds=None), "network.personal_seconds"),
        (document(target_seconds=1.0, target_share=0.5), "network.target_share"),
        (document(snr_db={"low": 2.0, "high": 1.0}, target_share=0.5), "network.snr_db"),
        ({**document(target_share=0.5), "compute_times": {"name": "fixed"}}, "compute_times"),
        ({**document("fedsim", None), "asynchronous": {"engine": "messages"}}, "network"),
        ({**document(ratios=0.5), "aggregator": {"name": "median"}}, "aggregator.name"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(**sections)
    assert f"{said}" in str(refused.value)


def test_silent_where_it_is_not_used(tmp_path: Path) -> None:
    """Digests of runs without a network are those of before there was one."""
    assert "network" not in config().scientific()
    assert "network" in config(**document("fedsim", None)).scientific()
