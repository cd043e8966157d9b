"""Quadratic problems from an HDF5 file with the layout `clients/<id>/{H,b,A,B,y}`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from ppfl.problems._quadratic_generators import Matrices

_NUM_AXES = {"H": 2, "b": 1, "A": 2, "B": 2, "y": 1}


@dataclass(frozen=True)
class Layout:
    """What a problem consists of, without its numbers."""

    client_names: tuple[str, ...]
    """In a file: in alphabetical order, as HDF5 lists them."""
    num_rows: tuple[int, ...]
    """Rows of A_m, B_m and y_m of every client."""
    shared_dimension: int
    """d_θ."""
    local_dimension: int
    """d_w."""


def read_layout(path: Path) -> Layout:
    """Check names, types and shapes of all clients and return the layout; no array is read.

    Every field is float64: H (p, d_θ), b (p,), A (r, d_θ), B (r, d_w), y (r,); p and r may differ between clients, d_θ
    and d_w may not. Raises UserError naming the file and the field.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return _layout(path, file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read as HDF5 ({error})") from None


def read_client(path: Path, name: str) -> Matrices:
    """Return the matrices of one client. Raises UserError for NaN or inf."""
    import h5py

    with h5py.File(path, "r") as file:
        matrices: Matrices = {field: file[f"clients/{name}/{field}"][...] for field in _NUM_AXES}
    for field, values in matrices.items():
        if not np.isfinite(values).all():
            raise UserError(f"{path}: clients/{name}/{field} has NaN or inf; all entries must be finite")
    return matrices


def _layout(path: Path, file: Any) -> Layout:
    import h5py

    clients = file.get("clients")
    if not isinstance(clients, h5py.Group) or not len(clients):
        raise UserError(f"{path}: no clients; wanted a group 'clients' with one group per client")
    names = tuple(clients)
    shapes = {name: _shapes(path, name, clients[name]) for name in names}
    first = shapes[names[0]]
    shared_dimension, local_dimension = first["A"][1], first["B"][1]
    for name in names:
        _check_shapes(path, name, shapes[name], shared_dimension, local_dimension)
    return Layout(names, tuple(shapes[name]["A"][0] for name in names), shared_dimension, local_dimension)


def _shapes(path: Path, name: str, client: Any) -> dict[str, tuple[int, ...]]:
    import h5py

    where = f"{path}: clients/{name}"
    if not isinstance(client, h5py.Group):
        raise UserError(f"{where} is not a group; wanted a group with the fields {', '.join(_NUM_AXES)}")
    shapes = {}
    for field, num_axes in _NUM_AXES.items():
        dataset = client.get(field)
        if not isinstance(dataset, h5py.Dataset):
            raise UserError(f"{where}/{field} is missing; a client has the fields {', '.join(_NUM_AXES)}")
        if dataset.dtype != np.float64:
            raise UserError(f"{where}/{field} is {dataset.dtype}; wanted float64")
        if len(dataset.shape) != num_axes or 0 in dataset.shape:
            wanted = "a vector" if num_axes == 1 else "a matrix"
            raise UserError(f"{where}/{field} has shape {dataset.shape}; wanted {wanted} that is not empty")
        shapes[field] = dataset.shape
    return shapes


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
