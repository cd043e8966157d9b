"""Tensors go to disk and come back one at a time, with the bytes that any reader of safetensors sees."""

from __future__ import annotations

import hashlib
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ppfl.core.snapshot import Snapshot
from ppfl.results.checkpoint_parts import read_snapshot, write_snapshot
from ppfl.results.parameters import load_local, save_local, save_shared
from ppfl.results.seal import DamagedError
from ppfl.results.tensor_file import TensorFile, load_tensors, write_tensors

TENSORS = {
    "flag": torch.tensor(True),
    "half": torch.arange(3, dtype=torch.float32).to(torch.bfloat16),
    "θ/weights": torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).T,
    "wide": torch.arange(7.0, dtype=torch.float64),
    "none": torch.zeros(0, 3),
    "count": torch.tensor([[1, -2]]),
}


@pytest.mark.parametrize("kind", ["", "ppfl parameters"])
def test_any_reader_of_safetensors_reads_the_same(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "t.safetensors"
    size, digits = write_tensors(path, TENSORS, TENSORS.__getitem__, {"digest": "abc"}, kind)
    assert path.stat().st_size == size
    assert kind or hashlib.sha256(path.read_bytes()).hexdigest() == digits
    for found in (load_file(path), load_tensors(path)):
        assert found.keys() == TENSORS.keys()
        for name, value in TENSORS.items():
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], value)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["digest"] == "abc"


class Counted:
    """States of clients, 8 kB each, that notice how many of them are there at once."""

    clients = range(20)

    def __init__(self) -> None:
        self.alive = self.most = 0

    def like(self, client: int) -> dict[str, Any]:
        return {"local": {"w": torch.empty(1000, dtype=torch.float64, device="meta")}, "none": {}}

    def state(self, client: int) -> dict[str, Any]:
        values = np.full(1000, float(client))
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(values, self._gone)
        return {"local": {"w": torch.from_numpy(values)}, "none": {}}

    def _gone(self) -> None:
        self.alive -= 1


def test_a_checkpoint_holds_one_client_at_a_time(tmp_path: Path) -> None:
    states = Counted()
    snapshot = Snapshot(7, range(20), {"limit": 1.5}, {"server/model/θ": torch.arange(3.0)}, states)
    size, digits = write_snapshot(tmp_path / "part", snapshot, with_numbers=True)
    assert states.most == 1
    content = (tmp_path / "part").read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (size, digits)
    found = read_snapshot(7, range(5, 9), [tmp_path / "part"])
    assert (found.numbers, list(found.tensors)) == ({"limit": 1.5}, ["server/model/θ"])
    assert list(found.states.clients) == [5, 6, 7, 8]
    assert found.states.state(6)["local"]["w"].tolist() == [6.0] * 1000
    assert found.states.like(6)["local"]["w"].shape == (1000,)


def test_local_parameters_are_saved_one_client_at_a_time(tmp_path: Path) -> None:
    states = Counted()
    save_local(tmp_path / "r.h5", states, 0, 1, "abc")
    assert states.most == 1
    assert {client: params["w"][0].item() for client, params in load_local(tmp_path / "r.h5").items()} == {
        client: float(client) for client in range(20)
    }


def test_reading_a_file_anew_needs_no_more_than_one_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """States stay on the disk until they are asked for."""
    snapshot = Snapshot(7, range(20), {}, {}, Counted())
    write_snapshot(tmp_path / "part", snapshot, with_numbers=True)
    read: list[str] = []
    original = TensorFile.read

    def noted(self: TensorFile, names: Any) -> Any:
        read.extend(names)
        return original(self, names)

    monkeypatch.setattr(TensorFile, "read", noted)
    found = read_snapshot(7, range(20), [tmp_path / "part"])
    assert read == []
    found.states.state(3)
    assert read == ["client/3/local/w"]


def header_of(**changes: Any) -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    text = json.dumps({"w": entry}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 16,
        (20).to_bytes(8, "little") + b"[" * 20,
        header_of(dtype="F999"),
        header_of(shape=[2**62, 2]),
        header_of(shape=[-2]),
        header_of(shape=[2.0]),
        header_of(shape="2"),
        header_of(data_offsets=[8, 16]),
        header_of(data_offsets=[0, 4], shape=[1]),
        header_of(data_offsets=[0, None]),
        header_of(data_offsets=[False, 8]),
        header_of() + b"more",
        (4).to_bytes(8, "little") + b"true",
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(DamagedError, match="is damaged, or no safetensors file"):
        load_tensors(tmp_path / "t")


def test_a_changed_byte_of_parameters_is_seen(tmp_path: Path) -> None:
    save_shared(tmp_path / "r.h5", TENSORS, "abc")
    path = tmp_path / "r.h5.shared.safetensors"
    good = path.read_bytes()
    for position in range(0, len(good), 5):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(DamagedError):
            load_tensors(path)
