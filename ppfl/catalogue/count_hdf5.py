"""Counts of federated HDF5 files, client by client, in little memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppfl.catalogue.counted import Counted
from ppfl.core.errors import UserError
from ppfl.interfaces.data_hdf5 import open_data

if TYPE_CHECKING:
    from pathlib import Path

    from ppfl.interfaces.data_hdf5 import DataArray, DataGroup

_LABEL, _OFFSETS, _CLIENT = "label", "offsets", "client"
_ROWS_AT_ONCE = 1 << 20
_SAMPLE_FIELDS = ("tokens", "snippets", _LABEL)
"""What has an entry a sample, the first that there is."""


def samples(path: Path) -> Counted:
    """Count the clients, samples and classes of a file in either layout, and tell how its fields look.

    Raises UserError for damage, and where clients have different fields.
    """
    where = str(path)
    with open_data(path, where) as root:
        examples = root.group("examples", f"{where}, examples")
        if examples is not None:
            return _grouped(examples, where)
        if _OFFSETS not in root.names():
            raise UserError(f"{where}: has neither examples nor {_OFFSETS}, so it is no federated file")
        return _flat(root, where)


def _grouped(examples: DataGroup, where: str) -> Counted:
    sizes: dict[str, int] = {}
    fields: tuple[str, ...] = ()
    looks: dict[str, str] = {}
    classes: set[int] = set()
    for name in examples.names():
        client = f"{where}, client {name!r}"
        group = examples.group(name, client)
        if group is None:
            raise UserError(f"{client}: is no group")
        if not sizes:
            fields = group.names()
            looks = {field: _look(_array(group, field, client)) for field in fields}
        elif group.names() != fields:
            raise UserError(f"{client}: has the fields {_listed(group.names())}, those before have {_listed(fields)}")
        field = next((one for one in _SAMPLE_FIELDS if one in fields), None)
        if field is None:
            raise UserError(f"{client}: has {_listed(fields)}; one of {_listed(_SAMPLE_FIELDS)} must be among them")
        found = _array(group, field, client)
        sizes[name] = found.shape[0] if found.shape else 0
        if field == _LABEL:
            classes.update(np.unique(found.read()).tolist())
    if not sizes:
        raise UserError(f"{where}: has no clients")
    return Counted(_facts(sizes, classes) | {"fields": _listed(fields)} | looks, sizes)


def _flat(root: DataGroup, where: str) -> Counted:
    field = next((name for name in root.names() if name in ("pixels", "samples")), "samples")
    found = {name: _array(root, name, where) for name in (field, _LABEL)}
    offsets, client = _array(root, _OFFSETS, where), _array(root, _CLIENT, where)
    names, num_rows = client.read_texts(), np.diff(offsets.read().astype(np.int64))
    if len(names) != len(num_rows):
        raise UserError(f"{where}: has {len(names)} names, and {_OFFSETS} of {len(num_rows)} clients")
    labels, classes = found[_LABEL], set[int]()
    for first in range(0, labels.shape[0], _ROWS_AT_ONCE):
        classes.update(np.unique(labels.read_rows(first, min(first + _ROWS_AT_ONCE, labels.shape[0]))).tolist())
    looks = {name: _look(array) for name, array in found.items()}
    sizes = dict(zip(names, num_rows.tolist(), strict=True))
    return Counted(_facts(sizes, classes) | {"fields": _listed(sorted(looks))} | looks, sizes)


def _facts(sizes: dict[str, int], classes: set[int]) -> dict[str, int | str]:
    facts: dict[str, int | str] = {"clients": len(sizes), "samples": sum(sizes.values())}
    return facts | ({"classes": len(classes)} if classes else {})


def _array(group: DataGroup, field: str, client: str) -> DataArray:
    found = group.array(field, f"{client}, {field}")
    if found is None:
        raise UserError(f"{client}: {field} is no array")
    return found


def _look(found: DataArray) -> str:
    """Return the type of an entry, and its shape where it has one."""
    # texts of fixed and of variable length alike
    kind = "texts" if found.dtype.kind in "OS" else str(found.dtype)
    return " ".join([kind, *([" × ".join(map(str, found.shape[1:]))] if len(found.shape) > 1 else [])])


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names)
