"""The catalogue: every fact has its source, and every data set a tiny one of the same schema that its reader takes."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from ppfl.catalogue.count_files import images_of_users
from ppfl.catalogue.count_hdf5 import samples
from ppfl.catalogue.entry import DataSet
from ppfl.catalogue.index import default_folder, find, names
from ppfl.catalogue.tiny import make_tiny
from ppfl.core.errors import UserError
from tests.grids import ppfl

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(params=names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_there_are_those_that_the_issue_asks_for() -> None:
    federated = {"femnist", "fed_cifar100", "shakespeare", "stackoverflow", "gldv2"}
    assert federated | {"mnist", "fashion_mnist", "emnist", "cifar10", "cifar100", "a9a"} <= {*names()}


def test_facts_have_sources(name: str) -> None:
    data_set = find(name)
    for one in (*data_set.downloads, *data_set.published, *data_set.rules):
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", one.source.repository)
        assert re.fullmatch(r"[0-9a-f]{40}", one.source.commit)
        assert one.source.path
    for download in data_set.downloads:
        assert urlsplit(download.address).scheme in ("http", "https")
        lengths = {"sha256": 64, "md5": 32}
        assert download.hashed is not None or not download.members  # `unpack` relies on it
        if download.hashed is not None:
            algorithm, _, digits = download.hashed.partition(":")
            assert re.fullmatch(f"[0-9a-f]{{{lengths[algorithm]}}}", digits)
    fetched = {file for download in data_set.downloads for file in download.files}
    assert {file.name for file in data_set.published if not file.is_made} == fetched


def test_tiny_ones_have_the_files_and_fields_of_the_published(name: str, tmp_path: Path) -> None:
    make_tiny(name, tmp_path)
    data_set = find(name)
    for file in data_set.published:
        found = file.count(tmp_path / name / file.name)
        assert {*file.facts} <= {*found.facts}
        looks = {fact: value for fact, value in file.facts.items() if isinstance(value, str)}
        assert looks.items() <= found.facts.items()
        for fact in ("features", "classes"):
            # those of federated sets have a few classes, and the last one
            if fact in file.facts and file.count not in (samples, images_of_users):
                assert found.facts[fact] == file.facts[fact]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 5_000_000


def test_tiny_ones_are_the_same_every_time(name: str, tmp_path: Path) -> None:
    contents = []
    for folder in (tmp_path / "one", tmp_path / "other"):
        make_tiny(name, folder)
        contents.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert contents[0] == contents[1]


def test_sections_that_fetch_tells_can_be_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny(name, tmp_path)
    monkeypatch.setenv("PPFL_DATA", str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(configuration(find(name)), encoding="utf-8")
    done = ppfl("run", "run.yaml", "--out", "result.h5")
    assert done.exit_code == 0, done.stderr


TOKENS = {"name": "transformer", "width": 8, "heads": 2, "feed_forward": 8, "layers": 1, "positions": 80}


def configuration(data_set: DataSet) -> str:
    problem = {"name": "supervised", "dataset": yaml.safe_load(data_set.section), "split": {"local": []}}
    if problem["dataset"]["name"] == "text_hdf5":
        problem |= {"model": TOKENS, "task": {"name": "next_token"}}
    else:
        problem |= {"model": {"name": "mlp", "hidden": [4]}}
    method = {"name": "fedavg", "lr": 0.1, "local_steps": 1}
    return yaml.safe_dump(
        {
            "name": "tiny",
            "rounds": 2,
            "precision": "float32",
            "problem": problem | {"batch_size": "all"},
            "algorithm": method,
        }
    )


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a9a").mkdir()
    with pytest.raises(UserError, match=r"a9a: exists; choose another folder, or remove it"):
        make_tiny("a9a", tmp_path)
    assert not list((tmp_path / "a9a").iterdir())


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    from ppfl.catalogue import tiny

    monkeypatch.setattr(tiny, "find", lambda name: DataSet("", (), (), "", full))
    with pytest.raises(UserError, match=r"a9a: cannot write it: No space left on device"):
        make_tiny("a9a", tmp_path)
    assert not list(tmp_path.iterdir())


def test_data_sets_are_in_the_folder_of_the_environment_or_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PPFL_DATA", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("PPFL_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_folder() == tmp_path / "cache" / "ppfl"


def test_the_list_says_what_is_there(tmp_path: Path) -> None:
    make_tiny("a9a", tmp_path)
    make_tiny("femnist", tmp_path)
    (tmp_path / "femnist" / "femnist_test.h5").unlink()
    done = ppfl("data", "list", "--folder", tmp_path)
    assert done.exit_code == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert list(lines) == names()
    assert lines["a9a"].endswith("2 classes (there)")
    assert lines["femnist"].endswith("(1 of 2 files there)")
    assert not lines["mnist"].endswith(")")
