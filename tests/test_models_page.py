"""The page about models: its files and commands work, and its sizes are those of the models."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.grids import ppfl as command
from tests.networks.test_published_models import FEMNIST, LANDMARKS, WORDS, matched, sizes

TEXT = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- (executed|file: (\S+)) -->\n```\w+\n(.*?)```", re.DOTALL)


def test_files_and_commands_of_the_page_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(TEXT)
    assert len(blocks) == TEXT.count("```") / 2
    for _, file, content in blocks:
        if file:
            (tmp_path / file).write_text(content, encoding="utf-8")
            continue
        for line in content.splitlines():
            done = command(*shlex.split(line.removeprefix("$ ppfl ")))
            assert done.exit_code == 0, done.output
    assert (tmp_path / "own.h5").exists()


@pytest.mark.parametrize(
    ("name", "of", "settings", "globs"),
    [
        ("resnet18", FEMNIST, {}, ["layer3.*"]),
        ("transformer", WORDS, {}, ["*embedding*"]),
        ("transformer", WORDS, {}, ["decoder.*"]),
        ("transformer", WORDS, {}, ["layers.3.*"]),
        ("resnet18", LANDMARKS, {"stem": "7x7"}, ["*"]),
        ("lstm", ((80,), 90), {}, ["*"]),
    ],
    ids=str,
)
def test_sizes_of_the_page_are_those_of_the_models(
    name: str, of: tuple[tuple[int, ...], int], settings: dict[str, Any], globs: list[str]
) -> None:
    assert f"{matched(sizes(name, *of, globs, **settings), globs):,}" in TEXT


def test_what_is_shared_beside_adapters() -> None:
    found = sizes("resnet18", *FEMNIST, adapters=True)
    assert f"1,408,128 beside {sum(found.values()) - 1_408_128:,}" in TEXT
