"""What does not go together in a configuration, though each section by itself is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.core.plugins import refusal
from ppfl.interfaces.aggregator import is_sum
from ppfl.interfaces.band import SharedBand, chooses_ratios
from ppfl.interfaces.gossip import Gossip
from ppfl.interfaces.phases import Phases
from ppfl.interfaces.query_points import QueryPoints
from ppfl.interfaces.strategic import SQUARED_NORM
from ppfl.networks.model_problem import ModelProblemSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.config.run import Config


def _fits_gossip(config: Config) -> None:
    method = config.algorithm
    if not isinstance(method, Gossip):
        if config.gossip is not None:
            raise refusal("gossip", f"null, since {method.name!r} has a server, and its clients no neighbours")
        return
    if config.gossip is None:
        example = "{graph: {name: ring}}"
        raise refusal("gossip", f"a section such as {example}, since clients of {method.name!r} are nodes of a graph")
    # 1.0 is everybody and 1 is one client, which compare as equal
    if config.cohort not in ("all", 1.0) or isinstance(config.cohort, int):
        raise refusal("cohort", f"'all', since each node of {method.name!r} waits for all of its neighbours")
    if config.weights != "uniform":
        raise refusal("weights", "'uniform', since the weights of a graph are doubly stochastic: all nodes count alike")
    if config.byzantine is not None:
        raise refusal("byzantine", f"null, since no rule stands between a node of {method.name!r} and its neighbours")
    if isinstance(config.network, SharedBand):
        what = "null, or links that are each node's own"
        raise refusal("network", f"{what}, since {method.name!r} has no server with a band that all would share")


def _one_vote_a_client(config: Config) -> None:
    if config.weights == "samples" and not is_sum(config.aggregator):
        raise refusal("weights", f"'uniform', since aggregator {config.aggregator.name!r} takes one vote per client")


def _takes_the_mean(config: Config) -> None:
    if config.algorithm.needs_mean and not is_sum(config.aggregator):
        # a mean is refused here for what stands before it, any other rule for itself
        where = "before" if config.aggregator.name == "mean" else "name"
        what = "nothing" if where == "before" else "'mean'"
        reason = f"since {config.algorithm.name!r} takes the mean alone: {config.algorithm.needs_mean}"
        raise refusal(f"aggregator.{where}", f"{what}, {reason}")


def _may_clip(config: Config) -> None:
    # problems in closed form train no model, and have no such section
    training = getattr(config.problem, "training", None)
    if getattr(training, "clip_norm", None) is None:
        return
    tuned = config.evaluate.tuned.fine_tuner if config.evaluate.tuned else None
    of_newcomers = config.evaluate.fine_tuner_of_newcomers if config.evaluate.newcomers else None
    for what in (config.algorithm, config.algorithm.fine_tuner_of_clients, tuned, of_newcomers):
        if what is not None and what.needs_whole_gradients:
            reason = f"nothing, since {what.name!r} takes whole gradients: {what.needs_whole_gradients}"
            raise refusal("problem.training.clip_norm", reason)


def _has_a_model(config: Config) -> None:
    if config.precision in ("tf32", "bfloat16") and not isinstance(config.problem, ModelProblemSettings):
        raise refusal("precision", f"'float32' or 'float64', since problem {config.problem.name!r} has no model")


def _has_what_is_scored(config: Config) -> None:
    evaluate, known = config.evaluate, config.known_clients
    if evaluate.selected and not isinstance(config.problem, ModelProblemSettings):
        where = f"evaluate.{evaluate.selected[0]}"
        raise refusal(where, f"nothing, since problem {config.problem.name!r} has no samples to choose from")
    if evaluate.objective and not isinstance(config.problem, ModelProblemSettings):
        reason = f"false, since problem {config.problem.name!r} has no samples, and is scored by all it has anyway"
        raise refusal("evaluate.objective", reason)
    if evaluate.best_round is not None and not isinstance(config.problem, ModelProblemSettings):
        reason = f"null, since problem {config.problem.name!r} has no validation samples to judge rounds by"
        raise refusal("evaluate.best_round", reason)
    if evaluate.clients is not None and known is not None and evaluate.clients > known:
        what = "that train" if evaluate.newcomers is not None else "of the partition"
        raise refusal("evaluate.clients", f"at most {known}, the clients {what}")
    if evaluate.clients is not None and getattr(config.algorithm, "main_clients", "all") != "all":
        # none of those drawn may be among them
        raise refusal("evaluate.clients", "null, since scores are of `algorithm.main_clients` alone")


def _has_newcomers(config: Config) -> None:
    evaluate = config.evaluate
    if evaluate.newcomers is None:
        return
    if not isinstance(config.problem, ModelProblemSettings):
        what = "θ*, ‖F‖ and legal steps are of all clients, and w*(θ) needs no training"
        raise refusal("evaluate.newcomers", f"nothing, since of problem {config.problem.name!r} {what}")
    if config.known_clients is not None and config.known_clients < 1:
        raise refusal("evaluate.newcomers.clients", "fewer of them, so that a client is left to train")
    if (evaluate.fine_tuner_of_newcomers or config.algorithm.fine_tuner_of_clients) is None:
        reason = f"since {config.algorithm.name!r} has no fine-tuner of its own and evaluate.tuned names none"
        example = "{name: gradient_descent, steps: 1, lr: 0.1}"
        raise refusal("evaluate.newcomers.fine_tuner", f"a section such as {example}, {reason}")


def _fits_attackers(config: Config) -> None:
    if config.byzantine is not None:
        has_classes = isinstance(config.problem, ModelProblemSettings) and config.problem.has_classes
        config.byzantine.refuse_settings(config.aggregator, config.weights, has_classes)


def _fits_strategic(config: Config) -> None:
    if config.strategic is not None and config.algorithm.needs_honesty:
        reason = f"since no client of {config.algorithm.name!r} can be strategic: {config.algorithm.needs_honesty}"
        raise refusal("strategic", f"null, {reason}")
    if SQUARED_NORM in config.evaluate.reports and isinstance(config.algorithm, QueryPoints):
        reason = f"since clients of {config.algorithm.name!r} send several vectors a round"
        raise refusal("evaluate.reports", f"no {SQUARED_NORM}, {reason}")


def _fits_compression(config: Config) -> None:
    if config.compression is not None:
        config.compression.refuse(config.algorithm, config.strategic)


def _fits_asynchrony(config: Config) -> None:
    if config.asynchronous is not None:
        config.asynchronous.refuse_method(config.algorithm, config.weights, config.cohort)
        config.asynchronous.refuse_buffer(config.aggregator, config.byzantine)
        config.asynchronous.refuse_times(config.compute_times, config.network)
        config.asynchronous.refuse_chunks(config.engine.clients_per_chunk)


def _fits_network(config: Config) -> None:
    if config.network is not None:
        config.network.refuse_others(config.algorithm, config.compute_times, config.asynchronous)
    if chooses_ratios(config.algorithm) and not isinstance(config.network, SharedBand):
        allowed = "a number or a list of them, or 'network' beside a section `network` whose clients share one band"
        raise refusal("algorithm.ratios", allowed)


def _fits_phases(config: Config) -> None:
    # problems without samples have no such key
    phases = getattr(config.problem, "phases", None)
    if not isinstance(phases, Phases):
        return
    if (total := sum(phases.lengths)) != config.rounds:
        raise refusal("problem.phases.rounds", f"numbers that add up to rounds: {config.rounds}; these are {total}")
    if config.asynchronous is not None:
        raise refusal("asynchronous", "null, since problem.phases are of rounds, and arrivals are of none")
    if config.weights == "samples":
        raise refusal("weights", "'uniform', since with problem.phases clients have other samples in other rounds")
    if config.evaluate.newcomers is not None:
        raise refusal("evaluate.newcomers", "null, since problem.phases are of clients that take part in rounds")


def _fits_schedules(config: Config) -> None:
    steps = config.rounds if config.asynchronous is None else config.asynchronous.num_steps(config.rounds)
    for key, schedule in config.schedules().items():
        if (found := schedule.unfit(steps)) is not None:
            raise refusal(f"{key}.{found[0]}", found[1])


REFUSALS: tuple[Callable[[Config], None], ...] = (
    _fits_gossip,
    _one_vote_a_client,
    _takes_the_mean,
    _may_clip,
    _has_a_model,
    _has_what_is_scored,
    _has_newcomers,
    _fits_attackers,
    _fits_strategic,
    _fits_compression,
    _fits_asynchrony,
    _fits_network,
    _fits_phases,
    _fits_schedules,
)
"""In the order in which they are asked; the first that is raised is what the user reads."""
