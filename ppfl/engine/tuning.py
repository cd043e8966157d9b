"""The fine-tuner applied to mini-batch after mini-batch of one client, outside of rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.interfaces.client_data import join, num_samples
from ppfl.interfaces.method import ExactFineTuner, Tuned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ppfl.core.types import Params
    from ppfl.interfaces.advanced_client import AdvancedClient
    from ppfl.interfaces.method import FineTuner
    from ppfl.interfaces.problem import Problem


def applications(
    tuner: FineTuner,
    problem: Problem,
    shared: Params,
    local: Params,
    advanced: AdvancedClient,
    epochs: Iterable[int],
    first_draw: int,
) -> Iterator[Tuned]:
    """Yield what the fine-tuner makes of w with every batch of the client's training samples, epoch after epoch.

    An exact one is applied to all of them at once, since it keeps nothing of the batches before. first_draw: the round
    that the draws of the first application are keyed by; those of the next are by the next.
    """
    number = 0
    for epoch in epochs:
        batches = advanced.epoch(shared, epoch)
        if isinstance(tuner, ExactFineTuner):
            every = list(batches)
            batches = iter([join(every)] if every else [])
        for data in batches:
            draws = tuner.draws(problem.objective, advanced.client, first_draw + number, num_samples(data))
            start = tuner.begin(local, draws) if number == 0 else local
            tuned = tuner.tune(problem.objective, shared, start, data, draws)
            local, number = tuned.local, number + 1
            yield tuned
