"""Attackers at work: what becomes of the vectors of one cohort, and whether the rules can cope at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.interfaces.attack import AttackOnVectors, Knowledge
from ppfl.interfaces.byzantine import adds_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.engine.participants import CohortSampler, Roles
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.aggregator import Aggregator
    from ppfl.interfaces.byzantine import Byzantine
    from ppfl.interfaces.pre_aggregator import RandomKey
    from ppfl.rows.client_matrix import ClientMatrix


def check_cohort(
    roles: Roles, cohort: CohortSampler, aggregator: Aggregator, byzantine: Byzantine | None, least: int = 1,
    buffer: int | None = None, *, may_be_fewer: bool = False,
) -> None:  # fmt: skip
    """Raise ValueError, beginning with the key, when a cohort may have no honest client or be too small for the rule,
    or for a method that needs at least so many clients.

    The rule is checked for the vectors that it will get: the cohort's, or of an asynchronous run those of a `buffer`,
    and those of attackers beside them. may_be_fewer: a network may lose some of them (see `least_arrivals`).
    """
    if cohort.size < least:
        raise ValueError(f"cohort: {cohort.size} client(s) a round, and the method needs at least {least}")
    num_vectors = num_sent = cohort.size if buffer is None else buffer
    if not adds_up(aggregator, byzantine) and num_sent > len(cohort.eligible):
        raise ValueError(
            f"asynchronous.buffer: {num_sent} clients wanted, each of whom is in a buffer once, but "
            f"{len(cohort.eligible)} have training samples"
        )
    if byzantine is not None:
        hostile = len(roles.byzantine.intersection(cohort.eligible))
        if buffer is None and isinstance(byzantine.attack, AttackOnVectors) and cohort.size <= hostile:
            raise ValueError(
                f"cohort: {cohort.size} clients a round, of which all may be Byzantine; "
                f"with {hostile} Byzantine clients at least {hostile + 1}"
            )
        num_vectors += byzantine.num_beside
        num_hostile = hostile + byzantine.num_beside
        # a buffer, like a cohort, of as many as there are has all of them, hence the same attackers each time
        varies = may_be_fewer or (byzantine.placement == "among" and num_sent < len(cohort.eligible))
        try:
            byzantine.attack.check(num_vectors, None if varies else num_hostile)
        except ValueError as error:
            raise ValueError(f"byzantine.attack.{error}") from error
    try:
        aggregator.check(num_vectors)
    except ValueError as error:
        raise ValueError(f"aggregator: {error}") from error


def least_arrivals(
    roles: Roles, cohort: CohortSampler, aggregator: Aggregator, byzantine: Byzantine | None, least: int
) -> int:
    """Return of how many clients the server has to hear in a round, for the rule and the attack to be defined for them
    and for all larger numbers up to the cohort, and `least` at any rate."""
    if adds_up(aggregator, byzantine):
        return least
    beside, hostile = 0, 0
    if byzantine is not None:
        beside = byzantine.num_beside
        if isinstance(byzantine.attack, AttackOnVectors):
            hostile = len(roles.byzantine.intersection(cohort.eligible))

    def is_enough(number: int) -> bool:
        try:
            aggregator.check(number + beside)
            if byzantine is not None:
                byzantine.attack.check(number + beside, None)
        except ValueError:
            return False
        return number > hostile

    number = cohort.size
    while number > least and is_enough(number - 1):
        number -= 1
    return number


def attack(setup: Setup, matrix: ClientMatrix, cohort: Sequence[int], key: RandomKey) -> ClientMatrix:
    """Return the vectors that the server gets; rows are those of the cohort, then of attackers beside it. Collective.

    An attacker beside the clients begins with the vector of an honest client, the first one with that of the first
    client of the cohort, and so on in turn: what it sends when it does not attack.
    """
    byzantine = setup.byzantine
    if byzantine is None or not isinstance(byzantine.attack, AttackOnVectors):
        return matrix
    marked = torch.tensor(hostile_rows(setup, cohort))
    if byzantine.num_beside:
        matrix = matrix.select(torch.arange(len(marked)) % len(cohort))
    if not byzantine.attacks_in(key.round, key.seed) or not marked.any():
        return matrix
    if not (matrix.finite() & ~marked).any():
        return matrix  # the honest clients have diverged, and nothing is left to attack
    return byzantine.attack(matrix, marked, Knowledge(key, lambda changed: setup.aggregator(changed, key)))


def hostile_rows(setup: Setup, cohort: Sequence[int]) -> list[bool]:
    """Return which rows are of attackers."""
    num_beside = setup.byzantine.num_beside if setup.byzantine is not None else 0
    return [client in setup.roles.byzantine for client in cohort] + [True] * num_beside


def name_of_row(setup: Setup, cohort: Sequence[int], row: int) -> str:
    """Return who sent a row, in words."""
    names = setup.problem.client_data.client_names
    return f"client {names[cohort[row]]}" if row < len(cohort) else f"attacker {row - len(cohort)}"
