"""Keeps the checkpoints of a run: says when one is due, adds the rows of the result, and finds the way back."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from ppfl.core.agree import on_every_rank
from ppfl.core.errors import UserError
from ppfl.core.params import kinds
from ppfl.engine.checkpoint import NOTHING_DUE, Due, name_params, read_params

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.config.computing import Checkpoint
    from ppfl.core.snapshot import Snapshot
    from ppfl.engine.choose import AnyEngine
    from ppfl.results.checkpoints import Checkpoints
    from ppfl.results.recorder import Recorder

_STOP = Due(stop=True, save=False)
_SAVE = Due(stop=False, save=True)
_CPU = torch.device("cpu")


class FileCheckpointer:
    """The `ppfl.engine.checkpoint.Checkpointer` of a run with a result file; rank 0 has the recorder and the clock."""

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

    def due(self, done: int) -> Due:
        """Stop when the caller wants it; save, on rank 0, when time or rounds have passed."""
        self._told(done)
        # a run that stops is saved in any case, so that nothing has to be due
        if self._wants_stop():
            return _STOP
        return _SAVE if self._recorder is not None and self._is_due(done) else NOTHING_DUE

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint with the rows of the result so far. Collective."""
        if self._recorder is not None:
            rows = {name: torch.from_numpy(values) for name, values in self._recorder.rows.items()}
            snapshot = replace(snapshot, tensors=snapshot.tensors | name_params("rows", rows))
        self._checkpoints.save(snapshot, self._before_switch)
        # counted from the end of writing: a checkpoint that takes longer than the interval must not follow on itself
        self._last_seconds, self._last_round = time.monotonic(), snapshot.round

    def resume(self, new_engine: Callable[[], AnyEngine]) -> tuple[AnyEngine, int]:
        """Return an engine and its round: as the last good checkpoint says, or a new one and 0. Collective.

        The recorder has the rows up to there. Counts the time to the next checkpoint from here.
        """
        engine = new_engine()
        self._last_seconds = time.monotonic()
        for snapshot in self._checkpoints.candidates(engine.group.clients):
            try:
                on_every_rank(engine.setup.communicator, partial(self._restore, engine, snapshot))
            except UserError as error:
                self._checkpoints.warn(snapshot.round, str(error))
                engine = new_engine()  # half of a state may be in the other one
                continue
            self._last_round = snapshot.round
            return engine, snapshot.round
        return engine, 0

    def _restore(self, engine: AnyEngine, snapshot: Snapshot) -> None:
        """Put engine and recorder into a state. Raises UserError for one that the run cannot have had."""
        if not 0 < snapshot.round < engine.setup.num_rounds:
            raise UserError(f"is damaged: the run has no state after {snapshot.round} rounds to go on from")
        expected = kinds(engine.server)
        try:
            engine.restore(snapshot)
            if kinds(engine.server) != expected:
                raise ValueError("another state of the server")
            if self._recorder is not None:
                rows = {name: x.numpy() for name, x in read_params(snapshot.tensors, "rows", _CPU).items()}
                # the checksum says that it is as it was written; that it was written for this run is seen here
                if {len(values) for values in rows.values()} != {len(rows["round"])}:
                    raise ValueError("rows of different lengths")
                self._recorder.restore(rows)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"is damaged: it does not fit the run ({type(error).__name__}: {reason})") from error

    def _is_due(self, done: int) -> bool:
        seconds, rounds = self._settings.every_seconds, self._settings.every_rounds
        if rounds is not None and done - self._last_round >= rounds:
            return True
        return seconds is not None and time.monotonic() - self._last_seconds >= seconds
