"""The page about public data sets: its commands work, say what it says, and its table is that of the catalogue."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import yaml

from ppfl.catalogue import fetch as fetching
from ppfl.catalogue import index, resuming
from ppfl.catalogue.counted import shown
from ppfl.catalogue.entry import DataSet
from tests.catalogue.archives import tar
from tests.catalogue.server import Site, served
from tests.grids import ppfl

TEXT = (Path(__file__).parent.parent / "docs" / "datasets.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- (executed|file: (\S+)) -->\n```\w+\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
PLACE = "https://storage.googleapis.com/tff-datasets-public"
INSTALLING = 1
"""Blocks that are not executed."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Stand for the web: one archive of the published shape, and nothing else that could be reached."""
    monkeypatch.setattr(resuming, "_WAIT_SECONDS", 0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    find = index.find
    with served({"shakespeare.tar.bz2": plays(tmp_path)}) as found:

        def here(name: str) -> DataSet:
            data_set = find(name)
            there = found.address if name == "shakespeare" else "http://127.0.0.1:9"
            downloads = (
                # as what is published of it, the hash is of another archive
                replace(
                    one, address=one.address.replace(PLACE, there), hashed=one.hashed if there[-2:] == ":9" else None
                )
                for one in data_set.downloads
            )
            return replace(data_set, downloads=tuple(downloads))

        monkeypatch.setattr(fetching, "find", here)
        monkeypatch.setattr(index, "find", here)
        yield found


def plays(folder: Path) -> bytes:
    """Return an archive with as many clients and samples as the published one."""
    members = {}
    for part, size in (("train", 16_068), ("test", 2_356)):
        path = folder / f"{part}.h5"
        with h5py.File(path, "w") as file:
            for client in range(715):
                texts = ["to be, or not"] * (size // 715 + (client < size % 715))
                file.create_dataset(f"examples/A_PLAY_{client}/snippets", data=texts, dtype=h5py.string_dtype())
        members[f"shakespeare_{part}.h5"] = path.read_bytes()
    return tar(members)


def test_commands_of_the_page_say_what_it_says(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(TEXT)
    assert len(blocks) + INSTALLING == TEXT.count("```") / 2
    for _, file, content in blocks:
        if file:
            (tmp_path / file).write_text(content, encoding="utf-8")
            continue
        for command, told in COMMAND.findall(content):
            code, output = run(command, monkeypatch)
            for address in (site.address, "http://127.0.0.1:9"):
                output = output.replace(address, PLACE)
            wanted = ".*".join(map(re.escape, told.split("…")))
            assert re.fullmatch(wanted, output, re.DOTALL), f"{command}:\n{output}"
            assert code == (2 if "error: " in told else 1 if "deviation" in told else 0), output


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    first, *rest = shlex.split(command)
    if first == "export":
        monkeypatch.setenv(*rest[0].split("=", 1))
        return 0, ""
    if first == "cd":
        shell = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        return shell.returncode, shell.stdout
    if first != "ppfl":  # a variable for this command alone
        with monkeypatch.context() as alone:
            alone.setenv(*first.split("=", 1))
            done = ppfl(*rest[1:])
        return done.exit_code, done.stdout  # a run tells on standard error how far it is
    done = ppfl(*rest)
    return done.exit_code, done.output


@pytest.mark.parametrize("name", ["femnist", "gldv2", "stackoverflow"])
def test_pages_of_published_configurations_say_how_their_files_come(name: str) -> None:
    folder = Path(__file__).parent.parent / "configs" / name
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert f"$ ppfl data fetch {name} --folder data\n" in text
    assert f"$ export PPFL_DATA=data/{name}\n" in text
    dataset = yaml.safe_load((folder / "pretrain.yaml").read_text(encoding="utf-8"))["problem"]["dataset"]
    read = {value for value in dataset.values() if isinstance(value, str) and "." in value}
    assert read
    assert read <= {file.name for file in index.find(name).published}


def test_the_table_is_that_of_the_catalogue() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", TEXT, re.MULTILINE))
    assert [*sorted(rows)] == index.names()
    for name, row in rows.items():
        data_set = index.find(name)
        for file in data_set.published:
            # of several files alike the first
            if not file.is_made and not re.search(r"idx[13]-ubyte|data_batch|\.csv$", file.name):
                assert f"`{file.name}`" in row
            for fact in ("clients", "samples", "classes"):
                if fact in file.facts:
                    assert re.search(rf"(?<![\d,]){shown(file.facts[fact])}(?!,?\d)", row), f"{name}: {fact}"
    for name in index.names():
        for rule in index.find(name).rules:
            assert f"{rule.num_clients:,}" in TEXT
