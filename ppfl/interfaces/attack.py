"""What Byzantine clients do: with the vectors that they send, or with their data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ppfl.core import devices
from ppfl.core.plugins import PlugIn
from ppfl.interfaces.pre_aggregator import RandomKey

if TYPE_CHECKING:
    from ppfl.core.types import Data
    from ppfl.interfaces.trigger import Probe, SampleFacts
    from ppfl.rows.client_matrix import ClientMatrix


@dataclass(frozen=True)
class Knowledge:
    """What an attacker knows besides the vectors: the key to its random numbers, and the rule that it is up against."""

    key: RandomKey
    aggregate: Callable[[ClientMatrix], torch.Tensor]


@dataclass(frozen=True)
class Block:
    """The same columns of all vectors that an attacker looks at, in float64."""

    honest: torch.Tensor
    """(H, W), of the honest clients, those with NaN or inf left out."""
    own: torch.Tensor
    """(A, W), what the attackers would have sent had they been honest."""
    number: int
    """Of the block, over all ranks; a wide block is several, of BLOCK_COLUMNS columns each, and this of the first."""


class Attack(PlugIn):
    """What the Byzantine clients of a run do; there are two kinds, and a plug-in is one of either.

    >>> from ppfl.interfaces.attack import Attack, AttackOnData, AttackOnVectors
    >>> from ppfl.core.plugins import discover
    >>> attacks = discover("ppfl.attacks")
    >>> [name for name, kind in attacks.items() if issubclass(kind, AttackOnData)]
    ['backdoor', 'label_flip']
    >>> issubclass(attacks["sign_flip"], AttackOnVectors)
    True
    """

    def check(self, num_vectors: int, num_byzantine: int | None) -> None:
        """Raise ValueError, beginning with the key, when so many attackers among N vectors would do nothing.

        num_byzantine: None when it varies by round.
        """

    @abstractmethod
    def poison(self, data: Data, num_classes: int) -> Data:
        """Return the data that a Byzantine client computes on."""


class AttackOnData(Attack):
    """The data of the Byzantine clients are changed, who then send what honest clients would.

    Such an attack says what becomes of the data:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.interfaces.attack import AttackOnData
    >>> class NextLabel(AttackOnData):
    ...     name: Literal["next_label"]
    ...
    ...     def poison(self, data, num_classes):
    ...         return {**data, "y": (data["y"] + 1) % num_classes}
    >>> NextLabel(name="next_label").poison({"y": torch.tensor([0, 2])}, num_classes=3)
    {'y': tensor([1, 0])}
    """

    def poison_of(self, number: int, data: Data, facts: SampleFacts) -> Data:
        """Return the data that attacker number a, of all in the order of clients, computes on."""
        return self.poison(data, facts.num_classes)

    def refuse_samples(self, facts: SampleFacts) -> None:
        """Raise SharedUserError for samples that cannot be poisoned so."""

    def probe(self, facts: SampleFacts) -> Probe | None:
        """Return what scored samples are tried with, where the attack has an aim that can be told by it."""
        return None


class AttackOnVectors(Attack):
    """N client vectors in, the same number out, those of the Byzantine clients replaced. Attackers see everything.

    Such an attack sees all columns of all vectors, block by block, and says what the attackers send there:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.comm.solo import SoloCommunicator
    >>> from ppfl.interfaces.attack import AttackOnVectors, Knowledge
    >>> from ppfl.rows.client_matrix import ClientMatrix
    >>> from ppfl.interfaces.pre_aggregator import RandomKey
    >>> class Opposite(AttackOnVectors):
    ...     name: Literal["opposite"]
    ...
    ...     def vectors(self, block, knowledge):
    ...         return -block.honest.mean(dim=0, keepdim=True)
    >>> vectors = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 2.0]])
    >>> is_byzantine = torch.tensor([False, False, True])
    >>> knowledge = Knowledge(RandomKey(), aggregate=lambda matrix: matrix.combine(torch.full((3,), 1 / 3)))
    >>> sent = Opposite(name="opposite")(ClientMatrix(SoloCommunicator(), vectors, 2), is_byzantine, knowledge)
    >>> sent.coordinatewise(lambda block: block[2])
    tensor([-2., -0.])
    """

    @abstractmethod
    def vectors(self, block: Block, knowledge: Knowledge) -> torch.Tensor:
        """Return what the attackers send, (A, W) or (1, W) for all of them alike."""

    def poison(self, data: Data, num_classes: int) -> Data:
        """Return the data as they are."""
        return data

    def prepare(self, matrix: ClientMatrix, byzantine: torch.Tensor, knowledge: Knowledge) -> AttackOnVectors:
        """Return the attack with what it chooses in view of the vectors filled in. Collective."""
        return self

    def __call__(self, matrix: ClientMatrix, byzantine: torch.Tensor, knowledge: Knowledge) -> ClientMatrix:
        """Replace the rows that are marked in `byzantine`, (N,) bool; at least one other row is finite. Collective."""
        return self.prepare(matrix, byzantine, knowledge).replace(matrix, byzantine, knowledge)

    def replace(self, matrix: ClientMatrix, byzantine: torch.Tensor, knowledge: Knowledge) -> ClientMatrix:
        """Replace the rows, nothing being left to choose."""
        honest = devices.to_device(rows_of(~byzantine & matrix.finite()), matrix.device)
        own = devices.to_device(rows_of(byzantine), matrix.device)

        def changed(block: torch.Tensor, number: int) -> torch.Tensor:
            wide = block.to(torch.float64)
            seen = Block(wide.index_select(0, honest), wide.index_select(0, own), number)
            return wide.index_copy(0, own, self.vectors(seen, knowledge).expand(len(own), -1))

        return matrix.map_blocks(changed)


def rows_of(marked: torch.Tensor) -> torch.Tensor:
    """Return the numbers of marked rows, (N,) bool to int64."""
    return marked.nonzero()[:, 0]
