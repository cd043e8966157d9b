"""Gradients of the factors of adaptors, scaled by what stands beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ppfl.core.types import Params
    from ppfl.interfaces.mixture import Mixture

_EPSILON = 1e-5


def preconditioned(gradients: Params, params: Params, mixture: Mixture) -> Params:
    """Return (UᵀU + εI)⁻¹ ∇_V and ∇_U (VVᵀ + εI)⁻¹ of each adaptor; of kernels ∇/(‖Gram matrix‖_F + ε); others as they
    are.

    Source: the code of FLoRAL; that the Gram matrix of a kernel is over its channels in between is reconstructed.
    """
    better = dict(gradients)
    for adaptor in mixture.adaptors:
        of_u, of_v = adaptor.output_factor, adaptor.input_factor
        if of_u not in gradients or of_v not in gradients:  # frozen
            continue
        u, v = params[of_u], params[of_v]
        is_kernel = u.ndim == 4
        columns = u.transpose(2, 3).flatten(1, 2) if is_kernel else u
        rows = v.flatten(2) if is_kernel else v
        of_columns, of_rows = columns.mT @ columns, rows @ rows.mT
        if is_kernel:
            better[of_v] = gradients[of_v] / _norms(of_columns)
            better[of_u] = gradients[of_u] / _norms(of_rows)
        else:
            # U begins as 0, whose Gram matrix has no inverse
            little = _EPSILON * torch.eye(u.shape[2], dtype=u.dtype, device=u.device)
            better[of_v] = torch.linalg.solve(of_columns + little, gradients[of_v])
            better[of_u] = torch.linalg.solve(of_rows + little, gradients[of_u].mT).mT
    return better


def _norms(gram: torch.Tensor) -> torch.Tensor:
    """‖G_c‖_F + ε, (adaptors, 1, 1, 1)."""
    return (gram.square().sum(dim=(1, 2)).sqrt() + _EPSILON)[:, None, None, None]
