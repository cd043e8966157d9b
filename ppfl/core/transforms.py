"""Whether a function is being transformed by torch.func."""

from __future__ import annotations

import torch


def is_transformed() -> bool:
    """Say whether the caller runs inside of torch.func.vmap, grad or vjp, which a plain graph would not survive."""
    return torch._C._functorch.peek_interpreter_stack() is not None
