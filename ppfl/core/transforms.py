"""Functions of one client, applied to K of them by torch.func.vmap, and whether one is being transformed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Report = Mapping[str, float | torch.Tensor]

Tensors = TypeVar("Tensors")
"""Tensors in any nest of dicts and tuples."""


def is_transformed() -> bool:
    """Say whether the caller runs inside of torch.func.vmap, grad or vjp, which a plain graph would not survive."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_vectorized() -> bool:
    """Say whether the caller runs inside of torch.func.vmap: its tensors are those of several clients at once."""
    if not is_transformed():
        return False
    vmap = torch._C._functorch.TransformType.Vmap
    return any(level.key() == vmap for level in torch._C._functorch.get_interpreter_stack() or ())


def of_each(function: Callable[..., Any], *inputs: Any) -> Any:
    """Return function(*inputs); where the first of them stands for many tensors, as lanes do, of all of them by vmap.

    For functions that move numbers about, which lanes know no way to: their bits do not depend on how many there are.
    """
    vectorized = getattr(inputs[0], "vectorized", None)
    return function(*inputs) if vectorized is None else vectorized(function, inputs)


def for_all(
    function: Callable[..., tuple[Tensors, Report]], *inputs: Any, in_dims: Any = 0
) -> tuple[Tensors, dict[str, float | torch.Tensor]]:
    """Return what a function makes of K clients, tensors with a first dimension K, and what it reports of them.

    inputs: tensors in nests of dicts and tuples, with a dimension K where `in_dims` says, None: the same for all.
    Numbers in a report are those of every client, since functions do not branch on values.

    >>> import torch
    >>> from ppfl.core.transforms import for_all
    >>> for_all(lambda w, lr: (w - lr, {"steps": 1.0, "norm": w.abs().sum()}), torch.eye(2), 0.5, in_dims=(0, None))
    (tensor([[ 0.5000, -0.5000],
            [-0.5000,  0.5000]]), {'steps': 1.0, 'norm': tensor([1., 1.])})
    """
    numbers: dict[str, float | torch.Tensor] = {}

    def one(*of_client: Any) -> tuple[Tensors, dict[str, torch.Tensor]]:
        tensors, report = function(*of_client)
        numbers.update({name: value for name, value in report.items() if not isinstance(value, torch.Tensor)})
        return tensors, {name: value for name, value in report.items() if isinstance(value, torch.Tensor)}

    tensors, told = torch.func.vmap(one, in_dims=in_dims)(*inputs)
    return tensors, {**numbers, **told}
