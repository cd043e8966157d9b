"""What a rule is that makes one vector of those of N clients, some of which may be Byzantine."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, final

import torch
from pydantic import Field, model_validator

from ppfl.core.plugins import ChosenFrom, PlugIn, find
from ppfl.interfaces.pre_aggregator import Bound, PreAggregator, RandomKey

if TYPE_CHECKING:
    from ppfl.rows.client_matrix import ClientMatrix

Chosen = TypeVar("Chosen", bound=PlugIn)


class TooFewVectorsError(ValueError):
    """What is left without NaN and inf is not enough for a rule."""


class NotFiniteError(ValueError):
    """The mean was to be taken of vectors with NaN or inf; `rows` are their numbers."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__(f"vectors {', '.join(map(str, rows))} have NaN or inf, which the mean does not survive")
        self.rows = rows


def _takes_f(step: Any) -> bool:
    name = step.get("name") if isinstance(step, dict) else None
    kind = find("ppfl.pre_aggregators", name) if isinstance(name, str) else None
    return kind is not None and "f" in kind.model_fields


class Aggregator(PlugIn):
    """N client vectors in, one vector out; one vote a client.

    Vectors with NaN or inf count as Byzantine: they are left out, and f is that much smaller, though not below 0.

    A rule is a short function of a client matrix, and never says on how many ranks that lies. What it may ask of the
    matrix stands in `ppfl.rows.client_matrix`; one that chooses among values asks for them `exact`:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.comm.solo import SoloCommunicator
    >>> from ppfl.interfaces.aggregator import Aggregator
    >>> from ppfl.rows.client_matrix import ClientMatrix
    >>> from ppfl.interfaces.pre_aggregator import Bound, RandomKey
    >>> class Midrange(Aggregator):
    ...     name: Literal["midrange"]
    ...
    ...     def bound(self):
    ...         return Bound(2, "N >= 2")
    ...
    ...     def rule(self, matrix):
    ...         return matrix.coordinatewise(lambda block: (block.amax(dim=0) + block.amin(dim=0)) / 2)
    >>> vectors = torch.tensor([[0.0, 4.0], [1.0, 6.0], [4.0, 5.0], [torch.nan, 5.0]])
    >>> Midrange(name="midrange")(ClientMatrix(SoloCommunicator(), vectors, 2), RandomKey())
    tensor([2., 5.])
    >>> Midrange(name="midrange").check(1)
    Traceback (most recent call last):
    ValueError: midrange needs N >= 2, here at least 2 vectors; there are 1
    """

    before: tuple[Annotated[PreAggregator, ChosenFrom("ppfl.pre_aggregators")], ...] = Field(default=(), strict=False)
    """What is done to the vectors first, in this order; an `f` that is left out there is the rule's own."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_f(cls, values: Any) -> Any:
        """Hand f on to what comes before and does not say its own, so that equal rules have equal settings."""
        if not isinstance(values, dict) or "f" not in values or not isinstance(values.get("before"), list | tuple):
            return values
        before = [{"f": values["f"], **step} if _takes_f(step) else step for step in values["before"]]
        return {**values, "before": before}

    def bound(self) -> Bound:
        """Return how many vectors the rule takes at least, after what comes before it."""
        return Bound(1, "N >= 1")

    @abstractmethod
    def rule(self, matrix: ClientMatrix) -> torch.Tensor:
        """Return the aggregate of finite vectors, shape (D,), the same on every rank. Collective."""

    def __call__(self, matrix: ClientMatrix, key: RandomKey) -> torch.Tensor:
        """Return the aggregate, shape (D,), the same on every rank. Collective.

        Raises TooFewVectorsError when not enough of them are finite.
        """
        found = matrix.if_finite(lambda: self._of_finite(matrix, key))
        if found is not None:
            return found
        finite = matrix.finite()
        left, chosen = matrix.select(finite.nonzero()[:, 0]), self.without(int((~finite).sum()))
        try:
            chosen.check(left.num_vectors)
        except ValueError as error:
            raise TooFewVectorsError(f"without vectors that have NaN or inf: {error}") from error
        return chosen._of_finite(left, key)

    def _of_finite(self, matrix: ClientMatrix, key: RandomKey) -> torch.Tensor:
        for step in self.before:
            matrix = step(matrix, key)
        return self.rule(matrix)

    def check(self, num_vectors: int) -> None:
        """Raise ValueError, with the inequality, when the rule or what comes before it is undefined for N vectors."""
        number, origin = num_vectors, ""
        for position, step in enumerate(self.before):
            step.bound().check(f"before[{position}] {step.name}", number, origin)
            number = step.num_outputs(number)
            origin = f" ({num_vectors} before {step.name})" if number != num_vectors else origin
        self.bound().check(self.name, number, origin)

    def without(self, removed: int) -> Self:
        """Return the rule for that many vectors, taken for Byzantine, fewer: f is smaller, here and in `before`."""
        before = tuple(_with_less_f(step, removed) for step in self.before)
        return _with_less_f(self, removed).model_copy(update={"before": before})


class WeightedMean(Aggregator):
    """Σ_m p_m x_m with the run's weights p; called on a matrix it gives every row the same weight.

    With nothing before it, it is a sum: the engine adds up what clients send, and such a rule has but a name to give:

    >>> from typing import Literal
    >>> from ppfl.interfaces.aggregator import WeightedMean, is_sum
    >>> class Average(WeightedMean):
    ...     name: Literal["average"]
    >>> is_sum(Average(name="average"))
    True
    >>> is_sum(Average(name="average", before=[{"name": "clipping", "threshold": 1.0}]))
    False
    """

    @final
    def __call__(self, matrix: ClientMatrix, key: RandomKey) -> torch.Tensor:
        """Return the mean; raises NotFiniteError when a vector has NaN or inf and nothing comes before the mean."""
        if is_sum(self) and not matrix.finite().all():
            raise NotFiniteError((~matrix.finite()).nonzero()[:, 0].tolist())
        return super().__call__(matrix, key)

    @final
    def rule(self, matrix: ClientMatrix) -> torch.Tensor:
        """Return the mean of the rows, shape (D,)."""
        return matrix.combine(torch.full((matrix.num_vectors,), 1.0 / matrix.num_vectors, dtype=torch.float64))


def is_sum(aggregator: Aggregator) -> bool:
    """Say whether the weighted sum of all that is sent is enough, and no row has to be kept."""
    return isinstance(aggregator, WeightedMean) and not aggregator.before


def _with_less_f(plug_in: Chosen, removed: int) -> Chosen:
    f = getattr(plug_in, "f", None)
    return plug_in if f is None else plug_in.model_copy(update={"f": max(f - removed, 0)})
