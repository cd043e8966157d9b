"""Methods that say for each client of a cohort how much of whose vector it gets."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from ppfl.interfaces.personal_aggregates import PersonalAggregates

if TYPE_CHECKING:
    import torch


MIXING = "mixing"
"""What `evaluate.reports` calls W."""


class Mixing(PersonalAggregates):
    """Client i receives Σ_j W_ij x_j of what the cohort sends, W row-stochastic and made of inner products ⟨x_i, x_j⟩.

    All rows are mixed from what was sent, so that the order of clients does not matter. Clients outside of the cohort
    keep what they received last. Attackers beside the clients are columns of W; nobody asks for their rows.

    A method says how W is made:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.interfaces.method import ClientStep
    >>> from ppfl.interfaces.mixing import Mixing
    >>> class Nearest(Mixing):
    ...     name: Literal["nearest"]
    ...
    ...     def client(self, objective, message, state, data, draws):
    ...         return ClientStep(objective.shared_gradient(message, state["local"], data), state)
    ...
    ...     def receive(self, state, own):
    ...         return {**state, "own": own}
    ...
    ...     def mixing(self, products, weights):
    ...         return (products == products.fill_diagonal_(0).amax(dim=1, keepdim=True)).double()
    >>> Nearest(name="nearest").mixing(torch.tensor([[1.0, 0.1, 0.9], [0.1, 1.0, 0.2], [0.9, 0.2, 1.0]]), torch.ones(3))
    tensor([[0., 0., 1.],
            [0., 0., 1.],
            [1., 0., 0.]], dtype=torch.float64)
    """

    needs_mean: ClassVar[str] = "each client gets a weighted mean of its own, and nobody one vector made of all"
    least_cohort: ClassVar[int] = 2

    @abstractmethod
    def mixing(self, products: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return W of N finite vectors, (N, N), rows ≥ 0 with sum 1; float64 on the CPU, like all that it is given.

        products: ⟨x_i, x_j⟩, (N, N); weights: of the vectors in a mean, (N,), numbers of samples or 1. Each rank asks
        by itself, so that nothing may be drawn here.
        """
