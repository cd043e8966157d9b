"""The table of splits is made from results and diagnoses of any runs with such splits."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.splits import main
from ppfl.results.reader import open_result
from tests.grids import ppfl
from tests.workflow.test_readme import ROOT


def test_the_table_of_splits_has_each_run_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The grid of configs/networks/mnist20.yaml on other data, few rounds, and FFGG and local_only alone."""
    document = yaml.safe_load((ROOT / "configs" / "networks" / "mnist20.yaml").read_text(encoding="utf-8"))
    partition = {"name": "dirichlet", "clients": 4, "alpha": 0.5}
    document["problem"]["dataset"] = {"name": "digits", "partition": partition, "test": 0.8}
    document["problem"]["model"] |= {"from": str(ROOT / "configs" / "networks" / "small_cnn.py") + ":build"}
    document["grid"]["algorithm"] = [document["grid"]["algorithm"][0], document["grid"]["algorithm"][-1]]
    document |= {"rounds": 1, "cohort": "all"}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    packed = ppfl("pack", tmp_path / "grid.yaml", "--out", tmp_path / "results", "--jobs", "1")
    assert packed.exit_code == 0, packed.stderr
    found = {}
    for path in sorted((tmp_path / "results").glob("*.h5")):
        result = open_result(path)
        if result.config["algorithm"]["name"] == "ffgg":
            ppfl("diagnose", path, "--json", path.with_suffix(".json"))
            found[result.attrs["digest"]] = result
    main(tmp_path / "results", sorted((tmp_path / "results").glob("*.json")))
    told = capsys.readouterr().out
    rows = [line.split(" | ") for line in told.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:5]] == ["| output", "| adapters", "| LoRA", "| input"]
    for row in rows[1:5]:
        assert [cell.count("→") for cell in row[2:]] == [1, 0, 0, 1], "tuned, once more than personal"
    assert [row[1] for row in rows[6:10]] == ["output", "adapters", "LoRA", "input"]
    assert sorted(row[7] for row in rows[6:10]) == sorted(
        f"{100 * float(one.summary.test_accuracy.sel(stage='personal', statistic='mean')):.1f}"
        for one in found.values()
    )
    assert "Rank correlation of ρ with accuracy, ffgg, 4 splits: personal " in told
