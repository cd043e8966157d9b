"""Payments for what clients have sent, made afterwards of the squared norms in results, and what lying then gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ppfl.analysis.factors import flatten, identity_of
from ppfl.core.errors import UserError
from ppfl.interfaces.strategic import SQUARED_NORM
from ppfl.results.quick_reader import read_clients, read_numbers, read_outline
from ppfl.results.stored_config import stored_config

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

Array = npt.NDArray[np.float64]

LOSSES = ("personal_loss", "personal_train_loss")
"""Final scores of single clients that are their own loss f_i at the end, the first that there is."""
_LEFT_OUT = {"strategic", "name", "engine", "save", "checkpoint", "plugins"}
"""Sections that are no part of what two counterfactuals have to have in common."""
_MARK = "strategic"
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
    # both in units of the loss: the price C is what a squared norm costs in them
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


def played(path: Path, loss: str | None = None) -> Played:
    """Return a complete result as a game; loss: which final score of clients is their own loss, None: f_i itself.

    Raises UserError where squared norms are not told of every round, where payments are not defined and where there
    is no such loss.
    """
    # a few arrays of a file: grids of lies are large, and reading a result whole takes ten times as long
    found = read_outline(path)
    config, where = stored_config(found.attrs["config"], path), path
    if config.get("asynchronous") is not None:
        raise UserError(f"{where}: is asynchronous; payments are between the clients of a round")
    if config.get("byzantine") is not None:
        raise UserError(
            f"{where}: has Byzantine clients, who tell nothing of what they send; payments need there be none"
        )
    if _NORMS not in found.series or not np.array_equal(found.rounds, np.arange(len(found.rounds))):
        raise UserError(f"{where}: {_HINT}")
    strategic = config.get("strategic") or {}
    settings = {key: value for key, value in flatten(config).items() if key.split(".")[0] not in _LEFT_OUT}
    series, _ = read_numbers(path, (_NORMS,), ())
    clients, scores = read_clients(path, lambda name: name == _MARK or "loss" in name)
    marked = scores.pop(_MARK, np.zeros(len(clients)))
    return Played(
        str(found.attrs["digest"]),
        settings,
        float(strategic.get("scale", 1.0)),
        float(strategic.get("noise", 0.0)),
        clients,
        marked.astype(bool),
        # at round 0 nobody has sent anything
        series[_NORMS][1:],
        scores[_loss_name(path, sorted(scores), loss)],
    )


def _loss_name(path: Path, there: Sequence[str], loss: str | None) -> str:
    if loss is not None and loss not in there:
        raise UserError(f"--loss {loss}: no loss of clients in {path}; allowed: {', '.join(there) or 'none'}")
    found = [loss] if loss is not None else [name for name in LOSSES if name in there]
    if not found:
        raise UserError(
            f"{path}: has no {' and no '.join(LOSSES)} of clients; add train to evaluate.parts, or choose "
            f"by --loss among {', '.join(there) or 'none'}"
        )
    return found[0]


def honest_of(games: Sequence[Played]) -> dict[str, Played]:
    """Return for each run, by its digest, the one that differs in nothing but that all clients tell the truth."""
    honest: dict[Hashable, Played] = {}
    for game in games:
        if game.is_honest:
            # the first one, whoever of them could have lied: they have the same numbers
            honest.setdefault(identity_of(game.settings), game)
    pairs = {game.digest: honest.get(identity_of(game.settings)) for game in games}
    return {digest: other for digest, other in pairs.items() if other is not None}


def gains(game: Played, honest: Played, price: float) -> Array:
    """Return U_i of a run minus U_i had all told the truth, (M,)."""
    return game.utilities(price) - honest.utilities(price)
