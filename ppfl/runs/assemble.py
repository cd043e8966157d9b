"""From a configuration to a Setup: problem, resolved method and ranks, all that a run consists of but its files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch

from ppfl.config.scope import origins_in
from ppfl.core.agree import SharedUserError, on_every_rank, on_first_rank
from ppfl.core.communicator import GuardedCommunicator, ranks_of_host
from ppfl.core.errors import UserError
from ppfl.engine.client_store import KINDS, choose_kind, saving_bytes, state_bytes
from ppfl.engine.compressed import compressed
from ppfl.engine.exchange.attackers import check_cohort, least_arrivals
from ppfl.engine.exchange.queries import check_query_points
from ppfl.engine.newcomers import Newcomers
from ppfl.engine.participants import CohortSampler, Roles
from ppfl.engine.setup import Setup
from ppfl.interfaces.arrival_log import read_arrivals, read_losses
from ppfl.interfaces.byzantine import adds_up
from ppfl.interfaces.client_data import Statistics
from ppfl.interfaces.held_out import HeldOut
from ppfl.interfaces.placement import ChunkMemory, Placement
from ppfl.interfaces.query_points import QueryPoints
from ppfl.interfaces.remembering import with_memory
from ppfl.interfaces.selection import ORDER_OF_SCORES, Selection, draw_clients
from ppfl.interfaces.split import refuse_split
from ppfl.networks.kernels import of_this_processor
from ppfl.networks.pieces import memory_share
from ppfl.outside.origin import of_this_process
from ppfl.runs.determinism import set_determinism
from ppfl.runs.device import choose_device, set_tf32
from ppfl.runs.latency import timed_by_network
from ppfl.runs.start import begun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from ppfl.config.run import Config
    from ppfl.core.communicator import Communicator
    from ppfl.engine.client_store import Kind
    from ppfl.engine.clock import BandSeconds
    from ppfl.interfaces.client_data import ClientData
    from ppfl.interfaces.graph import Weights
    from ppfl.interfaces.method import Algorithm, FineTuner
    from ppfl.interfaces.problem import Problem, ProblemSettings

    BuildProblem = Callable[[ProblemSettings, Placement, int | None], Problem]

Result = TypeVar("Result")

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "tf32": torch.float32, "bfloat16": torch.float32}


def build_problem(settings: ProblemSettings, placement: Placement, clients_per_chunk: int | None) -> Problem:
    """Build the part of the problem that this rank holds. Collective."""
    return settings.build(placement, clients_per_chunk)


class Began(NamedTuple):
    """What a run keeps that goes on; None: as the configuration says, or chosen."""

    kernels: str | None = None
    clients_per_chunk: int | None = None
    start: Path | None = None
    """Result to start from, where checkpoints have kept it."""


ANEW = Began()


def build(
    config: Config, communicator: Communicator, build_problem: BuildProblem = build_problem, began: Began = ANEW
) -> Setup:
    """Build everything that a run consists of; each rank builds its own clients' part. Collective."""
    _refuse_cells(config, communicator)
    device = _choose_device(config, communicator)
    guarded, kernels = GuardedCommunicator(communicator), began.kernels or _choose_kernels(config, communicator)
    wanted = began.clients_per_chunk or config.engine.clients_per_chunk or (1 if config.asynchronous else None)
    placement = _placement(config, guarded, device, kernels)
    problem, clients_per_chunk = _build(config, placement, wanted, build_problem)
    roles, cohort = Roles.of(placement, problem.client_data, config.strategic), _sample(config, problem.client_data)
    problem, start_files = begun(_scored(config, problem, roles), config, began.start, guarded)
    algorithm, band = _method(config, problem, roles, cohort, communicator)
    tuner, tuned_problem = _final_tuning(config, problem, algorithm)
    client_state, bytes_a_client = _place_states(config, problem, algorithm, clients_per_chunk, communicator, device)
    setup = Setup(
        problem=problem,
        roles=roles,
        algorithm=algorithm,
        server_optimizer=config.server_optimizer,
        aggregator=config.aggregator,
        cohort=cohort,
        communicator=guarded,
        client_weights=_client_weights(config, problem.client_data),
        bucket_bytes=config.engine.bucket_bytes,
        client_state=client_state,
        bytes_a_client=bytes_a_client,
        num_rounds=config.rounds,
        **_of_evaluation(config),
        tuned_fine_tuner=tuner,
        tuned_problem=tuned_problem,
        clients_per_chunk=clients_per_chunk,
        device=device,
        bytes_together=placement.chunk_memory.num_bytes if placement.chunk_memory else None,
        kernels=kernels,
        byzantine=config.byzantine,
        strategic=config.strategic,
        asynchronous=config.asynchronous,
        band=band,
        weights_of_graph=_named("gossip.", lambda: _weights_of_graph(config, problem.client_data)),
        newcomers=_newcomers(config, problem, algorithm),
        start_files=start_files,
    )
    return _on_clock(config, setup)


def _on_clock(config: Config, setup: Setup) -> Setup:
    """Return the run with what it knows of seconds, and of what gets lost on the way. Collective."""
    replay, losses = _read_replay(config, setup.communicator)
    return replace(
        setup,
        compute_times=config.compute_times,
        network=config.network,
        least_arrivals=_least_arrivals(config, setup.roles, setup.cohort),
        replay=replay,
        # a log without losses is one of a network that might have had some
        replayed_losses=losses or None,
    )


def _of_evaluation(config: Config) -> dict[str, Any]:
    """Return what a setup says of scores, by name."""
    evaluate = config.evaluate
    return {
        "evaluate_every": evaluate.every,
        "tuned_epochs": evaluate.tuned.epochs if evaluate.tuned else 0,
        "reports": tuple(dict.fromkeys(evaluate.reports)),
        "best_round": evaluate.best_round,
        "scores_objective": evaluate.objective,
        "history": evaluate.history,
    }


def _build(
    config: Config, placement: Placement, wanted: int | None, build_problem: BuildProblem
) -> tuple[Problem, int]:
    """Return the problem and K. Collective."""
    problem = build_problem(config.problem, placement, wanted)
    clients_per_chunk = wanted or problem.client_data.clients_per_chunk
    _check_ranks(problem.client_data, placement.communicator, clients_per_chunk)
    # dealt by chunks, computed one by one: clients of unlike shapes are not stacked
    return problem, 1 if problem.objective.is_ragged else clients_per_chunk


def _choose_device(config: Config, communicator: Communicator) -> torch.device:
    """Return this rank's device, on which products and kernels are now as the configuration says. Collective."""
    device = choose_device(config.device, communicator)
    set_tf32(config.precision == "tf32", device, communicator)
    set_determinism(config.engine.deterministic, device, communicator)
    return device


def _choose_kernels(config: Config, communicator: Communicator) -> str:
    """Return the configured kernels, or those for the processor of rank 0. Collective."""
    # bits depend on them, so that ranks on unlike processors must not choose for themselves
    return config.engine.kernels or on_first_rank(communicator, of_this_processor)


def _check_clients(config: Config, roles: Roles, cohort: CohortSampler, communicator: Communicator) -> None:
    """Raise UserError when rules cannot cope with a cohort, or a client has no compute time. Collective."""
    least = config.algorithm.least_cohort
    buffer = config.asynchronous.buffer if config.asynchronous is not None else None
    rules, loses = (config.aggregator, config.byzantine), config.network is not None and config.network.loses
    _named("", lambda: check_cohort(roles, cohort, *rules, least, buffer, may_be_fewer=loses and buffer is None))
    if (times := config.compute_times) is not None:
        on_every_rank(communicator, lambda: _named("compute_times.", lambda: times.check(cohort.eligible)))


def _least_arrivals(config: Config, roles: Roles, cohort: CohortSampler) -> int:
    """Return without how many uplinks of a round θ stays as it is."""
    if config.network is None or not config.network.loses or config.asynchronous is not None:
        return 1  # everybody is heard; what arrivals are too few for a rule, a buffer knows
    least = max(config.algorithm.least_cohort, config.network.least_arrivals)
    if config.network.least_arrivals > cohort.size:
        raise SharedUserError(
            f"network.least_arrivals: {config.network.least_arrivals} uplinks wanted of {cohort.size} clients a round"
        )
    return least_arrivals(roles, cohort, config.aggregator, config.byzantine, least)


def _placement(config: Config, communicator: Communicator, device: torch.device, kernels: str) -> Placement:
    data_seed = config.seed if config.problem.seed is None else config.problem.seed
    body_dtype = torch.bfloat16 if config.precision == "bfloat16" else None
    dtype, newcomers = _DTYPES[config.precision], config.evaluate.newcomers
    return Placement(
        communicator, data_seed, config.seed, dtype, device, config.byzantine, body_dtype, kernels=kernels,
        chunk_memory=_chunk_memory(config, device),
        held_out=HeldOut(newcomers.clients, data_seed) if newcomers is not None else None,
    )  # fmt: skip


def _chunk_memory(config: Config, device: torch.device) -> ChunkMemory | None:
    """Return what clients computed together may take: on a CPU they go one by one, whose caches hold one of them."""
    return ChunkMemory(memory_share(device), config.cohort) if device.type == "cuda" else None


def _scored(config: Config, problem: Problem, roles: Roles) -> Problem:
    """Return the problem with what of its samples the configuration wants to have scored."""
    evaluate, data = config.evaluate, problem.client_data
    if not evaluate.selected and roles.probe is None:
        return problem
    clients = None
    if (number := evaluate.clients) is not None:
        choices = [m for m, size in enumerate(data.num_train_samples) if size > 0 and m not in roles.byzantine]
        clients = _named("evaluate.clients: ", lambda: draw_clients(number, choices, config.seed))
    parts = tuple(part for part in ORDER_OF_SCORES if part in evaluate.parts)
    selection = Selection(parts, evaluate.samples, clients, config.seed, roles.probe)
    key = f"evaluate.{evaluate.selected[0]}" if evaluate.selected else "byzantine.attack.name"
    return _named(f"{key}: ", lambda: problem.scored_on(selection))


def _sample(config: Config, data: ClientData) -> CohortSampler:
    """Return who takes part in a round, or who is in flight."""
    if config.asynchronous is None:
        return _named("cohort: ", lambda: CohortSampler(data, config.cohort, config.seed, config.network))
    concurrency = config.asynchronous.concurrency
    return _named("asynchronous.concurrency: ", lambda: CohortSampler(data, concurrency, config.seed))


def _resolve(config: Config, problem: Problem, cohort: CohortSampler) -> Algorithm:
    """Return the method with every step size a number, as it works on this problem with these participants."""
    # one uplink at a time is a cohort of one client
    participation = 1 / len(cohort.eligible) if config.asynchronous else cohort.participation
    loses = config.network is not None and config.network.loses
    if config.network is not None and not config.asynchronous:
        participation *= config.network.part_heard
    optimizer = config.server_optimizer
    _named("algorithm.", lambda: refuse_split(config.algorithm, problem))
    algorithm = _named("algorithm.", lambda: config.algorithm.resolve(problem, participation, optimizer))
    # a mean over those who were heard is not one over all, whoever was asked
    of_all = config.asynchronous is None and cohort.is_full and not loses
    if of_all and adds_up(config.aggregator, config.byzantine):
        return algorithm.under_plain_mean()
    return algorithm


def _method(
    config: Config, problem: Problem, roles: Roles, cohort: CohortSampler, communicator: Communicator
) -> tuple[Algorithm, BandSeconds | None]:
    """Return the method, resolved, with its main clients found and ratios chosen where it has such, and the seconds of
    each client where they share one band. Raises UserError where clients, rules, compute times or network cannot do.
    Collective.
    """
    _check_clients(config, roles, cohort, communicator)
    algorithm = _resolve(config, problem, cohort)
    if isinstance(algorithm, QueryPoints):
        data, asking = problem.client_data, algorithm
        names, samples = data.client_names, data.num_train_samples
        algorithm = _named("algorithm.", lambda: asking.chosen(names, samples, roles.byzantine))
    _named("", lambda: check_query_points(algorithm, roles, cohort))
    algorithm = _compressed(config, problem, algorithm)
    return _named("network.", lambda: timed_by_network(config, problem, algorithm, cohort, communicator))


def _compressed(config: Config, problem: Problem, algorithm: Algorithm) -> Algorithm:
    """Return the method with the uplinks that the configuration wants."""
    shared, optimizer = problem.objective.init_shared(), config.server_optimizer
    where = "compression.compressor."
    return _named(where, lambda: compressed(algorithm, config.compression, shared, optimizer))


def _final_tuning(config: Config, problem: Problem, algorithm: Algorithm) -> tuple[FineTuner | None, Problem]:
    """Return what the final stage `tuned` tunes with, None where it is left out, and the problem that it tunes."""
    tuned = config.evaluate.tuned
    # where nothing is local, whole models are personalized, and only with what the configuration names for it
    whole_models = not problem.local_names
    if tuned is None or (tuned.fine_tuner is None and whole_models):
        return None, problem
    if (tuner := tuned.fine_tuner) is None:
        return algorithm.fine_tuner_of_clients, problem
    tuned_problem = problem.all_local() if whole_models else problem
    return _named("evaluate.tuned.", lambda: tuner.resolve(tuned_problem)), tuned_problem


def _newcomers(config: Config, problem: Problem, algorithm: Algorithm) -> Newcomers | None:
    """Return the clients that are held out, and how they are tuned."""
    wanted, theirs = config.evaluate.newcomers, problem.newcomers
    if wanted is None:
        return None
    if theirs is None:
        raise SharedUserError(f"evaluate.newcomers: problem {config.problem.name!r} holds nobody out; leave it out")
    tuned_problem = theirs if theirs.local_names else theirs.all_local()
    named = config.evaluate.fine_tuner_of_newcomers
    where = "evaluate.newcomers." if wanted.fine_tuner is not None else "evaluate.tuned."
    tuner = algorithm.fine_tuner_of_clients if named is None else _named(where, lambda: named.resolve(tuned_problem))
    assert tuner is not None
    return Newcomers(theirs, tuned_problem, tuner, (0, *wanted.steps), wanted.in_rounds)


def _read_replay(
    config: Config, communicator: Communicator
) -> tuple[dict[str, np.ndarray] | None, dict[str, np.ndarray]]:
    """Return the arrival log that is to be repeated, and that of what was lost in between. Collective."""
    file = config.asynchronous.replay if config.asynchronous is not None else None
    if file is None:
        return None, {}

    def read() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        where = f"asynchronous.replay: {file.path}"
        log = read_arrivals(file.path, where)
        recorded = len(log["client"]) if log else 0
        if recorded < config.rounds:
            raise UserError(
                f"asynchronous.replay: {file.path} has {recorded} arrivals, rounds: {config.rounds} asks for more"
            )
        return log, read_losses(file.path, where)

    return on_every_rank(communicator, read)


def _refuse_cells(config: Config, communicator: Communicator) -> None:
    """Refuse plug-ins that other ranks may not have, or have otherwise."""
    if communicator.size > 1 and (refused := of_this_process(origins_in(config))):
        raise SharedUserError(f"{refused}; here are {communicator.size} ranks")


def _check_ranks(data: ClientData, communicator: Communicator, clients_per_chunk: int) -> None:
    num_chunks = -(-data.num_clients // clients_per_chunk)
    # a rank without clients has nobody to ask for names and shapes of local parameters, and nothing to do
    if communicator.size > num_chunks:
        raise SharedUserError(
            f"{communicator.size} ranks for {data.num_clients} clients in {num_chunks} chunk(s) of "
            f"{clients_per_chunk}: every rank needs a chunk; start at most {num_chunks} ranks"
        )


def _named(prefix: str, action: Callable[[], Result]) -> Result:
    """Turn a ValueError of a check that needs the built problem into an error that names the key."""
    try:
        return action()
    except ValueError as error:
        raise SharedUserError(f"{prefix}{error}") from error


def _place_states(
    config: Config,
    problem: Problem,
    algorithm: Algorithm,
    clients_per_chunk: int,
    communicator: Communicator,
    device: torch.device,
) -> tuple[Kind, int]:
    """Return where all ranks keep states, the farthest place that any of them needs, and a state's size. Collective."""
    objective, clients = problem.objective, problem.client_data.clients
    of_method = algorithm.init_client(objective.init_shared(), objective.init_local(objective.largest(clients)))
    bytes_a_client = state_bytes(with_memory(of_method, problem.client_data))
    # the free memory of a host is shared by its ranks; the host with most of them decides for all
    sharers = ranks_of_host(communicator)
    # those of the best round are kept beside those of now
    needed = bytes_a_client * len(clients) * (1 if config.evaluate.best_round is None else 2)
    saving = saving_bytes(bytes_a_client, clients_per_chunk)
    mine = KINDS.index(choose_kind(config.engine.client_state, needed, saving, device, sharers))
    # all ranks alike: a rank whose states are elsewhere would hold up the others in every round
    return KINDS[int(communicator.allreduce(torch.tensor([mine]), "max"))], bytes_a_client


def _weights_of_graph(config: Config, data: ClientData) -> Weights | None:
    """Return the weights of neighbours for each other; None where there is a server."""
    if config.gossip is None:
        return None
    idle = [name for name, samples in zip(data.client_names, data.num_train_samples, strict=True) if samples == 0]
    if idle:
        raise ValueError(f"graph: client {idle[0]} has no training samples, and every client is a node that works")
    return config.gossip.weights(data.num_clients, config.seed)


def _client_weights(config: Config, data: ClientData) -> tuple[float, ...]:
    if config.weights == "uniform":
        return (1.0,) * data.num_clients
    if isinstance(data, Statistics) and len(set(data.num_train_samples)) > 1:
        raise SharedUserError(
            "weights: samples: what this problem knows of itself (θ*, ‖F‖, legal steps) is of the unweighted mean; "
            "use uniform"
        )
    return tuple(map(float, data.num_train_samples))
