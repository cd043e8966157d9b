"""Scores of single clients over the evaluations of a run, where they are wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.core.agree import SharedUserError
from ppfl.core.numbers import in_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from ppfl.engine.setup import Setup

PREFIX = "client_"
"""Before the name of a score: of single clients, not their mean."""
MOST_BYTES = 2**28
"""That the histories of one run may take, in memory and in its result."""


def kept_of_clients(setup: Setup, round: int, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return scores of clients, (M,) or (R, M), by the names that they are kept under; none where none is wanted.

    Raises SharedUserError at the start of a run whose history would take too much.
    """
    if not setup.history:
        return {}
    if round == 0:
        _refuse_much(setup, len(scores))
    return {PREFIX + name: values for name, values in scores.items()}


def refuse_long_pairs(setup: Setup, name: str) -> None:
    """Raise SharedUserError when one number for every pair of clients, at every evaluation, would take too much."""
    num_clients, num_evaluations = setup.problem.client_data.num_clients, _num_evaluations(setup)
    needed = 8 * num_clients**2 * num_evaluations
    if needed > MOST_BYTES:
        raise SharedUserError(
            f"evaluate.reports: {name} of {num_clients} clients and each other at {num_evaluations} evaluations is "
            f"{in_words(needed, 'B')}, more than {in_words(MOST_BYTES, 'B')}; allowed: fewer evaluations "
            f"(evaluate.every is {setup.evaluate_every}), or no {name}"
        )


def _num_evaluations(setup: Setup) -> int:
    return 1 + -(-setup.num_rounds // setup.evaluate_every)


def _refuse_much(setup: Setup, num_scores: int) -> None:
    num_clients, num_evaluations = setup.problem.client_data.num_clients, _num_evaluations(setup)
    needed = 8 * num_scores * num_clients * num_evaluations
    if needed > MOST_BYTES:
        raise SharedUserError(
            f"evaluate.history: {num_scores} scores of {num_clients} clients at {num_evaluations} evaluations are "
            f"{in_words(needed, 'B')}, more than {in_words(MOST_BYTES, 'B')}; allowed: fewer evaluations "
            f"(evaluate.every is {setup.evaluate_every}), fewer evaluate.parts, or false"
        )
