"""Layers of several clients by one kernel: torch's own layers, client by client, with derivatives of any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ppfl.networks import batched
from ppfl.networks.batched_normalization import group_norm

K, S = 3, 2
Layer = Callable[..., torch.Tensor]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def plain_pool(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(torch.nn.functional.max_pool2d(x, 2))


LAYERS: dict[str, tuple[Layer, Layer, list[tuple[int, ...]]]] = {
    "product": (batched.product, torch.matmul, [(S, 4), (4, 5)]),
    "transposed": (
        lambda a, b: batched.product(a, b, transpose_a=True, transpose_b=True), lambda a, b: a.T @ b.T,
        [(4, S), (5, 4)],
    ),
    "first transposed": (
        lambda a, b: batched.product(a, b, transpose_a=True), lambda a, b: a.T @ b, [(4, S), (4, 5)],
    ),
    "second transposed": (
        lambda a, b: batched.product(a, b, transpose_b=True), lambda a, b: a @ b.T, [(S, 4), (5, 4)],
    ),
    "affine": (batched.affine, torch.nn.functional.linear, [(S, 4), (5, 4), (5,)]),
    "convolution": (
        lambda x, w, b: batched.convolution(x, w, b, 0), torch.nn.functional.conv2d, [(S, 3, 5, 4), (4, 3, 3, 3), (4,)],
    ),
    "padded": (
        lambda x, w, b: batched.convolution(x, w, b, 2), lambda *of: torch.nn.functional.conv2d(*of, padding=2),
        [(S, 1, 4, 5), (2, 1, 3, 3), (2,)],
    ),
    "pool": (batched.pool_and_relu, plain_pool, [(S, 3, 6, 5)]),
    "group norm": (
        lambda x, w, b: group_norm(x, 2, w, b), lambda x, w, b: torch.nn.functional.group_norm(x, 2, w, b),
        [(S, 4, 3, 2), (4,), (4,)],
    ),
}  # fmt: skip


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> tuple[Layer, Layer, list[tuple[int, ...]]]:
    return LAYERS[request.param]


def test_one_client(layer: tuple[Layer, Layer, list[tuple[int, ...]]]) -> None:
    """Values, gradients and gradients of gradients."""
    ours, plain, shapes = layer
    inputs = [draw(*shape).requires_grad_() for shape in shapes]
    torch.testing.assert_close(ours(*inputs), plain(*inputs), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(ours, inputs)
    assert torch.autograd.gradgradcheck(ours, inputs)


def stacked(shapes: list[tuple[int, ...]], own: list[bool], last: bool) -> tuple[list[torch.Tensor], tuple[Any, ...]]:
    """Return inputs, those that are a client's own with K of them, and where K is."""
    inputs = [draw(K, *shape) if is_own else draw(*shape) for shape, is_own in zip(shapes, own, strict=True)]
    if last:
        inputs = [x.movedim(0, -1) if is_own else x for x, is_own in zip(inputs, own, strict=True)]
    return inputs, tuple((-1 if last else 0) if is_own else None for is_own in own)


@pytest.mark.parametrize("last", [False, True], ids=["K first", "K last"])
@pytest.mark.parametrize("number_shared", [0, 1, 2])
def test_clients_side_by_side(
    layer: tuple[Layer, Layer, list[tuple[int, ...]]], number_shared: int, last: bool
) -> None:  # fmt: skip
    """With parameters of their own and with shared ones: values, gradients, and products with Hessians."""
    ours, plain, shapes = layer
    # of a single input there is nothing that could be shared
    own = [number != number_shared - 1 or len(shapes) == 1 for number in range(len(shapes))]
    inputs, in_dims = stacked(shapes, own, last)

    def all_of(function: Layer) -> Callable[..., tuple[torch.Tensor, ...]]:
        def loss(*of: torch.Tensor) -> torch.Tensor:
            return function(*of).sin().sum()

        def slope(*of: torch.Tensor) -> torch.Tensor:
            gradients = torch.func.grad(loss, argnums=tuple(range(len(of))))(*of)
            return sum(((g * g.detach().cos()).sum() for g in gradients), torch.zeros((), dtype=torch.float64))

        def found(*of: torch.Tensor) -> tuple[torch.Tensor, ...]:
            numbers = tuple(range(len(of)))
            return (function(*of), *torch.func.grad(loss, numbers)(*of), *torch.func.grad(slope, numbers)(*of))

        return found

    together = torch.func.vmap(all_of(ours), in_dims=in_dims)(*inputs)
    for client in range(K):
        one = [x if dim is None else x.select(dim, client) for x, dim in zip(inputs, in_dims, strict=True)]
        for found, wanted in zip(together, all_of(plain)(*one), strict=True):
            torch.testing.assert_close(found[client], wanted, rtol=1e-10, atol=1e-10)


def test_nothing_is_computed_for_what_needs_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are data: nobody asks for their gradient."""
    monkeypatch.setattr(batched, "_sum_over_windows", None)
    x, weight, bias = draw(K, S, 1, 5, 5), draw(K, 2, 1, 3, 3), draw(K, 2)
    found = torch.func.vmap(torch.func.grad(lambda w, b, x: batched.convolution(x, w, b, 0).sum(), argnums=(0, 1)))(
        weight, bias, x
    )
    assert [tuple(value.shape) for value in found] == [(K, 2, 1, 3, 3), (K, 2)]
