"""What a settings object holds, as one value that can be compared: fields, and all that is kept beside them."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

_PLAIN = (str, bytes, bool, int, float, complex, type(None), PurePath, type)


def content(value: Any, leave_out: Collection[str] = ()) -> Hashable:
    """Return the same for values that are alike in type and in everything they hold, private attributes included.

    leave_out: fields of the value itself that do not count. Objects of a kind that is not known are like themselves
    alone, as long as they live: taken for different where they may be equal, never the other way round.
    """
    kind = type(value)
    if isinstance(value, BaseModel):
        # `model_dump` would leave out private attributes, excluded fields and what was kept in the instance
        kept = {**vars(value), **(value.__pydantic_private__ or {}), **(value.__pydantic_extra__ or {})}
        return kind, tuple((name, content(kept[name])) for name in sorted(kept) if name not in leave_out)
    if isinstance(value, torch.Tensor):
        bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return kind, value.dtype, tuple(value.shape), str(value.device), bits
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        return kind, value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, _PLAIN):
        return kind, repr(value) if isinstance(value, float | complex) else value
    if is_dataclass(value):
        return kind, tuple((field.name, content(getattr(value, field.name))) for field in fields(value))
    if kind in (list, tuple):
        return kind, tuple(map(content, value))
    if kind in (set, frozenset):
        return kind, frozenset(map(content, value))
    if kind is dict:
        return kind, tuple((content(key), content(value[key])) for key in value)
    return kind, id(value)
