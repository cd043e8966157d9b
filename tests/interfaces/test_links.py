"""Links by other hands: what a message takes on average, and that draws of one thing tell nothing of another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ppfl.interfaces.links import DIRECTIONS, Sizes
from ppfl.interfaces.network import Fate
from ppfl.links.constant import Constant
from ppfl.links.log_normal import LogNormal

CLIENTS, JOBS = 20, 200
NUM_DRAWS = CLIENTS * JOBS
FAR = 5.0
"""Standard deviations that draws of one seed are never away."""
LOSSY: dict[str, Any] = {"timeout_seconds": 3.0, "drop_out": 0.5}


def messages(links: Constant | LogNormal, direction: Any, num_bytes: int = 100) -> np.ndarray:
    """Return how long messages take, (clients · jobs,)."""
    pairs = ((client, job) for client in range(CLIENTS) for job in range(JOBS))
    return np.array([links.message(7, direction, client, job, num_bytes) for client, job in pairs])


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return how much two series of draws have to do with each other, in standard deviations of independent ones."""
    return abs(float(np.corrcoef(one, other)[0, 1])) * math.sqrt(len(one))


def test_jitter_is_uniform_and_drawn_for_each_message() -> None:
    links = Constant(name="constant", up_bits_per_second=800.0, latency_seconds=0.5, jitter_seconds=2.0)
    up, down = messages(links, "up") - 1.5, messages(links, "down") - 0.5
    for drawn in (up, down):
        assert drawn.min() >= 0.0
        assert drawn.max() < 2.0
        assert len(set(drawn.tolist())) == NUM_DRAWS
        # u has mean 1/2 and variance 1/12
        assert abs(drawn.mean() / 2.0 - 0.5) < FAR / math.sqrt(12 * NUM_DRAWS)
    assert correlation(up, down) < FAR


def test_log_normal_bandwidth_has_the_mean_that_it_says_and_is_drawn_for_each_message() -> None:
    sigma = 0.5
    links = LogNormal(name="log_normal", sigma=sigma, up_bits_per_second=80.0, down_bits_per_second=8.0)
    up, down = 800.0 / messages(links, "up") / 80.0, 800.0 / messages(links, "down") / 8.0
    for factors in (up, down):
        assert abs(factors.mean() - 1.0) < FAR * math.sqrt(math.expm1(sigma**2) / NUM_DRAWS)
        assert abs(np.log(factors).std() - sigma) < FAR * sigma / math.sqrt(2 * NUM_DRAWS)
        assert len(set(factors.tolist())) == NUM_DRAWS
    assert correlation(np.log(up), np.log(down)) < FAR


def test_bandwidths_of_the_two_directions_are_drawn_apart() -> None:
    drawn = {"low": 1.0, "high": 3.0}
    links = Constant.model_validate({"name": "constant", "up_bits_per_second": drawn, "down_bits_per_second": drawn})
    found = {way: [links.bits_per_second(way, 7, client, 0) for client in range(1000)] for way in DIRECTIONS}
    assert all(1.0 <= value < 3.0 for values in found.values() for value in values)
    assert correlation(np.array(found["up"]), np.array(found["down"])) < FAR


def test_who_is_there_has_nothing_to_do_with_who_drops_out() -> None:
    network = Constant(name="constant", availability=0.5, **LOSSY)
    pairs = [(client, job) for client in range(CLIENTS) for job in range(JOBS)]
    there = np.array([network.is_there(7, *pair) for pair in pairs], dtype=float)
    dropped = np.array([network.fate(7, *pair, 1.0) == Fate.DROPPED for pair in pairs], dtype=float)
    for found in (there, dropped):
        assert abs(found.mean() - 0.5) < FAR * 0.5 / math.sqrt(NUM_DRAWS)
    assert correlation(there, dropped) < FAR


def test_who_drops_out_is_not_late() -> None:
    network = Constant(name="constant", **LOSSY)
    early, late = ([network.fate(7, 0, job, seconds) for job in range(50)] for seconds in (3.0, 3.1))
    assert set(early) == {Fate.ARRIVED, Fate.DROPPED}
    assert late == [Fate.LATE if fate == Fate.ARRIVED else fate for fate in early]


def test_the_part_that_is_heard_is_there_and_does_not_drop_out() -> None:
    assert Constant(name="constant", availability=0.8, drop_out=0.25, timeout_seconds=1.0).part_heard == 0.8 * 0.75
    assert Constant(name="constant", availability=(0.5, 1.0), timeout_seconds=1.0).part_heard == 0.75
    assert Constant(name="constant").part_heard == 1.0


def test_what_is_not_sent_takes_no_time() -> None:
    links = Constant(name="constant", latency_seconds=0.5, jitter_seconds=1.0)
    assert links.seconds(0, 0, 0, Sizes(0, 0)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"down_bits_per_second": -1.0}, r"^down_bits_per_second: -1; allowed are numbers of at least 0$"),
        ({"up_bits_per_second": (1.0, 2.0, -3.0)}, r"^up_bits_per_second: -3; allowed"),
        ({"up_bits_per_second": {"low": -1.0, "high": 2.0}}, r"^up_bits_per_second: -1; allowed"),
        ({"latency_seconds": -0.1}, r"^latency_seconds: -0\.1; allowed"),
        ({"latency_seconds": (0.0,) * 4}, r"^latency_seconds: 4 numbers for 3 clients; one for each, or one for all$"),
        ({"availability": (0.5,) * 2, "timeout_seconds": 1.0}, r"^availability: 2 numbers for 3 clients"),
        ({"down_bits_per_second": (1.0,) * 4}, r"^down_bits_per_second: 4 numbers for 3 clients"),
    ],
)
def test_numbers_that_no_link_has_are_refused(settings: dict[str, Any], refused: str) -> None:
    links = Constant.model_validate({"name": "constant", **settings})
    with pytest.raises(ValueError, match=refused):
        links.check(3, None)
