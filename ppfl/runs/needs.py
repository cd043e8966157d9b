"""What a run needs, said before it starts: memory a rank, operations and bytes a round, time; or that it cannot fit."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ppfl.core.agree import on_every_rank
from ppfl.core.errors import UserError
from ppfl.core.gpu_memory import free_gpu_bytes
from ppfl.core.host_memory import free_host_bytes, resident_bytes
from ppfl.core.numbers import in_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from ppfl.core.types import Data
    from ppfl.engine.choose import AnyEngine
    from ppfl.engine.setup import Setup
    from ppfl.runs.progress import Progress

VECTORS = 24
"""Vectors as long as all parameters that are alive at once, enough for every method: θ, gradients, exact sums, a server
optimizer, stages (benchmarks/rank_memory.md)."""
_LEAST_VECTORS, _LEAST_OF_CLIENT = 6, 3
"""The same, as many as no method does without: θ, what is sent, and three whole numbers of 64 bits a coordinate for the
exact sum, of float64; and for every client that is computed beside others where it is, a gradient, what it sends."""
_WORTH_LOOKING_BYTES = 100_000_000
"""Less than this fits everywhere, and nobody looks."""
_LARGE_BYTES = 1_000_000_000
"""States of clients beyond this are told before a run."""
_LARGE_FLOPS = 2e11
"""Operations beyond this, by the least estimate, too: the run takes several seconds, and to count them takes one."""
_WAYS = 6
"""Operations that a gradient takes for every parameter and sample, at the least: a multiply-add on the way forth, one
back to the input and one to the parameter."""
_SIDE, _SIDE_OF_CARD = 512, 4096
"""Of the matrices that a rate is measured with."""


@dataclass(frozen=True)
class Work:
    """Of a round, all ranks together."""

    clients: int
    num_bytes: int
    """Sent up and down."""
    num_flops: float | None
    """None where the problem does not tell."""
    flops_a_second: float
    """Of all ranks that have work, if it were a product of matrices."""

    def __str__(self) -> str:
        sent = f"a round: {self.clients} client(s), {in_words(self.num_bytes, 'B')} sent"
        if self.num_flops is None:
            return sent
        rate = in_words(self.flops_a_second, "FLOP/s")
        seconds = self.num_flops / self.flops_a_second
        flops = in_words(self.num_flops, "FLOP")
        return f"{sent}, {flops}; at least {seconds:.3g} s at the {rate} of a product of matrices here"


class _Demand(NamedTuple):
    """On one kind of memory, of one rank."""

    what: str
    num_bytes: float
    free_bytes: float
    remedy: str


class Needs:
    """Of a run that is about to begin, or to go on, at a round: checked, told where they are much, and what the first
    rounds have shown of them."""

    def __init__(self, setup: Setup, engine: AnyEngine, first_round: int, progress: Progress | None) -> None:
        """Raise UserError where they cannot be met. progress: who is told; None: nobody. Collective."""
        refuse_what_cannot_fit(setup, engine)
        self._first_round, self._progress, self._ledger = first_round, progress, engine.ledger
        self._seconds_before = engine.ledger.costs.seconds
        self._work = None if progress is None else _tell(setup, engine, progress)

    def after(self, round: int) -> None:
        """Tell how fast the first rounds were that were scored."""
        if self._work is None or self._progress is None or round <= self._first_round:
            return
        seconds = (self._ledger.costs.seconds - self._seconds_before) / (round - self._first_round)
        flops = self._work.num_flops
        reached = "" if flops is None else f", {in_words(flops / seconds, 'FLOP/s')}"
        self._progress.tell(f"measured: {seconds:.3g} s a round{reached}")
        self._work = None


def _tell(setup: Setup, engine: AnyEngine, progress: Progress) -> Work | None:
    """Tell what is needed where that is much; return the work of a long run."""
    states = setup.problem.client_data.num_clients * setup.bytes_a_client
    is_long = _least_flops(setup, engine) >= _LARGE_FLOPS
    if is_long or setup.client_state != "device" or states >= _LARGE_BYTES:
        progress.tell(describe_memory(setup, engine))
    if not is_long:
        return None
    work = work_of(setup, engine)
    progress.tell(str(work))
    return work


def describe_memory(setup: Setup, engine: AnyEngine) -> str:
    """Say in words what a rank needs and where the states of all clients are."""
    from ppfl.engine.client_store import describe

    now, vectors = resident_bytes(), VECTORS * _parameter_bytes(engine)
    where = "" if setup.device.type == "cpu" else " on the card"
    kept = 0 if setup.client_state == "file" else _states_bytes(setup)
    states = describe(setup.client_state, setup.problem.client_data.num_clients, setup.bytes_a_client)
    total, parts = in_words(now + vectors + kept, "B"), [f"{in_words(now, 'B')} now"]
    parts.append(f"up to {in_words(vectors, 'B')} for parameters, gradients and sums{where}")
    return f"needs {total} a rank: {', '.join(parts)}; states of {states}"


def work_of(setup: Setup, engine: AnyEngine) -> Work:
    """Return the work of a round of average clients, or of an arrival."""
    from ppfl.core.params import num_bytes
    from ppfl.engine.participants import Downlink

    clients, points = _clients_of_round(setup), _query_points(setup)
    downlink = Downlink(setup.algorithm, engine.server, 0)
    some = setup.cohort.eligible[:1]
    if downlink.to_all is None:
        downlink.to(some[0])
    uplink_bytes = setup.algorithm.uplink_bytes(setup.algorithm.uplink_like(engine.server))
    sent = clients * (uplink_bytes + downlink.num_bytes(some))
    if points:
        # θ_i and an answer for each client, R_i for who asks; what a downlink has is known, and not counted
        sent = round(2 * points * (clients + 1) * num_bytes(engine.server["shared"]))
    flops = _flops_of_client(setup)
    ranks = min(setup.communicator.size, clients)
    rate = ranks * product_rate(setup.device)
    return Work(clients, sent, None if flops is None else clients * flops, rate)


def product_rate(device: torch.device) -> float:
    """Measure the operations a second of a product of float32 matrices: some milliseconds."""
    import torch

    is_card = device.type == "cuda"
    a = torch.ones(2 * (_SIDE_OF_CARD if is_card else _SIDE,), device=device)
    best = float("inf")
    for _ in range(4):  # the first one looks for its kernel
        began = time.perf_counter()
        a @ a
        if is_card:
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2.0 * len(a) ** 3 / best


def refuse_what_cannot_fit(setup: Setup, engine: AnyEngine) -> None:
    """Raise UserError where the states of clients, or a round, need more than there is. Collective."""
    from ppfl.core.communicator import ranks_of_host

    of_parameters = _parameter_bytes(engine)
    states = setup.problem.client_data.num_clients * setup.bytes_a_client
    # the same on all ranks, so that all of them look, or none does
    if max(states, _LEAST_VECTORS * of_parameters) * setup.clients_per_chunk < _WORTH_LOOKING_BYTES:
        return
    sharers = ranks_of_host(setup.communicator)

    def check() -> None:
        for what, needed, free, remedy in _demands(setup, of_parameters, sharers):
            if needed > free:
                raise UserError(
                    f"{what}: a rank needs at least {in_words(needed, 'B')}, {in_words(free, 'B')} are free for it; "
                    f"use {remedy}"
                )

    on_every_rank(setup.communicator, check)


def _demands(setup: Setup, of_parameters: int, sharers: int) -> Iterator[_Demand]:
    states, kind = _states_bytes(setup), setup.client_state
    together = min(setup.clients_per_chunk, setup.cohort.size, len(setup.problem.client_data.clients))
    computing = (_LEAST_VECTORS + _LEAST_OF_CLIENT * together) * of_parameters
    host = free_host_bytes() / sharers
    of_states = f"engine.client_state: {kind}"
    elsewhere = "engine.client_state: file, fewer ranks on a host, or a split with fewer local parameters"
    fewer = "fewer ranks on a host, a smaller model" + (", a smaller engine.clients_per_chunk" if together > 1 else "")
    if kind == "file":
        disk, where = shutil.disk_usage(tempfile.gettempdir()).free / sharers, tempfile.gettempdir()
        yield _Demand(of_states, states, disk, f"a TMPDIR with more space than {where}, or more hosts")
    if setup.device.type == "cpu":
        in_memory = 0 if kind == "file" else states
        yield _Demand(of_states, in_memory, host, elsewhere)
        yield _Demand("a round", in_memory + computing, host, fewer)
        return
    import torch

    # ranks of a host are dealt to its cards in turn
    card = free_gpu_bytes(setup.device) * torch.cuda.device_count() / sharers
    yield _Demand(of_states, states if kind == "host" else 0, host, elsewhere)
    yield _Demand(of_states, states if kind == "device" else 0, card, elsewhere.replace("file", "host"))
    yield _Demand("a round", computing, card, fewer)


def _states_bytes(setup: Setup) -> int:
    """Return what the states of this rank's clients come to: of those that take part, at the most."""
    most = setup.num_rounds * _clients_of_round(setup)
    once = min(len(setup.problem.client_data.clients), most) * setup.bytes_a_client
    return once if setup.best_round is None else 2 * once


def _parameter_bytes(engine: AnyEngine) -> int:
    """Size of all parameters of one client, θ and w."""
    from ppfl.core.params import num_bytes

    first = engine.group.clients.start
    return num_bytes(engine.server["shared"]) + num_bytes(engine.group.like(first)["local"])


def _least_flops(setup: Setup, engine: AnyEngine) -> float:
    """Return what all rounds take at the least: one gradient a client, every parameter used once a sample."""
    from ppfl.core.params import number_type
    from ppfl.interfaces.client_data import SampledData

    if not isinstance(setup.problem.client_data, SampledData):
        return 0.0
    state = engine.group.like(engine.group.clients.start)
    numbers = _parameter_bytes(engine) / number_type(engine.server["shared"], state["local"]).itemsize
    calls = _clients_of_round(setup) * (1 + _query_points(setup))
    most = _WAYS * numbers * setup.num_rounds * calls * _mean_samples(setup)
    # rounds of small batches are known by a look at one
    return most if most < _LARGE_FLOPS else most / _mean_samples(setup) * _samples_of_client(setup)


def _clients_of_round(setup: Setup) -> int:
    return 1 if setup.asynchronous else setup.cohort.size


def _query_points(setup: Setup) -> float:
    """Return how many main clients a cohort has, on average; 0 where nobody asks."""
    from ppfl.interfaces.query_points import QueryPoints

    method = setup.algorithm
    if not isinstance(method, QueryPoints) or not method.asks:
        return 0.0
    return len(method.mains) * setup.cohort.size / len(setup.cohort.eligible)


def _mean_samples(setup: Setup) -> int:
    return max(1, round(sum(setup.problem.client_data.num_train_samples) / len(setup.cohort.eligible)))


def _data_of_one(setup: Setup) -> tuple[int, Data] | None:
    """Return a client of this rank and what it sees in the first round."""
    data = setup.problem.client_data
    mine = next((m for m in data.clients if data.num_train_samples[m] > 0), None)
    return None if mine is None else (data.num_train_samples[mine], data.data(mine, 0))


def _samples_of_client(setup: Setup) -> int:
    """Return S of an average client in a round: its mini-batch, where a round has one."""
    found = _data_of_one(setup)
    if found is None:
        return _mean_samples(setup)
    size, seen = found[0], len(next(iter(found[1].values())))
    return min(seen, _mean_samples(setup)) if seen < size else _mean_samples(setup)


def _flops_of_client(setup: Setup) -> float | None:
    """Return what an average client computes in a round; None where the problem does not tell."""
    from ppfl.engine.answers import Answers
    from ppfl.engine.compressed import uncompressed
    from ppfl.interfaces.counting import count_flops
    from ppfl.interfaces.objective import JointObjective
    from ppfl.interfaces.query_points import QueryPoints

    found, objective = _data_of_one(setup), setup.problem.objective
    if found is None or not isinstance(objective, JointObjective):
        return None
    of_sample = objective.flops_of_sample(found[1])
    if of_sample is None:
        return None
    method, samples = uncompressed(setup.algorithm_at(0)), _samples_of_client(setup)
    flops = count_flops(method, setup.server_optimizer, of_sample, samples)[0]
    if points := _query_points(setup):
        assert isinstance(method, QueryPoints)
        answers = Answers(name="answers", of=method)
        flops += points * count_flops(answers, setup.server_optimizer, of_sample, samples)[0]
    return flops
