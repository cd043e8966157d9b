"""Which clients are held out of training, and come to it later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ppfl.core.agree import SharedUserError
from ppfl.core.rng import generator
from ppfl.interfaces.cohort_size import cohort_size

if TYPE_CHECKING:
    from collections.abc import Sequence

_WHERE = "evaluate.newcomers.clients"
_SHOWN = 8


@dataclass(frozen=True)
class HeldOut:
    """A fraction of the clients with training samples, rounded half to even, at least one, drawn by the seed of the
    data; or clients by name.

    >>> from ppfl.interfaces.held_out import HeldOut
    >>> HeldOut(("b", "d"), seed=0).members(("a", "b", "c", "d"), (5, 5, 5, 0)).tolist()
    [1, 3]
    """

    clients: float | tuple[str, ...]
    seed: int

    def members(self, client_names: Sequence[str], num_train_samples: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return their numbers, ascending int64, the same on every rank.

        Raises SharedUserError for names that no client has, and where nobody with training samples would be left.
        """
        able = np.flatnonzero(np.asarray(num_train_samples) > 0)
        if isinstance(self.clients, tuple):
            found = self._named(client_names, self.clients)
        else:
            number = cohort_size(self.clients, len(able))
            if number >= len(able):
                raise SharedUserError(
                    f"{_WHERE}: {self.clients:g} of {len(able)} clients with training samples leaves none to train; "
                    f"allowed: a smaller fraction"
                )
            found = np.sort(generator(self.seed, "newcomers").choice(able, number, replace=False))
        if not len(np.setdiff1d(able, found)):
            raise SharedUserError(f"{_WHERE}: leaves no client with training samples; allowed: fewer of them")
        return found.astype(np.int64)

    def _named(self, client_names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
        numbers = {name: number for number, name in enumerate(client_names)}
        if unknown := [name for name in wanted if name not in numbers]:
            shown = ", ".join(client_names[:_SHOWN]) + (f", … ({len(client_names)})" if len(numbers) > _SHOWN else "")
            raise SharedUserError(f"{_WHERE}: no client is called {', '.join(unknown[:_SHOWN])}; they are {shown}")
        return np.array(sorted(numbers[name] for name in wanted), dtype=np.int64)
