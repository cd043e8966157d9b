"""Tokens that are some clients' own: whose they are, and what the rows of parameters that belong to them are called."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ppfl.core.plugins import Settings


class OwnTokens(Settings):
    """A vocabulary for each client: the tokens that are common, and its own ones.

    What clients have of a token is a row of the input and of the output layer. Rows of common tokens are of the model's
    own parameters, shared or local as the split says; rows of a client's own tokens are parameters beside them, with as
    many rows as it has such tokens. These are local always: row i of one client is of another token than row i of
    another one. Source: reconstructed from what is said of glocal language models of merchants (docs/systems.md).

    >>> from ppfl.interfaces.own_tokens import own_name, with_own_names
    >>> with_own_names(("embedding.weight", "lstm1.weight_hh_l0"), ("embedding.weight",))
    ('embedding.weight', 'embedding.own_weight', 'lstm1.weight_hh_l0')
    """

    common_to: Annotated[int, Field(ge=2)] = 2
    """A token is common where at least so many clients have it among their samples, of any part; padding and other
    special ids are so always. All others are own tokens of the clients that have them."""


def own_name(name: str) -> str:
    """Return what the rows of own tokens beside a parameter are called, `head.own_weight` of `head.weight`."""
    layer, _, kind = name.rpartition(".")
    return f"{layer}.own_{kind}" if layer else f"own_{kind}"


def with_own_names(names: tuple[str, ...], token_rows: tuple[str, ...]) -> tuple[str, ...]:
    """Return names with those of own rows behind each parameter whose rows are tokens'."""
    return tuple(added for name in names for added in ((name, own_name(name)) if name in token_rows else (name,)))


def refuse_shared_rows(local: tuple[str, ...], names: tuple[str, ...], token_rows: tuple[str, ...]) -> None:
    """Raise ValueError where own rows are not local."""
    own = {own_name(name) for name in token_rows}
    if shared := [name for name in names if name in own and name not in local]:
        raise ValueError(
            f"{', '.join(shared)}: rows of each client's own tokens, of another shape for each, cannot be shared or "
            "frozen; add '*.own_*'"
        )
