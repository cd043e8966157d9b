"""Backdoors: samples with a trigger are labelled as one class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt

from ppfl.core.agree import SharedUserError
from ppfl.interfaces.attack import AttackOnData
from ppfl.interfaces.trigger import Probe, SampleFacts, Trigger, square

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data


class Backdoor(AttackOnData):
    """x ← x with a trigger, y ← target in a share of all that a Byzantine client trains on; it then works as an honest
    one does.

    Source: Bagdasaryan et al., AISTATS 2020, without their model replacement; `parts`: Xie et al., ICLR 2020 (DBA).
    Both from memory: the pattern, its place and the choice of samples are ours. Where a round has S samples those
    numbered ⌊k S/n⌋ are poisoned, k < n = share · S, at least one, so that nothing is drawn.
    Scored by `backdoor_success` of test samples that are not of the target class, of honest clients.
    """

    name: Literal["backdoor"]
    example: ClassVar[Example] = {"target": 0}
    target: NonNegativeInt
    """The class that samples with the trigger are to be taken for."""
    trigger: Literal["common", "own", "parts"] = "common"
    """common: one square of all attackers; own: attacker a has the a-th square, and success is the mean over them;
    parts: the common square is dealt among the attackers, pixel by pixel, and tried as a whole."""
    size: PositiveInt = 2
    """Side of the square, in pixels, the first one at the lower right; of samples without sides, how many numbers."""
    value: FiniteFloat = 1.0
    """Of its pixels in all channels, as the model sees them: after scaling and normalization."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Of an attacker's samples that are poisoned in every round."""

    def refuse_samples(self, facts: SampleFacts) -> None:
        """Raise SharedUserError for samples that have no place for the trigger, and a target that is no class."""
        if facts.shape is None:
            raise SharedUserError("byzantine.attack.name: 'backdoor' stamps numbers, and samples are tokens")
        if self.target >= facts.num_classes:
            raise SharedUserError(
                f"byzantine.attack.target: is {self.target}, and there are {facts.num_classes} classes; "
                f"allowed: at most {facts.num_classes - 1}"
            )
        square(facts.shape, self.size)

    def trigger_of(self, number: int, facts: SampleFacts) -> Trigger:
        """Return what attacker number a stamps."""
        assert facts.shape is not None
        places = square(facts.shape, self.size, number if self.trigger == "own" else 0)
        if self.trigger == "parts":
            num_parts = min(facts.num_attackers, len(places))
            places = places[number % num_parts :: num_parts]
        return Trigger(places, self.value)

    def poison(self, data: Data, num_classes: int) -> Data:
        """Return the data of the only attacker."""
        return self.poison_of(0, data, SampleFacts(tuple(data["x"].shape[1:]), num_classes, num_attackers=1))

    def poison_of(self, number: int, data: Data, facts: SampleFacts) -> Data:
        """Return the data with the trigger of this attacker and the target on some of the samples."""
        num_samples = len(data["y"])
        if not num_samples:
            return data
        num_poisoned = max(round(self.share * num_samples), 1)
        # spread over the samples: where they are in order of their classes, the first ones are of one class
        rows = torch.arange(num_poisoned, device=data["y"].device) * num_samples // num_poisoned
        x, y = data["x"].clone(), data["y"].clone()
        x[rows] = self.trigger_of(number, facts).stamped(x[rows])
        y[rows] = self.target
        return {**data, "x": x, "y": y}

    def probe(self, facts: SampleFacts) -> Probe:
        """Return the triggers that scored samples are tried with."""
        assert facts.shape is not None
        tried = {Trigger(square(facts.shape, self.size), self.value): None}
        if self.trigger == "own":
            tried = dict.fromkeys(self.trigger_of(number, facts) for number in range(facts.num_attackers))
        return Probe("backdoor_success", self.target, tuple(tried))
