"""Payments for what clients have sent, made afterwards of the squared norms in results, and what lying then gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ppfl.analysis.factors import flatten
from ppfl.core.errors import UserError
from ppfl.interfaces.strategic import SQUARED_NORM
from ppfl.results.client_scores import larger_is_better

if TYPE_CHECKING:
    from ppfl.results.reader import Result

Array = npt.NDArray[np.float64]

LOSSES = ("personal_loss", "personal_train_loss")
"""Final scores of single clients that are their own loss f_i at the end, the first that there is."""
_LEFT_OUT = {"strategic", "name", "engine", "save", "checkpoint", "plugins"}
"""Sections that are no part of what two counterfactuals have to have in common."""
_NORMS = f"report_{SQUARED_NORM}"
_HINT = f"payments need the squared norms of every round: evaluate: {{every: 1, reports: [{SQUARED_NORM}]}}"


def payments_of(squared_norms: Array, price: float) -> Array:
    """p_i = C (‖m_i‖² − mean of ‖m_j‖² over the others who took part in the round), (K, M); C is the price.

    The squared-norm payment, reconstructed: Chakarov et al., 2024 (arXiv 2412.00980), have payments that add up to 0
    and make large messages dear, and the rule itself is in no text or code that could be read. Given (K, M), NaN where
    a client did not take part: it pays 0 then and is in no mean, and a client that was alone pays 0.

    >>> import numpy as np
    >>> from ppfl.analysis.payments import payments_of
    >>> payments_of(np.array([[4.0, 1.0, np.nan, 1.0]]), price=2.0)
    array([[ 6., -3.,  0., -3.]])
    """
    took_part = ~np.isnan(squared_norms)
    # from the first one on: clients that send the same then pay 0, whatever their number
    first = np.take_along_axis(squared_norms, took_part.argmax(axis=1)[:, None], axis=1)
    above = np.where(took_part, squared_norms - first, 0.0)
    num_others = np.maximum(took_part.sum(axis=1, keepdims=True) - 1, 1)
    others = (above.sum(axis=1, keepdims=True) - above) / num_others
    paid: Array = np.where(took_part, price * (above - others), 0.0)
    return paid


def utilities_of(losses: Array, payments: Array) -> Array:
    """U_i = −f_i(θ_K) − Σ_k p_i of every client, (M,); payments (K, M)."""
    left: Array = -losses - payments.sum(axis=0)
    return left


@dataclass(frozen=True)
class Played:
    """One complete run as a game: what each client sent, and how it fares in the end."""

    digest: str
    settings: Mapping[str, Any]
    """Flat, without the section `strategic`: equal ones are counterfactuals of each other."""
    scale: float
    """a; 1 where nobody is strategic."""
    noise: float
    """β."""
    clients: tuple[str, ...]
    strategic: npt.NDArray[np.bool_]
    """(M,)."""
    squared_norms: Array
    """(K, M), NaN where a client did not take part."""
    losses: Array
    """(M,), f_i at the end."""

    @property
    def is_honest(self) -> bool:
        """Whether everybody told the truth."""
        return not self.strategic.any() or (self.scale == 1.0 and self.noise == 0.0)

    def utilities(self, price: float) -> Array:
        """Return U_i, (M,)."""
        return utilities_of(self.losses, payments_of(self.squared_norms, price))


def played(result: Result, loss: str | None = None) -> Played:
    """Return a complete result as a game; loss: which final score of clients is their own loss, None: f_i itself.

    Raises UserError where squared norms are not told of every round, where payments are not defined and where there
    is no such loss.
    """
    config, where = result.config, result.path
    if config.get("asynchronous") is not None:
        raise UserError(f"{where}: is asynchronous; payments are between the clients of a round")
    if config.get("byzantine") is not None:
        raise UserError(
            f"{where}: has Byzantine clients, who tell nothing of what they send; payments need there be none"
        )
    rounds = result.rounds["round"].to_numpy() if "round" in result.rounds else np.zeros(0)
    if _NORMS not in result.rounds or not np.array_equal(rounds, np.arange(len(rounds))):
        raise UserError(f"{where}: {_HINT}")
    strategic = config.get("strategic") or {}
    settings = {key: value for key, value in flatten(config).items() if key.split(".")[0] not in _LEFT_OUT}
    clients = tuple(map(str, result.clients["client"].to_numpy()))
    marked = result.clients["strategic"].to_numpy() if "strategic" in result.clients else np.zeros(len(clients))
    return Played(
        str(result.attrs["digest"]),
        settings,
        float(strategic.get("scale", 1.0)),
        float(strategic.get("noise", 0.0)),
        clients,
        marked.astype(bool),
        # at round 0 nobody has sent anything
        result.rounds[_NORMS].to_numpy()[1:],
        result.clients[_loss_name(result, loss)].to_numpy(),
    )


def _loss_name(result: Result, loss: str | None) -> str:
    there = [str(name) for name in result.clients.data_vars if "loss" in str(name)]
    if loss is not None and (loss not in result.clients or larger_is_better(loss)):
        raise UserError(f"--loss {loss}: no loss of clients in {result.path}; allowed: {', '.join(there) or 'none'}")
    found = [loss] if loss is not None else [name for name in LOSSES if name in result.clients]
    if not found:
        raise UserError(
            f"{result.path}: has no {' and no '.join(LOSSES)} of clients; add train to evaluate.parts, or choose "
            f"by --loss among {', '.join(there) or 'none'}"
        )
    return found[0]


def honest_of(games: Sequence[Played]) -> dict[str, Played]:
    """Return for each run, by its digest, the one that differs in nothing but that all clients tell the truth."""
    honest: list[Played] = [game for game in games if game.is_honest]
    found = {}
    for game in games:
        # whoever of them could have lied: they have the same numbers
        pairs = [other for other in honest if other.settings == game.settings]
        if pairs:
            found[game.digest] = pairs[0]
    return found


def gains(game: Played, honest: Played, price: float) -> Array:
    """Return U_i of a run minus U_i had all told the truth, (M,)."""
    return game.utilities(price) - honest.utilities(price)
