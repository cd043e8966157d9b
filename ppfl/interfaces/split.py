"""Which parameters are local, and which are frozen: globs over parameter names, validated against the names that the
model has; and which splits a method is made for."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self, TypeAlias

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from ppfl.core.plugins import Settings, refusal
from ppfl.interfaces.layers import layer_of_weight, layers_with_weights
from ppfl.interfaces.mixture import MixtureOfAdaptors

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
        chosen = matched(self.local, names)
        if len(chosen) == len(names) and EVERYTHING not in self.local:
            raise ValueError(
                f"{list(self.local)} leaves nothing to share; write ['*'] if every parameter is to be local"
            )
        return chosen


class LoRA(Settings):
    """W + (α/r) B A in the place of some weights W (out, in), A (r, in) and B (out, r) being parameters of their own.

    Source: Hu et al., ICLR 2022, Section 4.1. A kernel (out, in, k, k) is taken as (out, in·k·k).
    """

    layers: tuple[str, ...] = Field(strict=False, min_length=1)
    """Globs over names of layers, e.g. ["hidden*"], or of their weights."""
    rank: PositiveInt = 4
    """r."""
    alpha: PositiveFloat = 8.0
    """α."""

    def weights(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names of the weights W. Raises ValueError when a pattern matches none."""
        return layers_with_weights(self.layers, names)


def lora_names(weight: str) -> tuple[str, str]:
    """Return the names of A and B of a weight."""
    layer = layer_of_weight(weight)
    return f"{layer}.lora_A", f"{layer}.lora_B"


class Parts(NamedTuple):
    """Names of the parameters of a model by what becomes of them; those that are in neither are shared."""

    local: tuple[str, ...]
    frozen: tuple[str, ...]


class ModelSplit(Split):
    """A split of a model's parameters, some of which may be frozen, beside parameters of LoRA or of a mixture.

    >>> from ppfl.interfaces.split import ModelSplit
    >>> lora = {"layers": ["hidden"], "rank": 2}
    >>> split = ModelSplit.model_validate({"local": ["*.lora_*"], "frozen": ["hidden.weight"], "lora": lora})
    >>> names = split.names(("hidden.weight", "hidden.bias", "head.weight"))
    >>> names
    ('hidden.weight', 'hidden.lora_A', 'hidden.lora_B', 'hidden.bias', 'head.weight')
    >>> split.parts(names)
    Parts(local=('hidden.lora_A', 'hidden.lora_B'), frozen=('hidden.weight',))
    """

    silent: ClassVar[frozenset[str]] = frozenset({"frozen", "lora", "floral"})
    frozen: tuple[str, ...] = Field(default=(), strict=False)
    """Globs over names of parameters that stay as they begin, neither trained nor sent nor kept by clients."""
    lora: LoRA | None = None
    """Which weights have parameters of low rank beside them, named `<layer>.lora_A` and `<layer>.lora_B`."""
    floral: MixtureOfAdaptors | None = None
    """Which weights have a mixture of adaptors beside them, named `<layer>.floral_U`, `_V` and `_bias`; its logits are
    `floral.router`."""

    @model_validator(mode="after")
    def _one_kind_of_factors(self) -> Self:
        if self.lora is not None and self.floral is not None:
            raise refusal("floral", "null beside `lora`: weights have the factors of one of the two")
        return self

    def names(self, of_model: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names of all parameters, those of LoRA or adaptors behind their weights, given the model's own.

        Raises ValueError when a pattern of `lora` or `floral` matches nothing.
        """
        if self.floral is not None:
            return self.floral.names(of_model)
        weights = frozenset(() if self.lora is None else self.lora.weights(of_model))
        return tuple(
            added for name in of_model for added in ((name, *lora_names(name)) if name in weights else (name,))
        )

    def parts(self, names: tuple[str, ...]) -> Parts:
        """Return which of all parameters are local, and which are frozen, in the order of `names`.

        Raises ValueError when a pattern matches nothing, for a name that is both, and when nothing is left to train or,
        without frozen parameters, to share.
        """
        frozen = self.frozen_names(names)
        if not frozen:
            return Parts(self.local_names(names), ())
        local = matched(self.local, names)
        if both := [name for name in local if name in frozen]:
            raise ValueError(f"{', '.join(both)}: local and frozen; a parameter is one of the two, or shared")
        return Parts(local, frozen)

    def frozen_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return which are frozen. Raises ValueError when a pattern matches nothing, or all are."""
        frozen = matched(self.frozen, names)
        if len(frozen) == len(names):
            raise ValueError(f"{list(self.frozen)} leaves nothing to train of {', '.join(names)}")
        return frozen


def matched(patterns: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names that a glob matches, in their order. Raises ValueError when a pattern matches nothing."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"{pattern!r} matches no parameter; the parameters are {', '.join(names)}")
    return tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def refuse_split(algorithm: Algorithm, problem: Problem) -> None:
    """Raise ValueError, from the key to the remedy, for a split that a method is not made for."""
    from ppfl.interfaces.objective import frozen_of  # of torch, which configurations are read without

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
            kind = "layers with parameters that are not frozen" if frozen_of(problem.objective) else "layers"
            raise ValueError(
                f"{where} keeps whole layers at the {side} local and shares the others; problem.split keeps "
                f"{local or 'nothing'} local, and the {kind} are {layers}, from input to output; mend "
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
