"""Learning from labels at run time, put together from samples and a model."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ppfl.core.agree import SharedUserError, on_every_rank
from ppfl.core.errors import UserError
from ppfl.interfaces.problem import Problem
from ppfl.interfaces.shift import shifted
from ppfl.interfaces.theory import Theory
from ppfl.networks.memory import bytes_of_client, logits_shape
from ppfl.networks.mixture import mixture_of
from ppfl.networks.module_checks import refuse_unvectorized
from ppfl.problems._own_tokens import with_own_tokens
from ppfl.problems._supervised_data import SupervisedData
from ppfl.problems._supervised_objective import Made, Supervised
from ppfl.problems._supervised_scores import SupervisedScores

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.interfaces.dataset import FederatedSamples
    from ppfl.interfaces.placement import Placement
    from ppfl.interfaces.selection import Selection
    from ppfl.interfaces.split import Parts
    from ppfl.interfaces.task import Task
    from ppfl.networks.model import Model, Stage, Takes
    from ppfl.networks.model_problem import ModelProblemSettings
    from ppfl.networks.training import Augmentation

    MakeObjective = Callable[[Made, Placement, Task], Supervised]
    MakeData = Callable[..., SupervisedData]


logger = logging.getLogger(__name__)

_SHOWN = 3


class SupervisedTheory(Theory):
    """Sizes of the problem; nothing is known of its minimum."""

    def __init__(self, objective: Supervised, client_data: SupervisedData) -> None:
        self._objective = objective
        self._client_data = client_data

    def facts(self) -> dict[str, float]:
        """Return numbers of parameters, samples and classes."""
        sizes: dict[bool, int] = {True: 0, False: 0}
        frozen = self._objective.frozen
        for stage in self._objective.stages:
            for name, parameter in stage.parameters.items():
                if name not in frozen:
                    sizes[name in self._objective.local_names] += math.prod(parameter.shape)
        data = self._client_data
        num_frozen = float(sum(value.numel() for value in frozen.values()))
        return {
            "num_shared_parameters": float(sizes[False]),
            "num_local_parameters": float(sizes[True]),
            **({"num_frozen_parameters": num_frozen} if frozen else {}),
            "num_train_samples": float(sum(data.num_train_samples)),
            "num_validation_samples": float(sum(data.num_validation_samples)),
            "num_test_samples": float(sum(data.num_test_samples)),
            "num_classes": float(data.num_classes),
        }


@dataclass(frozen=True, eq=False)
class SupervisedProblem(Problem):
    """A task with a model, a data set and a split."""

    objective: Supervised
    client_data: SupervisedData
    scores: SupervisedScores
    newcomers: SupervisedProblem | None = field(default=None, kw_only=True)

    def all_local(self) -> SupervisedProblem:
        """Return the same f_m on the same samples with all parameters of the model local."""
        problem = put_together(self.objective.all_local(), self.client_data, type(self.scores), self.scores.task)
        return problem.scored_on(self.scores.selection)

    def scored_on(self, selection: Selection) -> SupervisedProblem:
        """Return the same problem, scored on some of the samples."""
        scores = type(self.scores)(self.objective, self.client_data, self.scores.task, selection)
        # who is held out is scored whoever else is
        newcomers = self.newcomers and self.newcomers.scored_on(replace(selection, clients=None))
        return replace(self, scores=scores, newcomers=newcomers)


def put_together(
    objective: Supervised, client_data: SupervisedData, scores: type[SupervisedScores], task: Task
) -> SupervisedProblem:
    """Return the problem of an objective on the samples of some clients. Collective."""
    theory = SupervisedTheory(objective, client_data)
    return SupervisedProblem(objective, client_data, scores(objective, client_data, task), theory)


_ASSUMED_CLASSES = 128
"""Of data whose labels nobody has read yet, when K is chosen."""


def _bytes_of_client(
    settings: ModelProblemSettings, placement: Placement
) -> Callable[[tuple[int, ...], int, int | None], int]:
    def needed(input_shape: tuple[int, ...], num_samples: int, vocabulary_size: int | None) -> int:
        takes = _takes_these(settings.split_model, vocabulary_size)
        stages = settings.stages(input_shape, vocabulary_size or _ASSUMED_CLASSES)
        frozen = settings.parts_of(stages).frozen
        return bytes_of_client(stages, input_shape, placement.dtype, num_samples, takes=takes, frozen=frozen)

    return needed


def build_supervised(
    settings: ModelProblemSettings,
    placement: Placement,
    clients_per_chunk: int | None,
    make: MakeObjective,
    scores: type[SupervisedScores],
    task: Task,
    make_data: MakeData = SupervisedData,
) -> SupervisedProblem:
    """Load the samples, agree on the number of classes, and build the stages of the model. Collective.

    make: (what it is made of, placement, task) -> what is minimized; make_data: what samples become.
    Raises UserError, on every rank, where task, labels, samples and model do not fit each other.
    """
    if settings.batch_size != "all":
        placement = replace(placement, samples_a_round=settings.batch_size)
    placement = replace(placement, bytes_of_client=_bytes_of_client(settings, placement))
    samples = settings.dataset.load(placement, clients_per_chunk)
    if settings.dataset.shift is not None:
        samples = shifted(samples, settings.dataset.shift, placement)
    if not any(samples.num_train_samples):
        raise SharedUserError("problem.dataset: no client has a training sample")
    if (normalization := settings.dataset.normalize) is not None:
        on_every_rank(placement.communicator, lambda: normalization.check(samples.input_shape, samples.vocabulary_size))
    _tell_who_is_not_tested(samples)
    if settings.own_tokens is not None:
        samples, task = with_own_tokens(samples, settings.own_tokens, task, placement)
    data = make_data(samples, settings.batch_size, placement, task, normalization)
    stages, parts = on_every_rank(placement.communicator, lambda: _cut(settings, samples, data, task))
    augmentation = _augmentation(settings, samples.input_shape)
    data.train_with(augmentation, has_keys=any(stage.is_random for stage in stages))
    mixture = mixture_of(stages, settings.split.floral)
    made = Made(stages, parts, data.num_classes, settings.training, mixture, samples.num_own_tokens)
    objective = make(made, placement, task)
    if placement.held_out is None:
        return put_together(objective, data, scores, task)
    held_out = placement.held_out.members(data.client_names, data.num_train_samples)
    others = np.setdiff1d(np.arange(data.num_clients), held_out)
    problem, newcomers = (
        put_together(objective.of_some(chosen), data.of_some(chosen), scores, task) for chosen in (others, held_out)
    )
    return replace(problem, newcomers=newcomers)


def _tell_who_is_not_tested(samples: FederatedSamples) -> None:
    """Log which clients with training samples have nothing to be tested on, where others have."""
    trains, is_tested = (np.array(of) > 0 for of in (samples.num_train_samples, samples.num_test_samples))
    lacking = np.flatnonzero(trains & ~is_tested)
    if not len(lacking) or not is_tested.any():
        return
    shown = ", ".join(repr(samples.client_names[client]) for client in lacking[:_SHOWN])
    if not (trains & is_tested).any():
        logger.warning("%s: has no client in common with training, whose are %s, …", samples.test_from, shown)
        return
    who = f"{len(lacking):,} of {int(trains.sum()):,} clients with training samples have no test samples: {shown}"
    logger.info("%s: %s%s", samples.test_from, who, ", …" if len(lacking) > _SHOWN else "")


def _augmentation(settings: ModelProblemSettings, input_shape: tuple[int, ...]) -> Augmentation | None:
    """Return how images are changed; raises SharedUserError for samples that are none, and for a crop beyond them."""
    augmentation = settings.training.augmentation if settings.training else None
    if augmentation is None:
        return None
    if len(input_shape) != 3:
        raise SharedUserError(
            f"problem.training.augmentation: for images (channels, height, width); samples have shape {input_shape}"
        )
    if augmentation.crop >= min(input_shape[1:]):
        raise SharedUserError(
            f"problem.training.augmentation.crop: is {augmentation.crop}, which can leave nothing of images of shape "
            f"{input_shape} (channels, height, width); allowed: less than their height and width"
        )
    return augmentation


def _cut(
    settings: ModelProblemSettings, samples: FederatedSamples, data: SupervisedData, task: Task
) -> tuple[tuple[Stage, ...], Parts]:
    """Return the stages and what becomes of their parameters.

    Raises UserError unless the model takes these samples, and gives what the task needs, and globs fit its names.
    """
    model = settings.split_model
    takes = _takes_these(model, samples.vocabulary_size)
    stages = settings.stages(samples.input_shape, data.num_classes, max(samples.num_own_tokens or (0,)))
    needed, found = task.output_shape(data.labels), logits_shape(stages, samples.input_shape, takes=takes)
    if found != (1, *needed):
        sizes = " × ".join(map(str, found[1:])) or "one number"
        raise UserError(
            f"problem.model: {model.name} makes {sizes} of a sample; the task {task.name} needs "
            f"{' × '.join(map(str, needed))} with these labels"
        )
    if data.clients_per_chunk > 1:
        refuse_unvectorized(stages, samples.input_shape, takes)
    return stages, settings.parts_of(stages)


def _takes_these(model: Model, vocabulary_size: int | None) -> Takes:
    """Return what samples are, which the model must take. Raises UserError where it does not."""
    given: Takes = "numbers" if vocabulary_size is None else "tokens"
    if model.takes != given:
        raise UserError(f"problem.model: {model.name} takes {model.takes}; the samples of problem.dataset are {given}")
    return given
