"""What `ppfl timing` writes: seconds and bytes of runs that were not computed."""

from __future__ import annotations

import csv
from io import BytesIO, StringIO
from typing import TYPE_CHECKING

import h5py
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE_KIND = "ppfl timing"
_DIGITS = ".17g"
"""Of a number in text, so that it is the same one when it is read."""


def as_hdf5(of_runs: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """Return a file with a group for each run, named by its digest: {name: (rounds + 1,)}, along `round`."""
    image = BytesIO()
    with h5py.File(image, "w") as file:
        file.attrs["kind"] = FILE_KIND
        for digest, series in of_runs.items():
            group = file.create_group(digest)
            for name, values in series.items():
                group[name] = values
            # a scale, as in results, so that readers find what series go along
            group["round"].make_scale("round")
            for name in series.keys() - {"round"}:
                group[name].dims[0].attach_scale(group["round"])
    return image.getvalue()


def as_csv(of_runs: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """Return a table with a row a run and round."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = next(iter(of_runs.values()), {})
    writer.writerow(("digest", *names))
    for digest, series in of_runs.items():
        for row in zip(*series.values(), strict=True):
            writer.writerow((digest, *(format(value, _DIGITS) for value in row)))
    return text.getvalue().encode()


FORMATS = {".h5": as_hdf5, ".csv": as_csv}
"""By the ending of the file."""
