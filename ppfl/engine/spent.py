"""What the time of a run was spent on, over all its tries, by the clock of one rank."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Purpose: TypeAlias = Literal["start", "scoring", "final_stages", "writing", "checkpoints"]
"""Beside rounds and communication in them, which are costs."""


class Spent:
    """Wall-clock seconds by purpose; no purpose is counted inside of another one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(get_args(Purpose), 0.0)
        self.before = 0.0
        """Seconds of earlier tries, up to their last checkpoints."""
        self.began: float | None = None
        """When this try began, by `time.perf_counter`; None while nobody has said so."""
        self.tell: Callable[[Purpose], None] = lambda purpose: None
        """Told what begins now."""

    @property
    def total(self) -> float:
        """Seconds of all tries until now."""
        return self.before + (time.perf_counter() - self.began if self.began is not None else 0.0)

    def pause(self) -> None:
        """Count no time until `go_on`: it is that of others."""
        self.before, self.began = self.total, None

    def go_on(self) -> None:
        """Count time again."""
        self.began = time.perf_counter()

    @contextmanager
    def on(self, purpose: Purpose) -> Iterator[None]:
        """Count the seconds of what is done inside."""
        self.tell(purpose)
        started = time.perf_counter()
        yield
        self.seconds[purpose] += time.perf_counter() - started

    def numbers(self) -> dict[str, Any]:
        """Return what a snapshot needs to know."""
        return {"total": self.total, **self.seconds}

    def restore(self, numbers: Mapping[str, Any]) -> None:
        """Go on from the numbers of a snapshot; those of versions that did not count have none."""
        self.before = float(numbers.get("total", 0.0))
        self.seconds = {purpose: float(numbers.get(purpose, 0.0)) for purpose in self.seconds}


@contextmanager
def shared(of_runs: Sequence[Spent], purpose: Purpose) -> Iterator[None]:
    """Count the seconds of what is done inside for several runs at once: each has an equal share."""
    for spent in of_runs:
        spent.tell(purpose)
    started = time.perf_counter()
    yield
    seconds = (time.perf_counter() - started) / len(of_runs)
    for spent in of_runs:
        spent.seconds[purpose] += seconds
