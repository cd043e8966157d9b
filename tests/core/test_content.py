"""Two things are alike when all that they hold is, what a dump of a settings class leaves out included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import Field, PrivateAttr

from ppfl.core.content import content
from ppfl.core.plugins import Settings


class Inner(Settings):
    """A section below another one."""

    steps: int = 2
    _resolved: Any = PrivateAttr(default=None)


class Outer(Settings):
    """A section with all places where a constant can be kept."""

    lr: float = 0.1
    hidden: float = Field(default=1.0, exclude=True)
    inner: Inner = Inner()
    _resolved: Any = PrivateAttr(default=None)

    def with_constant(self, where: str, value: Any) -> Outer:
        """Return a copy that keeps a constant somewhere."""
        if where == "excluded field":
            return self.model_copy(update={"hidden": value})
        if where == "inner":
            inner = self.inner.model_copy()
            inner._resolved = value
            return self.model_copy(update={"inner": inner})
        changed = self.model_copy()
        if where == "private attribute":
            changed._resolved = value
        else:
            object.__setattr__(changed, "kept", value)
        return changed


@pytest.mark.parametrize("where", ["private attribute", "excluded field", "inner", "instance"])
@pytest.mark.parametrize(
    ("one", "twin", "other"),
    [
        (0.25, 0.25, 0.5),
        (1.0, 1.0, 1),
        (torch.arange(4000.0), torch.arange(4000.0), torch.arange(4000.0) + torch.eye(4000)[2000]),
        (np.arange(4000.0), np.arange(4000.0), np.arange(4000.0, dtype=np.float32)),
        ({"a": [1, (2, 3)]}, {"a": [1, (2, 3)]}, {"a": [1, (2, 4)]}),
        ({1, 2}, {2, 1}, {1, 2, 3}),
    ],
    ids=["numbers", "number types", "tensors", "arrays", "nested", "sets"],
)
def test_constants_count_wherever_they_are_kept(where: str, one: Any, twin: Any, other: Any) -> None:
    found = [content(Outer().with_constant(where, value)) for value in (one, twin, other)]
    assert found[0] == found[1]
    assert hash(found[0]) == hash(found[1])
    assert found[0] != found[2]


def test_what_is_not_known_is_like_itself_alone() -> None:
    first, second = object(), object()
    assert content(first) == content(first)
    assert content(first) != content(second)


def test_fields_may_be_left_out_at_the_top() -> None:
    assert content(Outer(lr=0.5), leave_out={"lr"}) == content(Outer(), leave_out={"lr"})
    assert content(Outer(inner=Inner(steps=3)), leave_out={"steps"}) != content(Outer(), leave_out={"steps"})
