"""Keeps the checkpoints of a run: says when one is due, adds the rows of the result, and finds the way back."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ppfl.engine.checkpoint import NO_WISH, Wish, name_params, read_params

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.config import Checkpoint
    from ppfl.core.snapshot import Snapshot
    from ppfl.engine.choose import AnyEngine
    from ppfl.results.checkpoints import Checkpoints
    from ppfl.results.recorder import Recorder

_STOP = Wish(stop=True, save=False)
_SAVE = Wish(stop=False, save=True)
_CPU = torch.device("cpu")


class CheckpointKeeper:
    """The `ppfl.engine.checkpoint.Keeper` of a run with a result file; rank 0 has the recorder and the clock."""

    def __init__(
        self,
        settings: Checkpoint,
        checkpoints: Checkpoints,
        recorder: Recorder | None,
        wants_stop: Callable[[], bool],
        told: Callable[[int], None],
        before_switch: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._checkpoints = checkpoints
        self._recorder = recorder
        self._wants_stop = wants_stop
        self._told = told
        self._before_switch = before_switch
        self._last_seconds = time.monotonic()
        self._last_round = 0

    def wish(self, done: int) -> Wish:
        """Stop when the caller wants it; save, on rank 0, when time or rounds have passed."""
        self._told(done)
        if self._wants_stop():
            return _STOP
        return _SAVE if self._recorder is not None and self._is_due(done) else NO_WISH

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint with the rows of the result so far. Collective."""
        if self._recorder is not None:
            rows = {name: torch.from_numpy(values) for name, values in self._recorder.rows.items()}
            snapshot = replace(snapshot, tensors=snapshot.tensors | name_params("rows", rows))
        self._checkpoints.save(snapshot, self._before_switch)
        self._last_seconds, self._last_round = time.monotonic(), snapshot.round

    def resume(self, engine: AnyEngine) -> int:
        """Put engine and recorder into the state of the last good checkpoint; return its round, or 0. Collective.

        Counts the time to the next checkpoint from here.
        """
        snapshot = self._checkpoints.load(engine.group.clients)
        self._last_seconds = time.monotonic()
        if snapshot is None:
            return 0
        engine.restore(snapshot)
        if self._recorder is not None:
            rows = read_params(snapshot.tensors, "rows", _CPU)
            self._recorder.restore({name: values.numpy() for name, values in rows.items()})
        self._last_round = snapshot.round
        return snapshot.round

    def _is_due(self, done: int) -> bool:
        seconds, rounds = self._settings.every_seconds, self._settings.every_rounds
        if rounds is not None and done - self._last_round >= rounds:
            return True
        return seconds is not None and time.monotonic() - self._last_seconds >= seconds
