"""Plug-ins of installed packages, which an entry point names."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import ppfl
from ppfl.config.run import load
from ppfl.core.errors import UserError
from ppfl.outside import installed
from tests.outside.sources import CHOICE, NUMBERS, SMALLEST, project, rule_called, write

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Return a function that installs a package with plug-ins for this test, as pip would."""
    site = tmp_path / "site"
    names: set[str] = set()

    def forget() -> None:
        importlib.invalidate_caches()
        installed.installed.cache_clear()
        installed.load_installed.cache_clear()
        for name in [name for name in sys.modules if name.partition(".")[0] in names]:
            del sys.modules[name]

    def install(name: str, files: dict[str, str | bytes], version: str = "1.0", module: str = "") -> None:
        names.add(name)
        info = f"{name}-{version}.dist-info"
        for old in site.glob(f"{name}-*.dist-info"):
            shutil.rmtree(old)
        write(site, {f"{name}/{path}": text for path, text in files.items()})
        write(site, {
            f"{name}/__init__.py": "", f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/entry_points.txt": f"[ppfl.plugins]\n{name} = {module or name}\n",
        })  # fmt: skip
        forget()

    sys.path.insert(0, str(site))
    yield install
    sys.path.remove(str(site))
    forget()


RULE: dict[str, str | bytes] = {
    "aggregators/smallest.py": SMALLEST,
    "aggregators/_choice.py": CHOICE,
    "numbers.py": NUMBERS,
}


def test_a_package_offers_what_a_folder_does(tmp_path: Path, install: Install) -> None:
    install("fedthings", {**RULE, "aggregators/never.py": "raise SystemExit", "other/x.py": "("})
    config = project(tmp_path, plugins=[])
    first = load(config)
    assert type(first.aggregator).__module__ == "fedthings.aggregators.smallest"
    assert first.scientific()["plugins"] == {"aggregators/smallest": {"package": "fedthings", "version": "1.0"}}
    install("fedthings", RULE, "1.1")
    second = load(config)
    assert second.digest != first.digest
    install("fedthings", RULE, "1.0")
    assert load(config).digest == first.digest
    assert load(config, ["aggregator={name: mean}"]).scientific().keys() == load(config).scientific().keys() - {
        "plugins"
    }


def test_its_rules_are_there_for_aggregate(install: Install) -> None:
    install("fedthings", RULE)
    x = np.array([[1.0, 2.0], [3.0, 4.0], [50.0, 60.0]])
    assert (ppfl.aggregate("smallest", x, f=1) == [2.0, 3.0]).all()
    with pytest.raises(ValueError, match=r"no aggregator is called 'smalest'; there are .*krum.*smallest"):
        ppfl.aggregate("smalest", x)


CANNOT = "package fedthings 1.0: its plug-ins{} cannot be used: "
OF_SMALLEST = CANNOT.format(" aggregators/smallest")


@pytest.mark.parametrize(
    ("files", "module", "expected"),
    [
        (RULE, "fedthings.no", CANNOT.format("") + "No module named 'fedthings.no'; mend it or uninstall it"),
        ({"aggregators/smallest.py": "import no_such_thing"}, "", OF_SMALLEST + "No module named 'no_such_thing'"),
        ({"aggregators/smallest.py": "1 / 0"}, "", OF_SMALLEST + "ZeroDivisionError: division by zero"),
        ({"aggregators/smallest.py": "x = 1"}, "", OF_SMALLEST + "a plug-in file defines exactly one class with "),
        (
            {"aggregators/krum.py": rule_called("krum")}, "",
            "package fedthings 1.0: aggregators has one called 'krum', which comes with ppfl",
        ),
    ],
)  # fmt: skip
def test_a_broken_package_is_named(
    tmp_path: Path, install: Install, files: dict[str, str | bytes], module: str, expected: str
) -> None:
    install("fedthings", files, module=module)
    config = project(tmp_path, plugins=[])
    with pytest.raises(UserError) as refused:
        load(config)
    assert expected in str(refused.value)
    assert load(config, ["aggregator={name: krum, f: 0}"])  # who does not need it is not troubled


def test_two_of_one_name_are_refused(tmp_path: Path, install: Install) -> None:
    install("fedthings", RULE)
    with pytest.raises(UserError, match=r"aggregators has one called 'smallest', which is package fedthings 1.0"):
        load(project(tmp_path))
    install("another", RULE)
    with pytest.raises(UserError, match=r"package fedthings 1.0: .* 'smallest', which comes with package another 1.0"):
        load(project(tmp_path, plugins=[]))
