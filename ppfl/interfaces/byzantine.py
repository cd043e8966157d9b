"""The section `byzantine:`: who is Byzantine, when, and what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from ppfl.core.agree import SharedUserError
from ppfl.core.plugins import ChosenFrom, Settings, refusal
from ppfl.core.rng import generator
from ppfl.interfaces.aggregator import is_sum
from ppfl.interfaces.attack import Attack, AttackOnVectors
from ppfl.interfaces.named_clients import refuse_unable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.interfaces.aggregator import Aggregator


class Byzantine(Settings):
    """Attackers: clients of the problem that turned against it, or others beside them.

    Scores, F, θ* and the constants of a problem are over its honest clients.
    """

    attack: Annotated[Attack, ChosenFrom("ppfl.attacks")]
    """What the attackers do."""
    clients: PositiveInt | Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    """How many attackers there are, drawn by the seed, or the names of the clients."""
    placement: Literal["among", "beside"] = "among"
    """among: clients of the problem; beside: in addition to them, without data, in every cohort."""
    rounds: Literal["all"] | Annotated[float, Field(gt=0, le=1)] = "all"
    """When they attack: in all rounds, or in each with this probability; in the others they act as honest clients.
    Asynchronously a round is a step of the server."""

    @model_validator(mode="after")
    def _fits_together(self) -> Byzantine:
        if self.placement == "beside" and not isinstance(self.clients, int):
            raise refusal("clients", "a number: attackers beside the problem's clients have no names")
        if not isinstance(self.attack, AttackOnVectors):
            if self.placement == "beside":
                raise refusal("placement", f"'among': {self.attack.name} changes data, and those beside have none")
            if self.rounds != "all":
                raise refusal("rounds", f"'all': {self.attack.name} changes data, once and for all")
        return self

    @property
    def num_attackers(self) -> int:
        """All attackers, wherever they are."""
        return self.clients if isinstance(self.clients, int) else len(set(self.clients))

    @property
    def num_beside(self) -> int:
        """Attackers beside the problem's clients."""
        return self.num_attackers if self.placement == "beside" else 0

    def members(self, client_names: Sequence[str], num_train_samples: Sequence[int], seed: int) -> frozenset[int]:
        """Return the clients of the problem that are Byzantine, all of them with training samples.

        Clients without any never take part, and would never attack. Raises SharedUserError when there are none such.
        """
        if self.placement == "beside":
            return frozenset()
        able = [client for client, samples in enumerate(num_train_samples) if samples > 0]
        if isinstance(self.clients, int):
            if self.clients >= len(able):
                which = "clients" if len(able) == len(client_names) else "clients with training samples"
                raise SharedUserError(
                    f"byzantine.clients: {self.clients} of {len(able)} {which} leave no honest one; "
                    f"at most {len(able) - 1}"
                )
            drawn = generator(seed, "byzantine").choice(len(able), self.clients, replace=False)
            return frozenset(able[client] for client in drawn)
        what = "that leaves no honest client" if len(set(self.clients)) == len(able) else ""
        refuse_unable("byzantine.clients", self.clients, client_names, [client_names[one] for one in able], what)
        return frozenset(client_names.index(name) for name in self.clients)

    def attacks_in(self, round: int, seed: int) -> bool:
        """Return whether vectors are attacked in this round."""
        if not isinstance(self.attack, AttackOnVectors):
            return False
        return self.rounds == "all" or generator(seed, "attacked rounds", round=round).random() < self.rounds

    def refuse_settings(self, aggregator: Aggregator, weights: str, has_classes: bool) -> None:
        """Raise pydantic's error for what does not go with attackers."""
        if not isinstance(self.attack, AttackOnVectors):
            if not has_classes:
                raise refusal(
                    "byzantine.attack.name",
                    "an attack on vectors: data of this problem have no labels that are classes",
                )
            return
        if is_sum(aggregator) and weights != "uniform":
            raise refusal("weights", "'uniform', since attackers have one vote each")


def adds_up(aggregator: Aggregator, byzantine: Byzantine | None) -> bool:
    """Say whether the server needs the weighted sum of a cohort's uplinks alone, not one of them by itself."""
    return is_sum(aggregator) and (byzantine is None or not isinstance(byzantine.attack, AttackOnVectors))
