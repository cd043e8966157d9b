"""`ppfl data flatten`: the same samples in the flat layout, written as a whole or not at all."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from ppfl.cli import main
from ppfl.core.errors import UserError
from ppfl.datasets import _flatten
from ppfl.datasets._flatten import flatten
from tests.test_datasets import BROKEN, load, write
from tests.test_flat_data import random, same

SIZES = {"d": 30, "a": 21, "empty": 0, "b": 7, "ü c": 12}
PAGE = Path(__file__).parent.parent / "configs" / "README.md"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("block_bytes", [1, 1 << 23])
@pytest.mark.parametrize(
    ("shape", "dtype", "field"),
    [((5,), "f4", "samples"), ((3, 2), ">f8", "pixels"), ((3, 2, 3), "u1", "pixels"), ((4,), "f2", "samples")],
)
def test_data_and_number_types_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: str, field: str, block_bytes: int
) -> None:
    monkeypatch.setattr(_flatten, "BLOCK_BYTES", block_bytes)
    source, out = Path(write(tmp_path / "in.h5", random(SIZES, shape, dtype))), tmp_path / "new" / "out.h5"
    assert flatten(source, out) == (5, 70)
    with h5py.File(out) as file:
        assert sorted(file) == sorted([field, "label", "offsets", "client"])
        assert file[field].dtype == np.dtype(dtype).newbyteorder("=")
        assert file[field].shape == (70, *shape)
        assert file["offsets"][()].tolist() == [0, 21, 28, 58, 58, 70]
        assert [name.decode() for name in file["client"][()]] == ["a", "b", "d", "empty", "ü c"]
        assert file.attrs["kind"] == "ppfl flat samples"
    assert names_in(out.parent) == ["out.h5"]
    keys = {"name": "federated_hdf5", "train": str(source), "validation": 0.2}
    same(load(keys | {"train": str(out)}), load(keys))


def test_the_same_samples_are_the_same_bytes(tmp_path: Path) -> None:
    clients = random(SIZES)
    one, other = tmp_path / "one.h5", tmp_path / "other.h5"
    flatten(Path(write(tmp_path / "in.h5", clients)), one)
    flatten(Path(write(tmp_path / "in2.h5", dict(reversed(clients.items())))), other)
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("case", BROKEN)
def test_what_a_run_refuses_is_not_converted(tmp_path: Path, case: str) -> None:
    clients, message = BROKEN[case]
    source = Path(write(tmp_path / "in.h5", clients))
    with pytest.raises(UserError, match=message.removeprefix(r"problem\.dataset\.train: ")):
        flatten(source, tmp_path / "out.h5")
    assert names_in(tmp_path) == ["in.h5"]


def test_numbers_that_no_run_can_use_are_not_converted(tmp_path: Path) -> None:
    clients = random(SIZES)
    clients["b"]["pixels"][2, 1] = np.nan
    with pytest.raises(UserError, match=r"in\.h5, client 'b': 1 of its 7 samples have NaN"):
        flatten(Path(write(tmp_path / "in.h5", clients)), tmp_path / "out.h5")
    assert names_in(tmp_path) == ["in.h5"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    source, out = Path(write(tmp_path / "in.h5", random(SIZES))), tmp_path / "out.h5"
    for there in (source, out):
        out.write_text("mine")
        before = there.read_bytes()
        with pytest.raises(UserError, match=r"\.h5: exists; choose another name"):
            flatten(source, there)
        assert there.read_bytes() == before
    out.unlink()
    out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="exists; choose another name"):
        flatten(source, out)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_flatten, "_fill", full)
    with pytest.raises(UserError, match=r"out\.h5: cannot write it: No space left on device"):
        flatten(Path(write(tmp_path / "in.h5", random(SIZES))), tmp_path / "out.h5")
    assert names_in(tmp_path) == ["in.h5"]


def test_the_flat_layout_is_not_flattened_again(tmp_path: Path) -> None:
    flatten(Path(write(tmp_path / "in.h5", random(SIZES))), tmp_path / "out.h5")
    result = CliRunner().invoke(main, ["data", "flatten", str(tmp_path / "out.h5"), str(tmp_path / "again.h5")])
    assert result.exit_code == 2
    assert re.fullmatch(r"ppfl: error: .*out\.h5 has no clients; the layout is examples/[^\n]*\n", result.stderr)


def test_the_documented_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command, told = re.findall(r"^\$ ppfl (data .*)\n(.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)[0]
    write(tmp_path / command.split()[2], random({f"{m}": 3 for m in range(20)}))
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == 0, result.output
    assert re.sub(r"\d+", "N", result.stdout.strip()) == re.sub(r"\d+", "N", told)


def test_labels_that_are_numbers_are_not_converted(tmp_path: Path) -> None:
    clients = random(SIZES)
    source = Path(write(tmp_path / "in.h5", {name: of | {"label": of["label"] / 2} for name, of in clients.items()}))
    with pytest.raises(UserError, match="label is floating point; the flat layout is for classes alone"):
        flatten(source, tmp_path / "out.h5")
    assert names_in(tmp_path) == ["in.h5"]
