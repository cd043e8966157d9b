"""Arithmetic on the N×N Gram matrix of N vectors, float64 on the CPU: what rules by distances iterate on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

TIE = 1e-12
"""Numbers that differ by less than this fraction count as equal, so that rounding does not decide between them."""
_MAX_LOST_BITS = 20
_MAX_LOST_BITS_AT_ORIGIN = 4
"""Less, since distances to equal rows are to differ by less than TIE also where nothing is centred."""
_MAX_PASSES = 8


def with_row(matrix: torch.Tensor, row: int, value: torch.Tensor | float) -> torch.Tensor:
    """Return the (N, N') matrix with one row replaced, and where the value is a number one column, too."""
    changed = matrix.clone()
    changed[row] = value
    if not isinstance(value, torch.Tensor):
        changed[:, row] = value
    return changed


def centred(coordinates: torch.Tensor, products: torch.Tensor, centre: int) -> torch.Tensor:
    """(A − 1a_cᵀ) K (A − 1a_cᵀ)ᵀ, exactly 0 in row and column c."""
    # the mean below: a product of three matrices is symmetric but for rounding, and the distance from i to j must not
    # differ from that from j to i
    moved = coordinates - coordinates[centre]
    between = moved @ products @ moved.T
    return (between + between.T) / 2


def squared_distances(gram: torch.Tensor) -> torch.Tensor:
    """‖x_i − x_j‖² = G_ii + G_jj − 2 G_ij, (N, N), 0 on the diagonal, never below 0."""
    squares = gram.diagonal()
    distances = (squares[:, None] + squares[None, :] - 2.0 * gram).clamp_min(0.0)
    return distances.fill_diagonal_(0.0)


def around_centre(products: torch.Tensor, centre: int | None) -> torch.Tensor:
    """Return inner products of x_i − x_c, 0 in row and column c, of products in which these may hold anything."""
    return products if centre is None else with_row(products, centre, 0.0)


def well_centred(
    products_around: Callable[[int | None], torch.Tensor], first: int | None = 0
) -> tuple[torch.Tensor, int | None]:
    """Return (products_around(c), c), c a row around which distances between the majority survive rounding.

    products_around(c) are inner products of x_i − x_c, (N, N), row and column c may hold anything; c None stands for 0.
    c is `first` unless more than 20 bits of those distances cancel around that row, which may be an attacker's, or more
    than 4 where it is None.
    """
    centre = first
    # each is a pass over all columns
    for _ in range(_MAX_PASSES):
        products = products_around(centre)
        best, limit = _far_off(products, centre)
        if best == centre or products[best, best] <= limit:
            break
        centre = best
    return products, centre


def first_centre(products: torch.Tensor) -> int | None:
    """Guess a centre from ⟨x_i, x_j⟩ of a few coordinates: None where rows differ about as much as they are long."""
    # which rows are damaged is found out from products around 0; a damaged centre would spoil those of all others
    if not bool(products.isfinite().all()):
        return None
    best, limit = _far_off(products, None)
    return None if products[best, best] <= limit else best


def _far_off(products: torch.Tensor, centre: int | None) -> tuple[int, float]:
    """Return a row in the midst of the majority, and how large its square may be around c."""
    best, radius = central_row(around_centre(products, centre))
    return best, 2.0 ** (_MAX_LOST_BITS_AT_ORIGIN if centre is None else _MAX_LOST_BITS) * radius


def smallest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Mark the `count` smallest entries of each row of (R, N), as (R, N) bool; ties go to the lowest index."""
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    limit = values.sort(dim=1).values[:, count - 1 : count]
    slack = TIE * limit.abs()
    below = values < limit - slack
    tied = (values <= limit + slack) & ~below
    room = count - below.sum(dim=1, keepdim=True)
    return below | (tied & (tied.cumsum(dim=1) <= room))


def lowest(values: torch.Tensor) -> int:
    """Return the index of the smallest of (N,) values, the lowest one of ties."""
    return int(smallest(values[None, :], 1)[0].nonzero()[0])


def central_row(gram: torch.Tensor) -> tuple[int, float]:
    """Return the row in the midst of the majority, and r²: its ball of radius r holds ⌊N/2⌋ + 1 rows, the least such r.

    The lowest index of ties. With f < N/2 it is at most r from an honest row, and r at most their diameter, while sums
    of distances to all others would be drowned by one attacker far away.
    """
    squares = squared_distances(gram).sort(dim=1).values[:, len(gram) // 2]
    best = lowest(squares)
    return best, float(squares[best])


def squared_distances_to(gram: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """‖x_i − Σ_j a_j x_j‖², (N,), for weights a with sum 1."""
    product = gram @ weights
    return (gram.diagonal() - 2.0 * product + weights @ product).clamp_min(0.0)


def mean_of(marked: torch.Tensor) -> torch.Tensor:
    """Return weights of the mean of the marked vectors; rows of marks (…, N) bool give rows of weights."""
    marks = marked.to(torch.float64)
    return marks / marks.sum(dim=-1, keepdim=True)


def krum_scores(gram: torch.Tensor, f: int) -> torch.Tensor:
    """Return the sums of squared distances from each vector to its N − f − 2 nearest others, (N,)."""
    # at distance 0 every vector would be its own nearest neighbour
    others = squared_distances(gram).fill_diagonal_(torch.inf)
    return others.sort(dim=1).values[:, : len(gram) - f - 2].sum(dim=1)


def around(gram: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return inner products of x_i − Σ_k a_k x_k, (N, N), for weights a with sum 1."""
    product = gram @ weights
    moved = gram - product[:, None] - product[None, :] + weights @ product
    return (moved + moved.T) / 2


def half_around(gram: torch.Tensor, row: int) -> torch.Tensor:
    """Return weights of the mean of the ⌊N/2⌋ + 1 vectors nearest to one of them, itself among them, (N,)."""
    return mean_of(smallest(squared_distances(gram)[row][None, :], len(gram) // 2 + 1)[0])
