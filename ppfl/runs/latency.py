"""The section `network` meets the problem and the method: how long rounds last, and what is pruned for it."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ppfl.core.agree import on_every_rank, on_one_rank
from ppfl.engine.clock import BandSeconds
from ppfl.engine.compressed import uncompressed
from ppfl.engine.wire import sizes_of
from ppfl.interfaces.band import Shape, SharedBand
from ppfl.interfaces.counting import SampleFlops, count_flops
from ppfl.interfaces.links import DIRECTIONS, Links
from ppfl.interfaces.objective import JointObjective
from ppfl.interfaces.pruning import Pruned

if TYPE_CHECKING:
    from ppfl.config.run import Config
    from ppfl.core.communicator import Communicator
    from ppfl.core.types import Params
    from ppfl.engine.participants import CohortSampler
    from ppfl.interfaces.method import Algorithm
    from ppfl.interfaces.problem import Problem

logger = logging.getLogger("ppfl")


def timed_by_network(
    config: Config, problem: Problem, algorithm: Algorithm, cohort: CohortSampler, communicator: Communicator
) -> tuple[Algorithm, BandSeconds | None]:
    """Return the method, with the ratios that the network chose, and the seconds of a round of each client of all
    ranks where they share one band. Collective.

    Raises ValueError, beginning with the key below `network.`, for what the network cannot do.
    """
    network, clients = config.network, cohort.eligible
    if network is None:
        return algorithm, None
    num_clients = problem.client_data.num_clients
    num_rounds = config.rounds if config.asynchronous is None else None
    on_every_rank(communicator, lambda: network.check(num_clients, num_rounds))
    if isinstance(network, Links):
        _refuse_silent(config, problem, algorithm, cohort, network)
    if not isinstance(network, SharedBand):
        return algorithm, None
    shared = problem.objective.init_shared()
    num_coordinates = sum(value.numel() for value in shared.values())
    shape = _shape(config, problem, algorithm, cohort, shared, communicator)
    given = None
    if not isinstance(algorithm, Pruned):
        given = [0.0] * len(clients)
    elif algorithm.ratios != "network":
        given = [algorithm.share_pruned(client, num_coordinates) for client in clients]
    timing = network.timing(shape, config.seed, given)
    kept = 1.0 - timing.ratios
    if isinstance(algorithm, Pruned) and given is None:
        ratios = dict(zip(clients, timing.ratios.tolist(), strict=True))
        of_all = [ratios.get(client, 0.0) for client in range(num_clients)]
        algorithm = algorithm.pruned_by(of_all, num_coordinates)
        kept = np.array([1.0 - algorithm.share_pruned(client, num_coordinates) for client in clients])
        _warn_of_silent(shape.names, kept)
    whole, computing = (
        dict(zip(clients, seconds.tolist(), strict=True)) for seconds in (timing.seconds(kept), timing.computing(kept))
    )
    everyone = range(num_clients)
    return algorithm, BandSeconds(*(tuple(of.get(client, 0.0) for client in everyone) for of in (whole, computing)))


def _refuse_silent(config: Config, problem: Problem, algorithm: Algorithm, cohort: CohortSampler, links: Links) -> None:
    """Raise ValueError where a client has no bandwidth for what it sends, or is sent, in the first round."""
    seed = config.seed
    silent = [m for m in cohort.eligible if any(links.has_none(direction, seed, m) for direction in DIRECTIONS)]
    if silent:
        server = algorithm.init_server(problem.objective.init_shared(), config.server_optimizer)
        links.refuse_silent(seed, problem.client_data.client_names, sizes_of(algorithm, server, silent, 0))


def _shape(
    config: Config, problem: Problem, algorithm: Algorithm, cohort: CohortSampler, shared: Params,
    communicator: Communicator,
) -> Shape:  # fmt: skip
    names = tuple(problem.client_data.client_names[client] for client in cohort.eligible)
    server = algorithm.init_server(shared, config.server_optimizer)
    bits = 8.0 * algorithm.uplink_bytes(algorithm.uplink_like(server))
    flops = None
    assert isinstance(config.network, SharedBand)
    if config.network.flops_per_second is not None:
        # samples of a rank may have shapes of their own, and rank 0 none at all: the first client is asked
        first = cohort.eligible[0]
        told = on_one_rank(
            communicator, first in problem.client_data.clients, lambda: json.dumps(_flops_of_sample(problem, first))
        )
        if (of_sample := json.loads(told)) is not None:
            flops = _flops(config, problem, algorithm, cohort, SampleFlops(**of_sample))
    return Shape(names, cohort.eligible, bits, flops)


def _flops_of_sample(problem: Problem, client: int) -> dict[str, int] | None:
    """Return the operations on a sample of a client of this rank; None where they are unknown."""
    objective = problem.objective
    if not isinstance(objective, JointObjective):
        return None
    found = objective.flops_of_sample(problem.client_data.data(client, 0))
    return None if found is None else asdict(found)


def _flops(
    config: Config, problem: Problem, algorithm: Algorithm, cohort: CohortSampler, of_sample: SampleFlops
) -> tuple[tuple[float, float], ...]:
    """Return the operations of each client in the first round: on what depends on θ alone, and on the rest."""
    data, most = problem.client_data, getattr(config.problem, "batch_size", "all")
    rest = replace(of_sample, prefix_forward=0, prefix_backward=0)

    @cache
    def of_size(size: int) -> tuple[float, float]:
        method, optimizer = algorithm.at(0, config.rounds), config.server_optimizer
        whole, personal = (count_flops(uncompressed(method), optimizer, each, size)[0] for each in (of_sample, rest))
        return whole - personal, personal

    sizes = [data.num_train_samples[client] for client in cohort.eligible]
    return tuple(of_size(size if most == "all" else min(size, most)) for size in sizes)


def _warn_of_silent(names: tuple[str, ...], kept: np.ndarray) -> None:
    silent = [name for name, share in zip(names, kept, strict=True) if share == 0]
    if silent:
        logger.warning("network: no bandwidth, and nothing of θ, is left for client(s) %s", ", ".join(silent))
