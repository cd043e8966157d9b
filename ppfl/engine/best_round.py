"""θ and the states of clients as the best round has left them, while a run goes on."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppfl.core.agree import SharedUserError
from ppfl.engine.checkpoint import name_state, read_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ppfl.core.snapshot import ClientStates, Snapshot
    from ppfl.core.types import Params, State
    from ppfl.engine.client_store import ClientStore
    from ppfl.engine.group import ClientGroup
    from ppfl.engine.ledger import Scored
    from ppfl.engine.run import Run
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.best_round import BestRound

_BEST = "best "
"""Before the names of groups of a state in a snapshot, which has those of now beside them."""


class Best:
    """The best round so far, judged by means over clients that are the same on every rank."""

    def __init__(self, setup: Setup, rule: BestRound, group: ClientGroup) -> None:
        """Raise SharedUserError where there is nothing to judge by."""
        self.rule = rule
        self.round = self.last_round = 0
        self.value = math.nan
        self.server: State = {}
        self._num_no_better = 0
        self._group = group
        self._store = group.empty_store()
        self._device = setup.device
        if not setup.counting(rule.series)[0].any():
            raise SharedUserError(
                "evaluate.best_round: no client has validation samples to judge rounds by; allowed: a "
                "problem.dataset.validation that leaves every client some, or evaluate.best_round: null"
            )

    def judge(self, run: Run, scored: Scored) -> None:
        """Keep θ and w where the round is the best one; end the run where none has been better for long."""
        name = self.rule.series
        if name not in scored.metrics:
            raise SharedUserError(f"evaluate.best_round.metric: the task has no {name}; allowed: loss")
        self.last_round = scored.round
        if run.status == "diverged":
            return
        value = float(scored.metrics[name])
        if scored.round == 0 or self.rule.is_better(value, self.value):
            self.round, self.value, self._num_no_better = scored.round, value, 0
            self.server = run.server
            for index in self._group.changed_chunks():
                self._store.put(index, self._group.store.get(index))
            return
        self._num_no_better += 1
        if self.rule.patience is not None and self._num_no_better >= self.rule.patience:
            run.ledger.status = "complete"

    @contextmanager
    def in_place(self, run: Run) -> Iterator[None]:
        """Let a run be as it was at its best."""
        now, states = run.server, run.group.store
        run.server, run.group.store = self.server, self._store
        try:
            yield
        finally:
            run.server, run.group.store = now, states

    def __str__(self) -> str:
        """Say in words how it went."""
        return f"round {self.round} of {self.last_round} is the best, {self.rule.series} {self.value:.4g}"

    @property
    def facts(self) -> dict[str, str | int | float]:
        """Return what a result says of it."""
        return {"metric": self.rule.series, "round": self.round, "value": self.value, "last_round": self.last_round}

    def numbers(self) -> dict[str, Any]:
        """Return what a snapshot needs to know beside tensors."""
        # JSON has no NaN
        value = None if math.isnan(self.value) else self.value
        return {"round": self.round, "last_round": self.last_round, "value": value, "no_better": self._num_no_better}

    def tensors(self) -> Params:
        """Return the server as tensors of a snapshot."""
        return name_state("best", self.server)

    @property
    def states(self) -> ClientStates:
        """The states of now and of the best round, for a snapshot."""
        return _BothStates(self._group, self._store)

    def restore(self, snapshot: Snapshot, like: State) -> None:
        """Go on from a snapshot; the states of now were taken from it before."""
        numbers: Mapping[str, Any] = snapshot.numbers["best"]
        self.round, self.last_round = numbers["round"], numbers["last_round"]
        self.value = math.nan if numbers["value"] is None else numbers["value"]
        self._num_no_better = numbers["no_better"]
        self.server = read_state(snapshot.tensors, "best", like, self._device)
        self._store.forget()
        for index, states in self._group.stacked(_OfRound(snapshot.states, is_best=True)):
            self._store.put(index, states)


def states_of_now(states: ClientStates) -> ClientStates:
    """Return the states of now in a snapshot that may have those of the best round beside them."""
    return _OfRound(states, is_best=False)


@dataclass(frozen=True)
class _BothStates:
    """The states of now, and in groups of other names those of the best round (`ppfl.core.snapshot.ClientStates`)."""

    group: ClientGroup
    best: ClientStore

    @property
    def clients(self) -> Sequence[int]:
        # a client that has changed until the best round has changed until now
        return self.group.changed

    def like(self, client: int) -> State:
        like = self.group.like(client)
        return like if not self._has_best(client) else {**like, **_named(like)}

    def state(self, client: int) -> State:
        state = self.group.state(client)
        return state if not self._has_best(client) else {**state, **_named(self.best.member(*self.group.place(client)))}

    def _has_best(self, client: int) -> bool:
        return self.best.has(self.group.place(client)[0])


@dataclass(frozen=True)
class _OfRound:
    """One of the two, taken apart again (`ppfl.core.snapshot.ClientStates`)."""

    both: ClientStates
    is_best: bool

    @property
    def clients(self) -> Sequence[int]:
        return [client for client in self.both.clients if not self.is_best or self._chosen(self.both.like(client))]

    def like(self, client: int) -> State:
        return self._chosen(self.both.like(client))

    def state(self, client: int) -> State:
        return self._chosen(self.both.state(client))

    def _chosen(self, state: State) -> State:
        chosen = [group for group in state if group.startswith(_BEST) == self.is_best]
        return {group.removeprefix(_BEST): state[group] for group in chosen}


def _named(state: State) -> State:
    return {_BEST + group: params for group, params in state.items()}
