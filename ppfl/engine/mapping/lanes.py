"""Many small tensors of one shape, computed on together: each lane gets the bits that it would get alone.

`Lanes` stands in for a tensor in the pure functions of one client. Arithmetic on elements cannot tell how many
elements there are, and sums over the last dimension are made row by row, so these run on all lanes at once; whatever is
not known to be like that, matrix products first of all, is done lane after lane with the call that a single run makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch

from ppfl.core.conjugate_gradients import solve_all
from ppfl.core.matvec import Matrices

if TYPE_CHECKING:
    from ppfl.core.types import State

_ELEMENTWISE: frozenset[Any] = frozenset({
    torch.where, torch.maximum, torch.minimum, torch.zeros_like, torch.ones_like, torch.abs, torch.sqrt, torch.clone,
    torch.clamp,
})  # fmt: skip


class Lanes:
    """L tensors of one shape: `values` has shape (L, …)."""

    __array_priority__ = 1000

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute a function of torch for all lanes."""
        kwargs = kwargs or {}
        if function in _ELEMENTWISE:
            return _elementwise(function, args, kwargs)
        if function is torch.linalg.vector_norm and args[0].ndim == 1 and len(args) == 1 and not kwargs:
            return Lanes(torch.linalg.vector_norm(args[0].values, dim=-1))
        if function is torch.cat and all(isinstance(x, Lanes) and x.ndim == 1 for x in args[0]) and not kwargs:
            return Lanes(torch.cat([x.values for x in args[0]], dim=1))
        if function is torch.split and args[0].ndim == 1 and len(args) == 2 and kwargs.get("dim", 0) == 0:
            # in memory of their own, as lanes are: kernels round differently for other alignments
            return tuple(Lanes(piece.contiguous()) for piece in torch.split(args[0].values, args[1], dim=1))
        return _one_by_one(function, args, kwargs)

    @property
    def shape(self) -> torch.Size:
        """Of one lane."""
        return self.values.shape[1:]

    @property
    def ndim(self) -> int:
        """Of one lane."""
        return self.values.ndim - 1

    @property
    def dtype(self) -> torch.dtype:
        """Of all lanes."""
        return self.values.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getattr__(self, name: str) -> Callable[..., Lanes]:
        """Any other method of a tensor, lane after lane; what works in place would change copies."""
        method = getattr(torch.Tensor, name, None)
        if name.startswith("__") or name.endswith("_") or not callable(method):
            raise AttributeError(f"lanes have no {name}")
        return lambda *args, **kwargs: _one_by_one(method, (self, *args), kwargs)

    def vectorized(self, function: Callable[..., Any], inputs: Any) -> Any:
        """Apply a function of single tensors to every lane by vmap; inputs: lanes in nests of mappings and tuples."""
        return _each(Lanes, torch.func.vmap(function)(*_each(lambda lanes: lanes.values, inputs)))

    def clone(self) -> Lanes:
        """Copy all lanes."""
        return Lanes(self.values.clone())

    def numel(self) -> int:
        """Return the number of elements of one lane."""
        return self.shape.numel()

    def to(self, *args: Any, **kwargs: Any) -> Lanes:
        """Convert every lane."""
        return Lanes(self.values.to(*args, **kwargs))

    def reshape(self, *shape: int | Sequence[int]) -> Lanes:
        """Reshape every lane; to a shape, or to so many numbers."""
        of_lane = [size for part in shape for size in (part if isinstance(part, Sequence) else [part])]
        return Lanes(self.values.reshape(len(self.values), *of_lane))

    def sum(self) -> Lanes:
        """Sum every lane up; vectors alone, whose sum over the last dimension has the bits of a single one."""
        if self.ndim != 1:
            return _one_by_one(torch.sum, (self,), {})
        return Lanes(self.values.sum(-1))

    def lane(self, number: int) -> torch.Tensor:
        """Return one lane, in memory of its own."""
        return self.values[number].clone()

    def __add__(self, other: Any) -> Lanes:
        return _elementwise(torch.add, (self, other), {})

    def __sub__(self, other: Any) -> Lanes:
        return _elementwise(torch.sub, (self, other), {})

    def __mul__(self, other: Any) -> Lanes:
        return _elementwise(torch.mul, (self, other), {})

    def __rsub__(self, other: float) -> Lanes:
        return Lanes(other - self.values)

    def __rtruediv__(self, other: float) -> Lanes:
        return Lanes(other / self.values)

    __radd__ = __add__
    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Lanes:
        return _elementwise(torch.div, (self, other), {})

    def __neg__(self) -> Lanes:
        return Lanes(-self.values)

    def __pow__(self, exponent: float) -> Lanes:
        return Lanes(self.values**exponent)

    def __eq__(self, other: object) -> Lanes:  # type: ignore[override]
        return _elementwise(torch.eq, (self, other), {})

    def __le__(self, other: Any) -> Lanes:
        return _elementwise(torch.le, (self, other), {})

    def __lt__(self, other: Any) -> Lanes:
        return _elementwise(torch.lt, (self, other), {})

    def __ge__(self, other: Any) -> Lanes:
        return _elementwise(torch.ge, (self, other), {})

    def __gt__(self, other: Any) -> Lanes:
        return _elementwise(torch.gt, (self, other), {})

    def __or__(self, other: Any) -> Lanes:
        return _elementwise(torch.bitwise_or, (self, other), {})

    def __and__(self, other: Any) -> Lanes:
        return _elementwise(torch.bitwise_and, (self, other), {})

    def __matmul__(self, other: Lanes) -> Lanes:
        if self.ndim != 1 or other.ndim != 1:
            return _one_by_one(torch.matmul, (self, other), {})
        products = [torch.dot(x, y) for x, y in zip(self.values.unbind(), other.values.unbind(), strict=True)]
        return Lanes(torch.stack(products))

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise TypeError("lanes have no common truth value: a function of one client must not branch on values")


class MatrixLanes:
    """L matrices of one shape, each where it is: lanes of one problem share theirs."""

    def __init__(self, matrices: Sequence[torch.Tensor]) -> None:
        self.matrices = matrices

    @cached_property
    def T(self) -> MatrixLanes:  # noqa: N802, as of tensors
        """The transposed matrices, as views."""
        return MatrixLanes([matrix.T for matrix in self.matrices])

    def __matmul__(self, vectors: Lanes) -> Lanes:
        """Return the product of every matrix with its vector, one call a lane: batched products have other bits."""
        calls = zip(self.matrices, vectors.values.unbind(), strict=True)
        return Lanes(torch.stack([torch.mv(matrix, vector.clone()) for matrix, vector in calls]))

    def matvec(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the same products by `ppfl.core.matvec`, all in one call."""
        return as_lanes(self._ready.times(values_of(vectors)))

    def plus_product(
        self, first: torch.Tensor, vectors: torch.Tensor, minus: torch.Tensor | None, sign: int
    ) -> torch.Tensor:
        """Return first ± A x − minus in one way through memory."""
        last = None if minus is None else values_of(minus)
        return as_lanes(self._ready.times(values_of(vectors), values_of(first), last, sign))

    def solve(self, targets: torch.Tensor, starts: torch.Tensor, steps: int) -> torch.Tensor:
        """Return the systems' solutions by `ppfl.core.conjugate_gradients`, all in one call."""
        return as_lanes(solve_all(self._ready, values_of(targets), values_of(starts), steps))

    @cached_property
    def _ready(self) -> Matrices:
        return Matrices(self.matrices)


def as_lanes(values: torch.Tensor) -> torch.Tensor:
    """Return (L, …) as what stands in for one tensor."""
    return cast("torch.Tensor", Lanes(values))


def values_of(lanes: torch.Tensor) -> torch.Tensor:
    """Return all lanes, (L, …)."""
    return cast("Lanes", lanes).values


def state_lanes(values: State) -> State:
    """Return groups of named values, (L, …) each, as lanes."""
    return {group: {name: as_lanes(value) for name, value in of.items()} for group, of in values.items()}


def state_values(lanes: State) -> State:
    """Return groups of named lanes as values, (L, …) each."""
    return {group: {name: values_of(value) for name, value in of.items()} for group, of in lanes.items()}


def stack(tensors: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return lanes of named tensors, those of equal names being of one shape; matrices stay where they are."""
    return {name: _stack([one[name] for one in tensors]) for name in tensors[0]}


def take(lanes: Mapping[str, torch.Tensor], places: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the lanes at some places, as often as they are named."""
    return {name: _take(value, places) for name, value in lanes.items()}


def unstack(lanes: Mapping[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
    """Return one lane of named tensors, in memory of its own."""
    return {name: cast("Lanes", value).lane(number) for name, value in lanes.items()}


def _stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return cast("torch.Tensor", MatrixLanes(tensors)) if tensors[0].ndim == 2 else as_lanes(torch.stack(list(tensors)))


def _take(lanes: torch.Tensor | MatrixLanes, places: torch.Tensor) -> torch.Tensor:
    if isinstance(lanes, MatrixLanes):
        return cast("torch.Tensor", MatrixLanes([lanes.matrices[place] for place in places.tolist()]))
    return as_lanes(values_of(lanes).index_select(0, places))


def _elementwise(function: Callable[..., torch.Tensor], args: Sequence[Any], kwargs: dict[str, Any]) -> Lanes:
    """Apply an element-wise function; lanes of fewer dimensions are broadcast within their lane."""
    widest = max((arg for arg in args if isinstance(arg, Lanes)), key=lambda lanes: lanes.ndim)
    return Lanes(function(*(_aligned(arg, widest) for arg in args), **kwargs))


def _aligned(arg: Any, widest: Lanes) -> Any:
    if not isinstance(arg, Lanes):
        return arg
    values, missing = arg.values, widest.ndim - arg.ndim
    if missing and not arg.ndim and values.is_floating_point() and widest.values.is_floating_point():
        values = values.to(widest.dtype)  # numbers do not change the type of what they multiply
    return values.reshape(-1, *[1] * missing, *arg.shape) if missing else values


def _one_by_one(function: Callable[..., torch.Tensor], args: Sequence[Any], kwargs: dict[str, Any]) -> Lanes:
    """Apply a function lane after lane, on copies in memory of their own."""
    num_lanes = next(len(lanes.values) for lanes in _lanes_in(args))
    return Lanes(torch.stack([function(*_of_lane(args, number), **kwargs) for number in range(num_lanes)]))


def _each(function: Callable[..., Any], nest: Any) -> Any:
    """Apply a function to all that is in a nest."""
    if isinstance(nest, Mapping):
        return {name: _each(function, of_name) for name, of_name in nest.items()}
    return tuple(_each(function, one) for one in nest) if isinstance(nest, tuple) else function(nest)


def _lanes_in(args: Any) -> list[Lanes]:
    if isinstance(args, Lanes):
        return [args]
    return [lanes for arg in args for lanes in _lanes_in(arg)] if isinstance(args, list | tuple) else []


def _of_lane(arg: Any, number: int) -> Any:
    if isinstance(arg, Lanes):
        return arg.lane(number)
    return type(arg)(_of_lane(one, number) for one in arg) if isinstance(arg, list | tuple) else arg
