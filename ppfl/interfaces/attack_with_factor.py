"""Attacks that have a strength, given as a number or searched for in every round."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import PositiveFloat

from ppfl.interfaces.aggregator import NotFiniteError, TooFewVectorsError
from ppfl.interfaces.attack import AttackOnVectors, Knowledge, rows_of

if TYPE_CHECKING:
    from ppfl.rows.client_matrix import ClientMatrix

_TRIALS = 16


class AttackWithFactor(AttackOnVectors, ABC):
    """An attack whose strength is a number; `optimal` takes the aggregate farthest from the honest mean.

    `optimal` is found in every round by a line search of 16 aggregations with the rule of the run, which the attackers
    know (Shejwalkar & Houmansadr, NDSS 2021). An attack says what it sends with a factor:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.comm.solo import SoloCommunicator
    >>> from ppfl.interfaces.attack import Knowledge
    >>> from ppfl.interfaces.attack_with_factor import AttackWithFactor
    >>> from ppfl.interfaces.pre_aggregator import RandomKey
    >>> from ppfl.rows.client_matrix import ClientMatrix
    >>> class Shift(AttackWithFactor):
    ...     name: Literal["shift"]
    ...
    ...     def vectors(self, block, knowledge):
    ...         return block.honest.mean(dim=0, keepdim=True) + self.number
    >>> matrix = ClientMatrix(SoloCommunicator(), torch.tensor([[0.0], [1.0], [2.0], [0.0]]), 1)
    >>> median = lambda rows: rows.coordinatewise(lambda block: block.quantile(0.5, dim=0))
    >>> hostile = torch.tensor([False, False, False, True])
    >>> sent = Shift(name="shift", factor="optimal")(matrix, hostile, Knowledge(RandomKey(), median))
    >>> median(sent)
    tensor([1.5000])
    """

    factor: PositiveFloat | Literal["optimal"]
    """Strength: a number, or `optimal`, found in every round."""

    def prepare(self, matrix: ClientMatrix, byzantine: torch.Tensor, knowledge: Knowledge) -> AttackOnVectors:
        """Choose the factor. Collective."""
        if self.factor != "optimal":
            return self
        found = worst_factor(lambda x: self.model_copy(update={"factor": x}), matrix, byzantine, knowledge)
        return self.model_copy(update={"factor": found})

    @property
    def number(self) -> float:
        """The factor, once it has been chosen."""
        assert not isinstance(self.factor, str)
        return self.factor


def worst_factor(
    attack_with: Callable[[float], AttackOnVectors], matrix: ClientMatrix, byzantine: torch.Tensor, knowledge: Knowledge
) -> float:
    """Return the factor x >= 0 that takes the aggregate farthest from the honest mean, by line search. Collective.

    x grows by 1, 4/3, 16/9, … times 1 as long as that helps, and is then refined by steps that shrink by 3/4 and change
    direction whenever they do not help; 16 trials in all. Source of the idea: Shejwalkar & Houmansadr, NDSS 2021.
    """
    honest = (~byzantine & matrix.finite()).to(torch.float64)
    mean = matrix.select(rows_of(honest > 0)).combine(torch.full((int(honest.sum()),), 1.0 / float(honest.sum())))

    def damage(factor: float) -> float:
        sent = attack_with(factor).replace(matrix, byzantine, knowledge)
        try:
            aggregate = knowledge.aggregate(sent)
        except (NotFiniteError, TooFewVectorsError):
            # for what honest clients send: the server is about to find out itself that they have diverged
            return 0.0
        return float(torch.linalg.vector_norm(aggregate.to(torch.float64) - mean.to(torch.float64)))

    # aggregates have the same bits on every rank, so that all ranks take the same turns without being told
    best, found, step, growing = 0.0, damage(0.0), 1.0, True
    for _ in range(_TRIALS - 1):
        trial = max(best + step, 0.0)
        new = damage(trial)
        if new > found:
            best, found = trial, new
            step *= 4.0 / 3.0 if growing else 1.0
        else:
            growing = False
            step *= -3.0 / 4.0
    return best
