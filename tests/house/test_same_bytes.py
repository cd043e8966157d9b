"""The comparison of two commits sees what differs."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from tests.house.same_bytes import differences


def result(path: Path, loss: list[float], seconds: float, **more: float) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["status"] = "complete"
        file["rounds/loss"] = np.array(loss)
        file["rounds/seconds"] = np.array([seconds])
        for name, value in more.items():
            file[f"rounds/{name}"] = np.array([value])


def test_arrays_are_compared_and_times_are_not(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    for folder, seconds in ((before, 1.0), (after, 2.0)):
        folder.mkdir()
        result(folder / "a.h5", [1.0, 2.0], seconds)
    assert differences(before, after) == []
    result(after / "a.h5", [1.0, 2.0], 3.0, gained=1.0)
    assert differences(before, after) == []
    assert differences(after, before) == ["a.h5: rounds/gained"]
    result(after / "a.h5", [1.0, np.nextafter(2.0, 3.0)], 1.0)
    assert differences(before, after) == ["a.h5: rounds/loss"]
    result(after / "b.h5", [1.0], 1.0)
    assert differences(before, after)[0] == "b.h5: only in one of them"
