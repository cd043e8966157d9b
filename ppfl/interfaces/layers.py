"""Layers and their weights, by the names of parameters."""

from __future__ import annotations

from fnmatch import fnmatchcase


def layers_with_weights(patterns: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of weights that globs match, by themselves or as layers. Raises ValueError for a glob that
    matches none."""
    of_layers = {name: layer_of_weight(name) for name in names if "weight" in name.rpartition(".")[2]}
    chosen: set[str] = set()
    for pattern in patterns:
        found = {name for name in of_layers if any(fnmatchcase(x, pattern) for x in (name, of_layers[name]))}
        if not found:
            layers = ", ".join(dict.fromkeys(of_layers.values()))
            raise ValueError(f"{pattern!r} matches no layer with a weight; these are {layers or 'none'}")
        chosen |= found
    return tuple(name for name in names if name in chosen)


def layer_of_weight(name: str) -> str:
    """Return the layer whose weight this is, `hidden1` of `hidden1.weight`; of other names, the whole name."""
    return name.removesuffix(".weight")
