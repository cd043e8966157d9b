"""Samples of clients whose classes change with the round, and what stands for those that are gone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ppfl.core.agree import SharedUserError
from ppfl.core.rng import generator
from ppfl.interfaces.client_data import Joined, join, num_samples
from ppfl.interfaces.remembering import Remembering
from ppfl.interfaces.selection import Selection
from ppfl.problems._rehearsal import Laws
from ppfl.problems._sample_rows import as_numbers
from ppfl.problems._supervised_data import SupervisedData

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ppfl.core.types import Data, Params
    from ppfl.interfaces.client_data import Part
    from ppfl.interfaces.dataset import FederatedSamples
    from ppfl.interfaces.phases import Phases, Rehearsal

logger = logging.getLogger(__name__)


class PhasedData(SupervisedData):
    """A batch of every client in every round, of its samples of the classes of a phase. Building is collective."""

    def __init__(self, samples: FederatedSamples, *others: Any, phases: Phases) -> None:
        """Raise SharedUserError where a client with samples would have none in a phase."""
        super().__init__(samples, *others)
        self.phases = phases
        self.fixed_data = False
        self._of_phase: dict[tuple[int, int], np.ndarray] = {}
        # every rank has to know who lacks what
        self._of_train = self.histogram("train", Selection())
        self._refuse_empty_phases()
        self._tell_what_never_comes()

    def train_with(self, augmentation: Any, *, has_keys: bool) -> None:
        """See SupervisedData; data are others in other rounds in any case."""
        super().train_with(augmentation, has_keys=has_keys)
        self.fixed_data = False

    def client_facts(self) -> dict[str, np.ndarray]:
        """Add the phase, from 1, in which a class comes to a client for the first time, (M, classes); 0: never."""
        first = np.zeros_like(self._of_train)
        for phase in reversed(range(len(self.phases.classes))):
            of_phase = [label for label in self.phases.classes[phase] if label < self.num_classes]
            first[:, of_phase] = np.where(self._of_train[:, of_phase] > 0, phase + 1, first[:, of_phase])
        return {**super().client_facts(), "first_phase": first}

    def histogram(self, part: Part, selection: Selection) -> np.ndarray:
        """Return how many samples of each class are selected of a part, of all M clients, (M, classes). Collective."""
        counts = [
            np.bincount(
                self._labels(part, client)[selection.rows(part, client, size).numpy()], minlength=self.num_classes
            )
            for client in self.clients
            for size in [self.part_sizes(part)[client]]
        ]
        mine = torch.from_numpy(np.array(counts, dtype=np.int64).reshape(-1, self.num_classes))
        return self._communicator.allgather_rows(mine).numpy()

    def has_some(self, histogram: np.ndarray, classes: Sequence[int]) -> np.ndarray:
        """Return which clients have a sample of some classes, (M,) bool, given how many of each they have."""
        known = [label for label in classes if label < self.num_classes]
        there: np.ndarray = np.asarray(histogram[:, known].any(axis=1))
        return there

    def in_phase(self, client: int, phase: int) -> np.ndarray:
        """Return which of its training samples a client of this rank has in a phase, ascending int64."""
        if (client, phase) not in self._of_phase:
            labels = self._labels("train", client)
            self._of_phase[client, phase] = np.flatnonzero(np.isin(labels, self.phases.classes[phase]))
        return self._of_phase[client, phase]

    def _trained_on(self, client: int, round: int) -> tuple[slice | np.ndarray, int]:
        rows, size = super()._trained_on(client, round)
        chosen = self.in_phase(client, self.phases.at(round))
        # what a client has in all rounds is taken as it is without phases
        return (rows, size) if len(chosen) == size else (as_numbers(rows)[chosen], len(chosen))

    def _epoch(self, client: int, epoch: int) -> list[torch.Tensor]:
        # of the final stages, which come after the last phase
        chosen = self.in_phase(client, len(self.phases.classes) - 1)
        order = generator(self._seed, "tuned epoch", round=epoch, client=client).permutation(len(chosen))
        size = self._size_of_batch(len(chosen))
        return list(torch.split(torch.from_numpy(chosen[order]), size)) if size else []

    def _labels(self, part: Part, client: int) -> np.ndarray:
        labels: np.ndarray = self._parts[part].pack.y[as_numbers(self._rows(part, client))]
        return labels

    def _refuse_empty_phases(self) -> None:
        trains = np.array(self.num_train_samples) > 0
        for phase, classes in enumerate(self.phases.classes):
            lacking = np.flatnonzero(trains & ~self.has_some(self._of_train, classes))
            if not len(lacking):
                continue
            what = f"training sample of the classes {', '.join(map(str, classes))} of phase {phase + 1}"
            if len(lacking) == trains.sum():
                raise SharedUserError(f"problem.phases.classes: no client has a {what}; leave this phase out")
            who = f"client {self.client_names[lacking[0]]!r}"
            who += f" and {len(lacking) - 1} others have" if len(lacking) > 1 else " has"
            raise SharedUserError(
                f"problem.phases.classes: {who} no {what}; allowed: phases in which every client has samples, since "
                f"all of them are counted in every round"
            )

    def _tell_what_never_comes(self) -> None:
        """Log which classes no phase brings, and which of a phase are in no data: neither is an error."""
        there = set(np.flatnonzero(self._of_train.sum(axis=0)).tolist())
        wanted = set(self.phases.seen(len(self.phases.classes)))
        for classes, why in ((there - wanted, "no phase has them"), (wanted - there, "no client has samples of them")):
            if classes:
                logger.warning("problem.phases.classes: %s never come: %s", ", ".join(map(str, sorted(classes))), why)


class RehearsedData(PhasedData, Remembering):
    """The same, with samples drawn from laws of the classes that were seen in phases before."""

    def __init__(self, samples: FederatedSamples, *others: Any, phases: Phases, rehearsal: Rehearsal) -> None:
        """Raise SharedUserError for tokens, of which there is no mean."""
        super().__init__(samples, *others, phases=phases)
        if self._are_tokens:
            raise SharedUserError("problem.rehearsal: null, since samples are tokens, which have no mean")
        self._num_drawn = rehearsal.samples
        self._laws = Laws(rehearsal.components, rehearsal.shrinkage)
        self._shape = samples.input_shape
        self._recalled: Mapping[int, Params] = {}

    def first_memory(self) -> Params:
        """Return the laws of nothing."""
        nothing = self._laws.nothing(self.num_classes, int(np.prod(self._shape)), self._dtype)
        return {name: value.to(self._device) for name, value in nothing.items()}

    def remembers_at(self, round: int) -> bool:
        """Say whether a phase has ended before this round."""
        return self.phases.begins(round)

    def remember(self, client: int, memory: Params, round: int) -> Params:
        """Fit laws to the samples of the phase that has ended, as they are stored."""
        chosen = self.in_phase(client, self.phases.at(round - 1))
        data = self.samples(client, "train", torch.from_numpy(chosen))
        draw = generator(self._seed, "rehearsal: fit", round=round, client=client)
        x, y = (data[name].cpu() for name in ("x", "y"))
        return self._laws.fitted(memory, x.reshape(len(x), -1), y, draw)

    def recall(self, memories: Mapping[int, Params]) -> None:
        """Let data of rounds be drawn from these laws, too."""
        self._recalled = memories

    def data(self, client: int, round: int) -> Data:
        """Return the samples of the round and those that are drawn, keyed (seed, round, client)."""
        found = [self.unchanged(client, round), *self._drawn(client, round)]
        data = join(found)
        return self._training.of_round(data, [client], [num_samples(data)], round)

    def joined(self, clients: Sequence[int], round: int) -> Joined:
        """Return `data` of several clients together."""
        of_each = [self.data(client, round) for client in clients]
        return Joined(join(of_each), [num_samples(data) for data in of_each])

    def _drawn(self, client: int, round: int) -> list[Data]:
        memory = self._recalled.get(client)
        if memory is None or not (seen := self._laws.seen(memory)):
            return []
        draw = generator(self._seed, "rehearsal", round=round, client=client)
        x = torch.cat([self._laws.draw(memory, label, self._num_drawn, draw) for label in seen])
        y = torch.tensor(seen).repeat_interleave(self._num_drawn)
        return [{"x": x.reshape(-1, *self._shape).to(self._device, self._dtype), "y": y.to(self._device)}]
