"""Everything that a run consists of, put together once and then only read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ppfl.core.params import num_bytes
from ppfl.engine.clock import Clock, RoundOnClock, gossip_round_of, round_of
from ppfl.engine.wire import answers_after, sizes_of
from ppfl.interfaces.byzantine import adds_up
from ppfl.interfaces.links import Links, Sizes
from ppfl.interfaces.query_points import QueryPoints
from ppfl.interfaces.strategic import SQUARED_NORM

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    import torch

    from ppfl.core.communicator import GuardedCommunicator
    from ppfl.core.types import State
    from ppfl.engine.client_store import Kind
    from ppfl.engine.clock import BandSeconds
    from ppfl.engine.newcomers import Newcomers
    from ppfl.engine.participants import CohortSampler, Roles
    from ppfl.interfaces.aggregator import Aggregator
    from ppfl.interfaces.asynchronous import Asynchronous
    from ppfl.interfaces.best_round import BestRound
    from ppfl.interfaces.byzantine import Byzantine
    from ppfl.interfaces.compute_times import ComputeTimes
    from ppfl.interfaces.graph import Weights
    from ppfl.interfaces.method import Algorithm, FineTuner, ServerOptimizer
    from ppfl.interfaces.network import Network
    from ppfl.interfaces.problem import Problem
    from ppfl.interfaces.strategic import Strategic


@dataclass(frozen=True)
class Setup:
    """One run: the problem and the method, resolved (no `theory` left), and how they are mapped to ranks."""

    problem: Problem
    roles: Roles
    algorithm: Algorithm
    server_optimizer: ServerOptimizer
    aggregator: Aggregator
    cohort: CohortSampler
    communicator: GuardedCommunicator
    client_weights: tuple[float, ...]
    """Weight of every client of all ranks in the mean; only ratios matter."""
    client_state: Kind
    """Where the states of clients are between two uses."""
    bytes_a_client: int
    """Size of one of them."""
    bucket_bytes: int
    """Of one message of a reduction, and of rows that wait for their exchange."""
    num_rounds: int
    evaluate_every: int
    tuned_epochs: int
    tuned_fine_tuner: FineTuner | None
    """What the final stage `tuned` tunes with; None when the stage is left out."""
    tuned_problem: Problem
    """What it tunes and scores: `problem`, or where nothing is local the same with everything local."""
    clients_per_chunk: int
    device: torch.device
    bytes_together: int | None
    """Of the device, for clients that are computed together; None for no limit."""
    kernels: str
    """Column of the table that chooses forms of a network's stages, the same on all ranks."""
    byzantine: Byzantine | None = None
    """Attackers; None when all clients are honest."""
    strategic: Strategic | None = None
    """What strategic clients do; None when there are none."""
    asynchronous: Asynchronous | None = None
    """None: in rounds. Otherwise `num_rounds` counts arrivals, and `cohort` samples the clients in flight."""
    compute_times: ComputeTimes | None = None
    """Of the virtual clock; None when nothing asks for virtual seconds."""
    network: Network | None = None
    """How long messages take, and which of them are lost; None when nothing is known of it."""
    band: BandSeconds | None = None
    """Of clients that share one band; None when they do not."""
    least_arrivals: int = 1
    """Uplinks of a round without which θ stays as it is."""
    weights_of_graph: Weights | None = None
    """Of neighbours for each other, where clients are nodes of a graph; None: there is a server."""
    reports: tuple[str, ...] = ()
    """What clients tell that is kept with the scores."""
    best_round: BestRound | None = None
    """How rounds are judged on validation samples; None: they are not."""
    scores_objective: bool = False
    """Whether f and its gradient over all training samples are scored."""
    history: bool = False
    """Whether the scores of single clients are kept with their means."""
    replay: Mapping[str, np.ndarray] | None = None
    """Arrays of the arrival log to be repeated, (arrivals,)."""
    replayed_losses: Mapping[str, np.ndarray] | None = None
    """Of the jobs that were lost in between, (losses,); None where none were."""
    newcomers: Newcomers | None = None
    """Clients that are held out of training; `problem` knows nothing of them."""
    start_files: tuple[Path, ...] = ()
    """Of the run that it starts from: a run that goes on begins at them again."""

    @property
    def num_steps(self) -> int:
        """Steps of the server, over which schedules go."""
        return self.num_rounds if self.asynchronous is None else self.asynchronous.num_steps(self.num_rounds)

    def algorithm_at(self, step: int) -> Algorithm:
        """Return the method with the step sizes of one round; asynchronously of a step of the server."""
        return self.algorithm.at(step, self.num_steps)

    def server_optimizer_at(self, step: int) -> ServerOptimizer:
        """Return the server optimizer with the step size of one round; asynchronously of a step of the server."""
        return self.server_optimizer.at(step, self.num_steps)

    @property
    def has_virtual_seconds(self) -> bool:
        """True when it is known how long a round lasts, whatever it takes to compute it here."""
        return self.compute_times is not None or self.network is not None

    @property
    def loses(self) -> bool:
        """Whether uplinks of clients that are asked may be lost, or clients be away."""
        return self.network is not None and self.network.loses

    @cached_property
    def clock(self) -> Clock:
        """How long clients take on the virtual clock."""
        return Clock(self.problem.objective.seed, self.compute_times, self.network, self.band)

    def on_clock(self, server: State, cohort: frozenset[int], round: int) -> RoundOnClock:
        """Return who of a cohort is heard in a round, and how long it lasts; 0 s where nobody knows."""
        if not self.has_virtual_seconds:
            return RoundOnClock({}, cohort, is_heard=True, waited=0.0, answers={})
        if self.weights_of_graph is not None:
            neighbours = [self.weights_of_graph.neighbours(node) for node in range(self.weights_of_graph.num_nodes)]
            of_message = num_bytes(self.algorithm_at(round).uplink_like(server))
            return gossip_round_of(self.clock, neighbours, of_message, round)
        if not isinstance(self.network, Links):
            return round_of(self.clock, dict.fromkeys(sorted(cohort)), round, self.least_arrivals)
        sizes = self.sizes_of(server, cohort, round)
        answers = None
        if answers_after(self.algorithm):
            answers = {client: of_client.down for client, of_client in sizes.items()}
            sizes = {client: of_client._replace(down=0) for client, of_client in sizes.items()}
        return round_of(self.clock, sizes, round, self.least_arrivals, answers)

    def sizes_of(self, server: State, cohort: Collection[int], round: int) -> dict[int, Sizes]:
        """Return the bytes that clients of a cohort are sent and send in a round; of nodes what goes over their edges
        from them."""
        if self.weights_of_graph is None:
            return sizes_of(self.algorithm, server, cohort, round)
        of_message = num_bytes(self.algorithm_at(round).uplink_like(server))  # messages of the first round are longer
        return {node: Sizes(0, len(self.weights_of_graph.neighbours(node)) * of_message) for node in sorted(cohort)}

    @property
    def adds_up(self) -> bool:
        """True when of a cohort's uplinks their weighted sum alone is needed, not one of them by itself."""
        return adds_up(self.aggregator, self.byzantine)

    @property
    def misreports(self) -> bool:
        """Whether some clients send something else than they computed."""
        return self.strategic is not None and not self.strategic.is_honest

    @property
    def looks_at_each(self) -> bool:
        """Whether what a client sends is looked at by itself before it leaves the rank, as no sum can be."""
        return self.misreports or SQUARED_NORM in self.reports

    def share_of(self, cohort: frozenset[int]) -> float:
        """Return the weight of a cohort's vectors over that of all that there could be, attackers beside included."""
        if len(cohort) == len(self.cohort.eligible):
            return 1.0
        return self._weight_of(sorted(cohort)) / self._weight_of_all

    def counting(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Return `who_counts` in statistics of a metric; found once."""
        if metric not in self._counting:
            weights = self.problem.scores.metric_weights(metric)
            self._counting[metric] = who_counts(weights, self.not_counted)
        return self._counting[metric]

    def _weight_of(self, clients: Iterable[int]) -> float:
        beside = self.byzantine.num_beside if self.byzantine is not None else 0
        return sum(self.client_weights[client] for client in clients) + beside

    @cached_property
    def not_counted(self) -> frozenset[int]:
        """Return the clients that do not count in statistics of scores: those that attack, and those that only answer
        at the query points of others."""
        if not isinstance(self.algorithm, QueryPoints) or self.algorithm.main_clients == "all":
            return self.roles.byzantine
        return frozenset(range(self.problem.client_data.num_clients)) - set(self.algorithm.mains)

    @cached_property
    def _weight_of_all(self) -> float:
        # once: a round must not take longer for clients that are not in it
        return self._weight_of(self.cohort.eligible)

    @cached_property
    def _counting(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {}


def who_counts(weights: Sequence[int], byzantine: frozenset[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return which clients count in statistics, (M,) bool: those with weights that attack nobody; and their weights."""
    of_all = np.array(weights, dtype=np.float64)
    of_all[list(byzantine)] = 0.0
    there = of_all > 0
    return there, of_all[there]
