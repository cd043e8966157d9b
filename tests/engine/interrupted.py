"""Engines that are stopped after some rounds and go on from a checkpoint on the disk, perhaps on other ranks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppfl.engine.checkpoint import NOTHING_DUE, Due
from ppfl.engine.choose import AnyEngine, open_engine
from ppfl.results.checkpoints import Checkpoints
from ppfl.runs.assemble import build
from tests.engine.build import config

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.config.run import Config
    from ppfl.core.communicator import Communicator
    from ppfl.core.snapshot import Snapshot
    from ppfl.engine.ledger import Scored

IDENTITY = {"digest": "0123", "results_version": 1, "clients_per_chunk": 1}


class StopAfter:
    """A checkpointer that saves every snapshot and wants to stop after some rounds, on one of the ranks alone."""

    def __init__(self, checkpoints: Checkpoints, rounds: int | None, *, wants: bool, every: int | None = None) -> None:
        self.checkpoints = checkpoints
        self.rounds = rounds
        self.wants = wants
        self.every = every

    def due(self, done: int) -> Due:
        if self.wants and self.rounds is not None and done >= self.rounds:
            return Due(stop=True, save=False)
        return Due(stop=False, save=True) if self.every and done % self.every == 0 else NOTHING_DUE

    def save(self, snapshot: Snapshot) -> None:
        self.checkpoints.save(snapshot)


def go_on(
    communicator: Communicator,
    folder: Path,
    stop_after: int | None,
    stopping_rank: int | None = None,
    every: int | None = None,
    prepare: Callable[[Any], object] = id,
    checked: Config | None = None,
    **sections: Any,
) -> tuple[AnyEngine, list[Scored]]:
    """Run from the checkpoint in a folder, if there is one, to its end or `stop_after`; return engine and scores.

    checked: the configuration, for ranks that are threads where it names plug-ins of a folder, which one thread reads.
    """
    checkpoints = Checkpoints(folder / "r.h5", IDENTITY, communicator)
    wants = communicator.rank == (communicator.size - 1 if stopping_rank is None else stopping_rank)
    checkpointer = StopAfter(checkpoints, stop_after, wants=wants, every=every)
    engine = open_engine(build(checked or config(**sections), communicator), checkpointer)
    snapshot = checkpoints.load(engine.group.clients)
    if snapshot is not None:
        engine.restore(snapshot)
    prepare(engine)
    return engine, list(engine)


def fingerprint(engine: AnyEngine, scores: list[Scored]) -> dict[Any, bytes]:
    """Return the bytes of all that a run decides: server, clients of this rank, scores and costs."""
    found: dict[Any, bytes] = {}
    for group, params in engine.server.items():
        for name, value in params.items():
            found["server", group, name] = value.numpy().tobytes()
    for client in engine.group.clients:
        for group, params in engine.group.state(client).items():
            for name, value in params.items():
                found[client, group, name] = value.numpy().tobytes()
    for scored in scores:
        for name, number in {**scored.metrics, **scored.costs}.items():
            if name not in ("seconds", "communication_seconds"):
                found["scores", scored.round, name] = np.asarray(number).tobytes()
    return found


def merged(runs: list[tuple[AnyEngine, list[Scored]]]) -> dict[Any, bytes]:
    """Return the fingerprint of all ranks together."""
    found: dict[Any, bytes] = {}
    for engine, scores in runs:
        mine = fingerprint(engine, scores)
        assert all(found[key] == value for key, value in mine.items() if key in found)
        found |= mine
    return found
