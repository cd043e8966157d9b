"""Samples of clients that a function in a file beside the configuration returns."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import torch
from pydantic import ConfigDict, Field, JsonValue, PositiveInt, SerializationInfo, model_serializer, model_validator

from ppfl.core.agree import SharedUserError, on_every_rank
from ppfl.core.errors import UserError
from ppfl.core.plugins import refusal
from ppfl.core.source_function import SourceFunction, UnfitArgumentsError
from ppfl.interfaces.dataset import Dataset, FederatedSamples, LazyParts, Parts, refuse_parts
from ppfl.interfaces.packed_samples import PackedPart, PackedParts

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import SerializerFunctionWrapHandler

    from ppfl.core.communicator import Communicator
    from ppfl.core.plugins import Example
    from ppfl.datasets._returned import ReturnedSamples
    from ppfl.interfaces.dataset import Samples
    from ppfl.interfaces.placement import Placement

Result = TypeVar("Result")

_TEST, _VALIDATION = 0.2, 0.1
_COLUMNS = {"train": 0, "validation": 1, "test": 2}
_FROM = "problem.dataset.from: "


class Function(Dataset):
    """{name: client}, or a list of clients, as a function returns them; a client is (x, y), or {train: (x, y),
    validation: (x, y), test: (x, y)}, of which the last two may be missing and are cut from the training samples then.

    x are (S, features), (S, height, width) or (S, height, width, channels), uint8 (scaled to [0, 1]) or floating point
    (used as they are), or with `vocabulary` ids of tokens (S, T); y are (S,) integers, or (S,) or (S, numbers) floating
    point, or with `vocabulary` (S,) or (S, T) ids. Clients come in the order of their names; what can be made an
    array is taken for one.

    The function is called when the configuration is read, once a process, and must return the same every time: its
    file, what that imports from its folder, the arguments and the arrays are part of the digest.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    name: Literal["function"]
    example: ClassVar[Example] = {"from": "my_data:build", "arguments": {"clients": 5}}
    function: SourceFunction = Field(alias="from")
    """The file, below the configuration's folder, and the function in it, e.g. "my_data:build"."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """What the function is called with, by name."""
    test: float | None = Field(default=None, ge=0, lt=1)
    """Fraction of each client's samples kept for testing, rounded down; null: 0.2, or none where the function returns
    samples for that."""
    validation: float | None = Field(default=None, ge=0, lt=1)
    """The same for choosing hyperparameters; null: 0.1, or none likewise."""
    vocabulary: PositiveInt | None = None
    """Samples are ids of tokens below this; null: they are numbers."""

    @model_validator(mode="after")
    def _returns_samples(self) -> Function:
        try:
            returned = self._returned()
            returned.check_kind(self.vocabulary)
        except UnfitArgumentsError as error:
            raise refusal("arguments", f"what the function takes; {error}") from error
        except UserError as error:
            raise refusal("from", f"a function that returns samples of clients; {error}") from error
        for part in ("test", "validation"):
            if part in returned.packs and getattr(self, part) is not None:
                raise refusal(part, f"null, since {self.function.name} returns {part} samples")
        refuse_parts(self._parts(returned))
        return self

    @model_serializer(mode="wrap")
    def _with_arrays(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        from ppfl.datasets._calls import hash_of

        content: dict[str, Any] = handler(self)
        # as of data files, the digest knows the content, and YAML where to find it
        returned = {"returned": hash_of(self.function, self.arguments)} if info.mode == "python" else {}
        return {**content, **returned}

    def __getstate__(self) -> dict[Any, Any]:
        """Take along what the function returned here, as a hash."""
        from ppfl.datasets._calls import known_hash

        return {**super().__getstate__(), "returned": known_hash(self.function, self.arguments)}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Have the function return the same in this process."""
        from ppfl.datasets._calls import expect

        super().__setstate__({key: value for key, value in state.items() if key != "returned"})
        expect(self.function, self.arguments, state["returned"])

    def load(self, placement: Placement, clients_per_chunk: int | None) -> FederatedSamples:
        """Take this rank's clients out of what the function returned. Collective.

        Raises UserError where it fails, returns other arrays than on another rank or in another process, or numbers
        that are not finite in the precision of the run.
        """
        communicator = placement.communicator
        returned = on_every_rank(communicator, lambda: _named(self._returned))
        _refuse_other_arrays(returned, communicator)
        return on_every_rank(communicator, lambda: _named(lambda: self._deal(returned, placement, clients_per_chunk)))

    def _deal(self, returned: ReturnedSamples, placement: Placement, clients_per_chunk: int | None) -> FederatedSamples:
        train, parts = returned.packs["train"], self._parts(returned)
        sizes = parts.num_samples_of_all(train.sizes)
        own = [part for part in returned.packs if part != "train"]
        for part in own:
            sizes[:, _COLUMNS[part]] = returned.packs[part].sizes
        dealt = placement.deal(returned.names, sizes[:, 0], clients_per_chunk, returned.input_shape, self.vocabulary)
        if self.vocabulary is None:
            for client in dealt.clients:
                of_client: dict[str, Samples] = {part: returned.part(part, client) for part in returned.packs}
                returned.check_finite(returned.names[client], of_client, placement.dtype)
        cut = LazyParts(parts, placement.data_seed, train.sizes)
        # what a shift changes in place must not be what the next run of this process is given
        some = partial(returned.some, clients=dealt.clients, copy=self.shift is not None)
        pack = some("train")
        in_parts = PackedParts(*(PackedPart(pack, cut.chooser(part)) for part in (0, 1, 2)))
        in_parts = in_parts._replace(**{part: PackedPart(some(part)) for part in own})
        return FederatedSamples.of(
            returned.names, sizes, dealt, in_parts, returned.input_shape,
            returned.divisor if self.vocabulary is None else 1.0,
            label_shape=returned.label_shape, labels_from=f"{_FROM}{returned.where}, label",
            vocabulary_size=self.vocabulary,
        )  # fmt: skip

    def _parts(self, returned: ReturnedSamples) -> Parts:
        """Return how training samples are cut into those parts that the function does not return."""
        fractions = {"test": (self.test, _TEST), "validation": (self.validation, _VALIDATION)}
        return Parts(**{
            part: 0.0 if part in returned.packs else default if given is None else given
            for part, (given, default) in fractions.items()
        })  # fmt: skip

    def _returned(self) -> ReturnedSamples:
        # imported here: its arrays are numpy's, which configurations of other data are read without
        from ppfl.datasets._calls import returned_by

        return returned_by(self.function, self.arguments)


def _named(action: Callable[[], Result]) -> Result:
    """Turn an error about what the function returns into one that names the key."""
    try:
        return action()
    except UserError as error:
        raise UserError(f"{_FROM}{error}") from error


def _refuse_other_arrays(returned: ReturnedSamples, communicator: Communicator) -> None:
    """Raise SharedUserError where ranks have different ones. Collective."""
    from ppfl.datasets._calls import ALWAYS_THE_SAME

    mine = torch.tensor([list(bytes.fromhex(returned.sha256))], dtype=torch.uint8)
    of_ranks = communicator.allgather_rows(mine).tolist()
    if other := [str(rank) for rank, one in enumerate(of_ranks) if one != of_ranks[0]]:
        ranks = f"rank{'s' if len(other) > 1 else ''} {', '.join(other)}"
        raise SharedUserError(
            f"{_FROM}{returned.where}: returns other arrays on {ranks} than on rank 0; {ALWAYS_THE_SAME}"
        )
