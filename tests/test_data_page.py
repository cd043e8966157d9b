"""The page about data: its files and commands work, and what it says of their results is true."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest

from ppfl.config.grid import planned
from ppfl.results.reader import open_result
from tests.grids import ppfl

TEXT = (Path(__file__).parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- (executed|file: (\S+)) -->\n```\w+\n(.*?)```", re.DOTALL)
TIMES = ["seconds", "communication_seconds"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which all of the page was done."""
    path = tmp_path_factory.mktemp("page")
    blocks = BLOCK.findall(TEXT)
    assert len(blocks) == TEXT.count("```") / 2
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for _, file, content in blocks:
            if file:
                Path(file).write_text(content, encoding="utf-8")
                continue
            for line in content.splitlines():
                program, *arguments = shlex.split(line.removeprefix("$ "))
                if program == "python":
                    runpy.run_path(arguments[0])
                else:
                    assert program == "ppfl"
                    done = ppfl(*arguments)
                    assert done.exit_code == 0, done.output
    return path


def accuracy(folder: Path, name: str) -> dict[tuple[str, ...], float]:
    """Return the mean test accuracy of the clients' own models, by what the grid varies."""
    found = {}
    for path, cell in planned(folder / f"{name}.yaml", results=Path(name)).items():
        scores = open_result(folder / path).summary.test_accuracy
        varied = tuple(str(value.get("name") if isinstance(value, dict) else value) for value in cell.varying.values())
        found[varied] = float(scores.sel(stage="personal", statistic="mean"))
    return found


def test_both_layouts_are_the_same_data(folder: Path) -> None:
    groups, flat = (open_result(folder / f"{name}.h5") for name in ("groups", "flat"))
    assert groups.clients.equals(flat.clients)
    assert groups.rounds.drop_vars(TIMES).equals(flat.rounds.drop_vars(TIMES))
    assert groups.attrs["digest"] != flat.attrs["digest"]


def test_a_column_names_the_clients(folder: Path) -> None:
    clients = open_result(folder / "patients.h5").clients
    assert [str(name) for name in clients.client.values] == ["east", "north", "south"]


def test_partitions_and_shifts_of_arrays(folder: Path) -> None:
    sizes = []
    for path in planned(folder / "bars.yaml", results=Path("bars")):
        clients = open_result(folder / path).clients
        assert sorted(clients.cluster.values) == [0, 0, 0, 1, 1, 1]
        sizes.append(sorted(clients.num_train_samples.values))
    assert sizes[0][-1] > 4 * sizes[0][0]


def test_what_is_best_depends_on_who_asks(folder: Path) -> None:
    found, own = {}, {}
    for name in ("personal", "alone", "everybody"):
        result = open_result(folder / f"{name}.h5")
        scores = result.summary.test_accuracy.sel(statistic="mean")
        found[name] = {str(stage): float(scores.sel(stage=stage)) for stage in scores.stage.values}
        own[name] = result.clients.best_personal_test_accuracy.values
        assert result.rounds.client_test_accuracy.sizes["client"] == 16
    assert found["alone"]["best_personal"] > found["personal"]["best_personal"] > found["everybody"]["best_personal"]
    for stage in ("newcomers_0", "newcomers_5"):
        assert found["everybody"][stage] > found["personal"][stage] > found["alone"][stage]
    assert 0 < (own["personal"] < own["alone"]).sum() < 8


def test_noise_costs_accuracy(folder: Path) -> None:
    without, with_noise = accuracy(folder, "rings").values()
    assert without > with_noise


def test_what_labels_decide(folder: Path) -> None:
    found = accuracy(folder, "skew")
    assert len(found) == 9
    everything, nothing = (
        {partition: found[partition, local, method] for partition in ("iid", "dirichlet", "shards")}
        for local, method in (("[]", "fedavg"), ("['*']", "local_only"))
    )
    assert everything["iid"] > nothing["iid"]
    assert everything["shards"] < nothing["shards"]
    assert nothing["iid"] < nothing["dirichlet"] < nothing["shards"]
