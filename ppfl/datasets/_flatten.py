"""`ppfl data flatten`: from a group a client to the flat layout."""

from __future__ import annotations

import os
from itertools import accumulate
from typing import TYPE_CHECKING, Any, BinaryIO

import h5py
import numpy as np

from ppfl.core.errors import UserError
from ppfl.core.files import whole_path
from ppfl.datasets._flat_file import BLOCK_BYTES, CLIENT, OFFSETS
from ppfl.datasets._grouped_file import GROUPED_LAYOUT, GroupedClients
from ppfl.datasets._sample_file import LABEL
from ppfl.interfaces.data_hdf5 import open_data

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ppfl.datasets._grouped_file import GroupedFile

KIND = "ppfl flat samples"
LABEL_TYPE = np.dtype("<i8")


def flatten(source: Path, out: Path) -> tuple[int, int]:
    """Write the samples of a file with a group a client, in the order of names; return how many clients and samples.

    Client by client, in memory for one client and a block. Raises UserError for what a run would refuse of the source,
    and where there is something at `out` or it cannot be written.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: exists; choose another name")
    with open_data(source, str(source)) as root:
        examples = root.group("examples", f"{source}, examples")
        if examples is None:
            raise UserError(f"{source} has no clients; {GROUPED_LAYOUT}")
        clients = GroupedClients.of(examples, str(source))
        grouped = clients.look_at(clients.names)
        if grouped.has_numbers:
            raise UserError(f"{source}: {LABEL} is floating point; the flat layout is for classes alone")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with whole_path(out) as partial:
                offsets = create_flat(partial, grouped.num_samples, grouped.sample_shape, grouped.sample_dtype)
                with partial.open("r+b") as file:
                    _fill(file, grouped, offsets)
        except OSError as error:
            raise UserError(f"{out}: cannot write it: {os.strerror(error.errno) if error.errno else error}") from error
    return len(grouped.num_samples), sum(grouped.num_samples.values())


def create_flat(
    path: Path, num_samples: Mapping[str, int], sample_shape: tuple[int, ...], sample_dtype: np.dtype[Any]
) -> tuple[int, int]:
    """Write everything but samples and labels (int64) of clients with so many each; return where these two belong."""
    names = [name.encode() for name in num_samples]
    total, field = sum(num_samples.values()), "samples" if len(sample_shape) == 1 else "pixels"
    with h5py.File(path, "x", locking=False) as file:
        file.attrs["kind"] = KIND
        file.attrs["layout"] = f"row s of {field} and {LABEL} is client n's where {OFFSETS}[n] <= s < {OFFSETS}[n + 1]"
        file[OFFSETS] = np.array([0, *accumulate(num_samples.values())], np.int64)
        texts = h5py.string_dtype("utf-8", max(map(len, names)))
        file.create_dataset(CLIENT, data=np.array(names, texts))
        return (
            _reserve(file, field, (total, *sample_shape), sample_dtype),
            _reserve(file, LABEL, (total,), LABEL_TYPE),
        )


def _reserve(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return where the numbers of a new array belong, which HDF5 does not write: it does not survive a full disk."""
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    how.set_obj_track_times(False)  # the same samples are the same bytes, and the same run
    space, stored_type = h5py.h5s.create_simple(shape), h5py.h5t.py_create(dtype, logical=True)
    return h5py.h5d.create(file.id, name.encode(), stored_type, space, how).get_offset() or 0


def _fill(file: BinaryIO, grouped: GroupedFile, offsets: tuple[int, int]) -> None:
    at_samples, at_labels = offsets
    for x, y in _blocks(grouped):
        file.seek(at_samples)
        at_samples += file.write(x)
        file.seek(at_labels)
        at_labels += file.write(y)
    file.flush()


def _blocks(grouped: GroupedFile) -> Iterator[tuple[bytes, bytes]]:
    """Yield samples and labels of several clients together, as a file of many small ones would take long to write."""
    x, y = bytearray(), bytearray()
    for name in grouped.num_samples:
        samples, labels = grouped.read_stored(name)
        if samples.dtype.kind == "f":
            largest = float(np.finfo(samples.dtype).max)
            grouped.check_numbers(samples, f"client {name!r}", "samples", largest)
        x += np.ascontiguousarray(samples, grouped.sample_dtype).tobytes()
        y += labels.astype(LABEL_TYPE).tobytes()
        if len(x) >= BLOCK_BYTES:
            yield bytes(x), bytes(y)
            x, y = bytearray(), bytearray()
    yield bytes(x), bytes(y)
