"""Which parameters are local: globs over parameter names, validated against the names that the model has, and which
splits a method is made for."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import Field

from ppfl.core.plugins import Settings

if TYPE_CHECKING:
    from ppfl.interfaces.method import Algorithm
    from ppfl.interfaces.problem import Problem

EVERYTHING = "*"
Splits: TypeAlias = Literal["any", "all shared", "something local", "output side", "input side"]
"""Splits that a method is made for. The last two: whole layers at that side of the model are local, others shared."""


class Split(Settings):
    """Parameters split into shared θ and local w_m (paper, Section 1): a name is local when a pattern matches it."""

    local: tuple[str, ...] = Field(strict=False)
    """Globs over parameter names, e.g. ["head.*"]; [] shares everything, ["*"] keeps everything local."""

    def local_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names that are local, in the order of `names`.

        Raises ValueError when a pattern matches nothing, or when patterns other than "*" leave nothing to share.
        """
        for pattern in self.local:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"{pattern!r} matches no parameter; the parameters are {', '.join(names)}")
        chosen = tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in self.local))
        if len(chosen) == len(names) and EVERYTHING not in self.local:
            raise ValueError(
                f"{list(self.local)} leaves nothing to share; write ['*'] if every parameter is to be local"
            )
        return chosen


def refuse_split(algorithm: Algorithm, problem: Problem) -> None:
    """Raise ValueError, from the key to the remedy, for a split that a method is not made for."""
    where, local = f"name: {algorithm.name!r}", ", ".join(problem.local_names)
    otherwise = f", or use {algorithm.instead}" if algorithm.instead else ""
    match algorithm.splits:
        case "all shared" if local:
            raise ValueError(
                f"{where} shares every parameter, but problem.split keeps {local} local; "
                f"set problem.split: {{local: []}}{otherwise}"
            )
        case "something local" if not local:
            raise ValueError(
                f"{where} is for clients with local parameters, but problem.split shares everything; name some in "
                f"problem.split.local{otherwise}"
            )
        case "output side" | "input side" as side if not _is_side(side, problem):
            layers = ", ".join(_layers(problem.objective.parameter_names))
            raise ValueError(
                f"{where} keeps whole layers at the {side} local and shares the others; problem.split keeps "
                f"{local or 'nothing'} local, and the layers are {layers}, from input to output; mend "
                f"problem.split.local{otherwise}"
            )


def _is_side(side: str, problem: Problem) -> bool:
    """Say whether the local parameters are those of whole layers at one end of the model, and some are shared."""
    layers = _layers(problem.objective.parameter_names)
    local, shared = set(_layers(problem.local_names)), set(_layers(tuple(problem.objective.init_shared())))
    end = layers[-len(local) :] if side == "output side" else layers[: len(local)]
    return bool(local and shared) and not local & shared and local == set(end)


def _layers(parameters: tuple[str, ...]) -> list[str]:
    """Return what parameter names begin with, e.g. `head` of `head.weight`, in their order."""
    return list(dict.fromkeys(parameter.rsplit(".", 1)[0] for parameter in parameters))
