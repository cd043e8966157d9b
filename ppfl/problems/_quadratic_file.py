"""Quadratic problems from an HDF5 file with the layout `clients/<id>/{H,b,A,B,y}`."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ppfl.interfaces.data_hdf5 import DataArray, DataGroup
    from ppfl.problems._quadratic_generators import Matrices

_NUM_AXES = {"H": 2, "b": 1, "A": 2, "B": 2, "y": 1}


@dataclass(frozen=True)
class Layout:
    """What a problem consists of, without its numbers."""

    client_names: tuple[str, ...]
    """In a file: in alphabetical order, whatever the order of creation."""
    num_rows: tuple[int, ...]
    """Rows of A_m, B_m and y_m of every client."""
    shared_dimension: int
    """d_θ."""
    local_dimension: int
    """d_w."""


@contextmanager
def open_clients(path: Path) -> Iterator[tuple[Layout, Callable[[str], Matrices]]]:
    """Open a file, check names, types and shapes of all clients, and yield (layout, reader of one client's matrices).

    Every field is float64: H (p, d_θ), b (p,), A (r, d_θ), B (r, d_w), y (r,); p and r may differ between clients, d_θ
    and d_w may not. Raises UserError naming the file and the field, when reading also for NaN or inf.
    """
    from ppfl.interfaces.data_hdf5 import open_data

    with open_data(path, f"{path}:") as root:
        clients = root.group("clients", f"{path}: clients")
        names = () if clients is None else clients.names()
        if clients is None or not names:
            raise UserError(f"{path}: no clients; wanted a group 'clients' with one group per client")
        # all clients are looked at on every rank, and the numbers read of some: wrong files are refused by all alike
        yield _layout(path, clients, names), partial(_read, path, clients)


def _read(path: Path, clients: DataGroup, name: str) -> Matrices:
    matrices: Matrices = {field: array.read() for field, array in _fields(path, clients, name).items()}
    for field, values in matrices.items():
        if not np.isfinite(values).all():
            raise UserError(f"{path}: clients/{name}/{field} has NaN or inf; all entries must be finite")
    return matrices


def _layout(path: Path, clients: DataGroup, names: tuple[str, ...]) -> Layout:
    shapes = {name: _shapes(path, clients, name) for name in names}
    first = shapes[names[0]]
    shared_dimension, local_dimension = first["A"][1], first["B"][1]
    for name in names:
        _check_shapes(path, name, shapes[name], shared_dimension, local_dimension)
    return Layout(names, tuple(shapes[name]["A"][0] for name in names), shared_dimension, local_dimension)


def _shapes(path: Path, clients: DataGroup, name: str) -> dict[str, tuple[int, ...]]:
    return {field: array.shape for field, array in _fields(path, clients, name).items()}


def _fields(path: Path, clients: DataGroup, name: str) -> dict[str, DataArray]:
    """Return the arrays of one client, each checked by itself but not read."""
    where = f"{path}: clients/{name}"
    client = clients.group(name, where)
    if client is None:
        raise UserError(f"{where} is not a group; wanted a group with the fields {', '.join(_NUM_AXES)}")
    arrays = {}
    for field, num_axes in _NUM_AXES.items():
        array = client.array(field, f"{where}/{field}")
        if array is None:
            raise UserError(f"{where}/{field} is missing; a client has the fields {', '.join(_NUM_AXES)}")
        if array.dtype != np.float64:
            raise UserError(f"{where}/{field} is {array.dtype}; wanted float64")
        if len(array.shape) != num_axes or 0 in array.shape:
            wanted = "a vector" if num_axes == 1 else "a matrix"
            raise UserError(f"{where}/{field} has shape {array.shape}; wanted {wanted} that is not empty")
        arrays[field] = array
    return arrays


def _check_shapes(
    path: Path, name: str, shapes: dict[str, tuple[int, ...]], shared_dimension: int, local_dimension: int
) -> None:
    p, r = shapes["H"][0], shapes["A"][0]
    wanted = {
        "H": (p, shared_dimension), "b": (p,), "A": (r, shared_dimension), "B": (r, local_dimension), "y": (r,),
    }  # fmt: skip
    for field, shape in wanted.items():
        if shapes[field] != shape:
            raise UserError(
                f"{path}: clients/{name}/{field} has shape {shapes[field]}; wanted {shape}, for H (p, d_θ), b (p,), "
                f"A (r, d_θ), B (r, d_w), y (r,) with p = {p}, r = {r}, d_θ = {shared_dimension}, "
                f"d_w = {local_dimension}"
            )
