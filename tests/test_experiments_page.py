"""Figures of the page of experiments come from commands that stand there, and these work, on small made-up data."""

from __future__ import annotations

import gzip
import re
import shlex
import string
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.grids import ppfl

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"^    .*?\bppfl ((pack|table|plot) (configs/\S+\.yaml).*)$", re.MULTILINE)
IMAGES = set(re.findall(r"!\[[^\]]+\]\(images/(\S+)\)", TEXT))
HISTORY = {"mnist20.png"}
"""Drawn of one run of an older version of results."""
DRAWN = {config: re.findall(r"--out (\S+)", line)[0] for line, verb, config in COMMAND.findall(TEXT) if verb == "plot"}


def test_every_figure_has_its_command_and_every_file_its_page() -> None:
    assert set(DRAWN.values()) == IMAGES - HISTORY
    pages = "".join(page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    for path in (ROOT / "docs" / "images").iterdir():
        assert f"images/{path.name})" in pages, f"{path.name} stands on no page"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with files of the names, fields and vocabularies of the real ones."""
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    rows = [f"{label} {draw.integers(1, 100)}:1 123:{draw.integers(1, 9)}" for label in (-1, 1) for _ in range(60)]
    with gzip.open(folder / "a9a.svm.gz", "wt") as file:
        file.write("\n".join(rows) + "\n")
    for part in ("train", "test"):
        with h5py.File(folder / f"shakespeare40_{part}.h5", "w") as file:
            for role in range(10):
                text = string.ascii_letters + string.digits  # 62 characters, so that 63 is out of vocabulary
                file[f"examples/role{role}/snippets"] = [text.encode()] * 4
        with h5py.File(folder / f"mnist20_{part}.h5", "w") as file:
            for client in range(8):
                file[f"examples/{client}/pixels"] = draw.integers(0, 256, (10, 28, 28), dtype=np.uint8)
                file[f"examples/{client}/label"] = np.arange(10)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("config", sorted(DRAWN))
def test_commands_of_a_figure_work(config: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PPFL_DATA", str(data))
    fast = ["--set", "rounds=1", "--set", "evaluate.every=1"]
    if "\n  seed: " in (ROOT / config).read_text(encoding="utf-8"):
        fast += ["--set", "grid.seed=[0]"]
    lines = [(verb, line) for line, verb, file in COMMAND.findall(TEXT) if file == config]
    assert lines[0][0] == "pack"
    for verb, line in lines:
        done = ppfl(*(str(ROOT / word) if word == config else word for word in shlex.split(line)), *fast)
        assert done.exit_code == 0, done.output
        assert verb != "pack" or "complete" in done.output
    assert Path(DRAWN[config]).read_bytes().startswith(b"\x89PNG")
