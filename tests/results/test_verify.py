"""`ppfl verify` says of every file whether it is as it was written."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from ppfl.results.parameters import save_shared
from tests.conftest import MakeResult
from tests.grids import curve, ppfl

KEPT = Path(__file__).parent.parent / "kept" / "version-3"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 16
    path.write_bytes(content)


def test_files_of_each_kind(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result("abc", {"name": "trial"}, curve(1.0))
    save_shared(result, {"θ": torch.arange(30.0)}, "abc")
    shared = tmp_path / "abc.h5.shared.safetensors"
    assert ppfl("verify", tmp_path).output.splitlines() == [f"{result}: ok", f"{shared}: ok"]
    flip(result)
    flip(shared)
    found = ppfl("verify", result, shared)
    assert found.exit_code == 1
    assert [line.split(": ")[1].split(" (")[0] for line in found.output.splitlines()] == ["does not match"] * 2
    assert ppfl("verify", tmp_path / "none.h5").exit_code == 2


def test_checkpoints_have_those_of_their_entries(tmp_path: Path) -> None:
    folder = tmp_path / "stopped.h5.checkpoint"
    shutil.copytree(KEPT / folder.name, folder)
    names = ["current.json", "round-51/rank-0.safetensors", "round-51/rank-1.safetensors", "previous.json"]
    names += ["round-50/rank-0.safetensors", "round-50/rank-1.safetensors"]
    assert ppfl("verify", tmp_path).output.splitlines() == [f"{folder / name}: ok" for name in names]
    flip(folder / "round-51" / "rank-1.safetensors")
    flip(folder / "previous.json")
    found = ppfl("verify", folder)
    assert found.exit_code == 1
    bad = [line for line in found.output.splitlines() if not line.endswith(": ok")]
    assert len(bad) == 2
    assert "rank-1.safetensors has another checksum" in bad[0]
    assert bad[1].startswith(f"{folder / 'previous.json'}: does not match")


def test_files_of_version_3_have_none(tmp_path: Path) -> None:
    found = ppfl("verify", KEPT / "digits.h5", KEPT / "collected.h5", KEPT / "digits.h5.shared.safetensors")
    assert found.exit_code == 0
    assert [line.split(": ")[1] for line in found.output.splitlines()] == ["has none"] * 3
