"""`ppfl collect`: one file whose dimensions are what varies, and nothing in it that is silently not there."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ppfl.analysis.collect import collect
from ppfl.analysis.dimensions import encode, find_dimensions
from ppfl.analysis.factors import flatten
from ppfl.analysis.sources import open_source, results_at
from ppfl.config.grid import load_cells
from ppfl.core.errors import UserError
from ppfl.results import collection
from ppfl.results.layout import failed_path, running_path
from ppfl.results.reader import open_result
from ppfl.results.recorder import Recorder
from tests.conftest import MakeResult
from tests.grids import change, curve, fill, grid_file, in_all_states, opened, ppfl, same_bytes, settings_of

GRID = "{problem.zeta: [0, 10], algorithm.fine_tuner.steps: [1, 2], seed: [0, 1]}"
ROOT = Path(__file__).parent.parent


def test_a_selection_by_parameters_is_the_single_result_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = grid_file(tmp_path, "{problem.zeta: [0, 10], algorithm.fine_tuner.steps: [2, 1], seed: [0, 1]}")
    assert ppfl("pack", config, "--jobs", "2").exit_code == 0
    done = ppfl("collect", config, "--out", "grid.h5", "--clients")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "8 complete; zeta 2, steps 2, seed 2, round 5: grid.h5\n"
    dataset = opened(tmp_path / "grid.h5")
    assert dataset.zeta.attrs["path"] == "problem.zeta"
    assert dataset.steps.to_numpy().tolist() == [1, 2]
    for cell in load_cells(config).values():
        result = open_result(cell.config.default_out())
        steps = cell.varying["algorithm.fine_tuner.steps"]
        found = dataset.sel(zeta=cell.varying["problem.zeta"], steps=steps, seed=cell.varying["seed"])
        assert found.digest == cell.digest
        assert found.status == "complete"
        assert found.commit == result.provenance["commit"]
        for name, expected in result.rounds.data_vars.items():
            assert same_bytes(found[name], expected), name
        assert same_bytes(found.final_loss, result.summary.loss)
        assert found["round"].to_numpy().tolist() == [0, 10, 20, 30, 40]
    assert "client" in dataset.client_gradient_norm.dims
    assert ppfl("collect", config, "--out", "small.h5").exit_code == 0
    assert "client" not in opened(tmp_path / "small.h5").dims


def test_every_state_is_marked_and_nan_is_only_where_it_says_so(make_result: MakeResult, tmp_path: Path) -> None:
    config = grid_file(tmp_path, "{problem.zeta: [0, 1, 10], seed: [0, 1]}")
    in_all_states(make_result, config)
    done = ppfl("collect", config, "--results", tmp_path, "--out", tmp_path / "grid.h5")
    assert done.exit_code == 0, done.stderr
    assert "1 complete, 1 diverged, 2 failed, 1 missing, 1 running" in done.stdout
    assert "2 failed, 1 missing, 1 running of 6 runs" in done.stderr
    assert "ValueError: no" in done.stderr
    dataset = opened(tmp_path / "grid.h5")
    assert dataset.status.to_numpy().tolist() == [
        ["complete", "diverged"],
        ["running", "failed"],
        ["failed", "missing"],
    ]
    assert dataset.reason.sel(zeta=1, seed=1) == "ValueError: no"
    assert dataset.reason.sel(zeta=10, seed=0) == "signal 9, killed"
    assert dataset.num_rounds_recorded.to_numpy().tolist() == [[5, 3], [2, 3], [0, 0]]
    recorded = dataset.recorded.to_numpy()
    assert recorded.dtype == bool
    np.testing.assert_array_equal(recorded.sum(axis=-1), dataset.num_rounds_recorded)
    np.testing.assert_array_equal(np.isnan(dataset.uplink_bytes), ~recorded)
    assert np.isnan(dataset.operator_norm.sel(zeta=0, seed=1, round=20))
    assert dataset.operator_norm.sel(zeta=0, seed=1, round=10) == 1e6
    np.testing.assert_array_equal(
        np.isnan(dataset.final_test_accuracy).all(["stage", "statistic"]), ~dataset.scored.any("stage")
    )
    assert dataset.scored.any("stage").to_numpy().tolist() == [[True, True], [False, False], [False, False]]
    assert dataset.attrs["num_failed"] == 2
    assert "reason" in dataset.status.attrs["meaning"]


def test_an_attempt_that_began_after_a_failure_counts_as_running(make_result: MakeResult, tmp_path: Path) -> None:
    config = grid_file(tmp_path, "{seed: [0]}")
    (cell,) = load_cells(config).values()
    result = tmp_path / f"{cell.digest}.h5"
    failed_path(result).write_text('{"reason": "out of memory"}')
    assert open_source(config, tmp_path).outlines[0].status == "failed"
    running_path(result).write_text("{}")
    os.utime(failed_path(result), (1, 1))
    assert open_source(config, tmp_path).outlines[0].status == "running"


def test_other_rounds_become_a_union_that_says_who_has_which(make_result: MakeResult, tmp_path: Path) -> None:
    config = grid_file(tmp_path, "{problem.zeta: [0, 1]}")
    for every, cell in zip((10, 15), load_cells(config).values(), strict=True):
        make_result(cell.digest, settings_of(cell), curve(1.0, 3), every=every)
    collect(open_source(config, tmp_path), tmp_path / "grid.h5")
    dataset = opened(tmp_path / "grid.h5")
    assert dataset["round"].to_numpy().tolist() == [0, 10, 15, 20, 30]
    assert dataset.recorded.sel(zeta=1).to_numpy().tolist() == [True, False, True, False, True]
    one = dataset.sel(zeta=1)
    assert one.operator_norm[one.recorded].to_numpy().tolist() == curve(1.0, 3)["operator_norm"]


def test_a_variable_that_only_some_results_have_says_which(make_result: MakeResult, tmp_path: Path) -> None:
    config = grid_file(tmp_path, "{problem.zeta: [0, 1]}")
    cells = list(load_cells(config).values())
    make_result(cells[0].digest, settings_of(cells[0]), curve(1.0) | {"virtual_seconds": [1.0] * 5})
    make_result(cells[1].digest, settings_of(cells[1]), curve(2.0))
    collect(open_source(config, tmp_path), tmp_path / "grid.h5")
    dataset = opened(tmp_path / "grid.h5")
    assert dataset.has_virtual_seconds.to_numpy().tolist() == [True, False]
    assert "has_operator_norm" not in dataset
    again = open_source(tmp_path / "grid.h5").outlines
    assert ["virtual_seconds" in run.series for run in again] == [True, False]


def test_whole_numbers_stay_whole_and_have_a_fill_value_where_they_are_not(tmp_path: Path) -> None:
    for number, length in enumerate((3, 2)):
        recorder = Recorder(
            tmp_path / f"{number}.h5",
            {"digest": str(number), "name": "a", "config": f"seed: {number}", "results_version": 1},
            {},
        )
        for position in range(length):
            recorder.append(position, {"count": np.int64(2**60 + position)})
        recorder.write()
    collect(results_at([tmp_path / "0.h5"]), tmp_path / "one.h5")
    assert opened(tmp_path / "one.h5")["count"].to_numpy().tolist() == [2**60, 2**60 + 1, 2**60 + 2]
    collect(results_at([tmp_path / "0.h5", tmp_path / "1.h5"]), tmp_path / "two.h5")
    counts = opened(tmp_path / "two.h5")["count"]
    assert np.isnan(counts.sel(seed=1, round=2))
    assert counts.encoding["_FillValue"] == np.iinfo(np.int64).min


def dimensions(configs: list[dict[str, Any]], *, is_whole: bool = True) -> dict[str, list[Any]]:
    found = find_dimensions([flatten(config) for config in configs], frozenset({"loss"}), is_whole=is_whole)
    return {c.name: encode(c.values).array.tolist() for dimension in found for c in dimension.coordinates}


def test_names_are_as_short_as_is_unique() -> None:
    configs = [
        {"a": {"lr": lr, "loss": lr}, "b": {"lr": other}, "loss": other, "zeta": z}
        for lr in (1, 2)
        for other in (3, 4)
        for z in (5, 6)
    ]
    assert dimensions(configs) == {
        "a_lr": [1, 2],
        "a_loss": [1, 2],
        "b_lr": [3, 4],
        "loss_setting": [3, 4],
        "zeta": [5, 6],
    }


@pytest.mark.parametrize(
    ("values", "expected", "holds"),
    [
        ([3, 1, 2], [1, 2, 3], "number"),
        ([0.5, 2.0], [0.5, 2.0], "number"),
        (["b", "a"], ["b", "a"], "text"),
        ([True, False], [1, 0], "bool"),
        (["theory", 0.5, None], ["theory", "0.5", "null"], "mixed"),
        ([1, 1.0, "all"], ["1", "1.0", "all"], "mixed"),
        ([1, 1.0], ["1", "1.0"], "mixed"),
        ([1, 0.5], ["0.5", "1"], "mixed"),
        (["1e3", None], ['"1e3"', "null"], "mixed"),
        ([True, 1], ["true", "1"], "mixed"),
        (["1", 1], ['"1"', "1"], "mixed"),
        ([["head.*"], []], ['["head.*"]', "[]"], "mixed"),
    ],
)  # fmt: skip
def test_values_of_all_kinds_are_coordinates(values: list[Any], expected: list[Any], holds: str) -> None:
    assert dimensions([{"key": value} for value in values]) == {"key": expected}
    assert encode(values).holds == holds


def test_truth_values_and_null_come_back_from_the_file(make_result: MakeResult, tmp_path: Path) -> None:
    paths = []
    for number, (flag, extra) in enumerate([(False, None), (True, None), (False, 3), (True, 3)]):
        settings = {"name": "a", "problem": {"flag": flag, "extra": extra}}
        paths.append(make_result(f"{number}", settings, curve(number + 1.0)))
    collect(results_at(paths), tmp_path / "grid.h5")
    dataset = opened(tmp_path / "grid.h5")
    assert dataset.flag.dtype == bool
    assert dataset.sel(flag=True, extra="3").operator_norm[0] == 4
    again = open_source(tmp_path / "grid.h5")
    assert {(run["problem.flag"], run["problem.extra"]) for run in again.settings} == {
        (False, None), (True, None), (False, 3), (True, 3),
    }  # fmt: skip
    # as a configuration reads it: 3e0 is a number
    assert len(again.where(["extra=3e0"]).settings) == 2


def test_cases_are_a_dimension_beside_what_every_case_comes_with() -> None:
    cases = [("ffgg", {"steps": 1}), ("ffgg", {"steps": 5}), ("fedper", {"local": 3})]
    configs = [{"algorithm": {"name": name, **rest}, "seed": seed} for name, rest in cases for seed in (0, 1)]
    assert dimensions(configs) == {
        "case": ["name=ffgg, steps=1", "name=ffgg, steps=5", "name=fedper"],
        "name": ["ffgg", "ffgg", "fedper"],
        "steps": ["1", "5", "null"],
        "local": ["null", "null", "3"],
        "seed": [0, 1],
    }


def test_cases_that_form_a_product_are_one_and_what_varies_together_is_one_dimension() -> None:
    assert dimensions([{"a": a, "b": b} for a in (1, 2) for b in (3, 4)]) == {"a": [1, 2], "b": [3, 4]}
    (together,) = find_dimensions([{"rounds": 100, "lr": 0.2}, {"rounds": 200, "lr": 0.1}], frozenset(), is_whole=True)
    assert (together.name, together.size, [c.name for c in together.coordinates]) == ("rounds", 2, ["rounds", "lr"])


def test_holes_in_a_folder_are_missing_runs_but_a_plan_has_none() -> None:
    product_with_hole = [{"a": a, "b": b} for a in (1, 2) for b in (3, 4, 5)][:-1]
    assert list(dimensions(product_with_hole, is_whole=False)) == ["a", "b"]
    assert list(dimensions(product_with_hole, is_whole=True)) == ["case", "a", "b"]


def test_a_folder_without_one_result_has_it_missing(make_result: MakeResult, tmp_path: Path) -> None:
    fill(make_result, grid_file(tmp_path, GRID), skip=(5,))
    done = ppfl("collect", tmp_path, "--out", tmp_path / "out" / "grid.h5")
    assert done.exit_code == 0, done.stderr
    dataset = opened(tmp_path / "out" / "grid.h5")
    missing = dataset.status.where(dataset.status == "missing", drop=True)
    assert {name: missing[name].item() for name in ("zeta", "steps", "seed")} == {"zeta": 10, "steps": 1, "seed": 1}
    assert Counter(dataset.status.to_numpy().ravel().tolist()) == {"complete": 7, "missing": 1}


def test_a_grid_without_any_result_is_all_missing(tmp_path: Path) -> None:
    done = ppfl("collect", grid_file(tmp_path, GRID), "--results", tmp_path, "--out", tmp_path / "grid.h5")
    assert done.exit_code == 0, done.stderr
    assert "has none of the results" in done.stderr
    dataset = opened(tmp_path / "grid.h5")
    assert (dataset.status == "missing").all()
    assert dataset.status.dims == ("zeta", "steps", "seed")
    assert open_source(tmp_path / "grid.h5").statuses == {"missing": 8}


def test_a_file_without_grid_has_no_dimensions_but_its_own(make_result: MakeResult, tmp_path: Path) -> None:
    path = make_result("00", {"name": "one"}, curve(1.0))
    collect(results_at([path]), tmp_path / "grid.h5")
    dataset = opened(tmp_path / "grid.h5")
    assert dataset.operator_norm.dims == ("round",)
    assert dataset.status == "complete"


def test_several_experiments_and_equal_runs_in_a_folder_are_refused(make_result: MakeResult, tmp_path: Path) -> None:
    first = make_result("00", {"name": "one"}, curve(1.0))
    make_result("01", {"name": "two"}, curve(1.0))
    with pytest.raises(UserError, match="several experiments: one, two"):
        open_source(tmp_path)
    change(tmp_path / "01.h5", name="one", results_version=2)
    with pytest.raises(UserError, match="same configuration"):
        collect(open_source(tmp_path), tmp_path / "grid.h5")
    change(tmp_path / "01.h5", digest="00")
    with pytest.raises(UserError, match=r"00\.h5, 01\.h5 hold the same run"):
        open_source(tmp_path)
    first.unlink()
    assert not list(tmp_path.glob(".*"))


def test_results_of_other_programs_are_told(make_result: MakeResult, tmp_path: Path) -> None:
    cells = fill(make_result, grid_file(tmp_path, "{seed: [0, 1]}"))
    change(tmp_path / f"{cells[1].digest}.h5", commit="ffffffffffff", results_version=2)
    done = ppfl("collect", tmp_path, "--out", tmp_path / "grid.h5")
    assert "different commit: 0123456789ab, ffffffffffff" in done.stderr
    assert "different results_version, do not compare: 1, 2" in done.stderr
    dataset = opened(tmp_path / "grid.h5")
    assert dataset.commit.to_numpy().tolist() == ["0123456789ab", "ffffffffffff"]
    assert dataset.results_version.to_numpy().tolist() == [1, 2]
    assert "different commit" in ppfl("table", tmp_path / "grid.h5").stderr


def test_files_moved_aside_foreign_files_and_collections_are_no_runs(make_result: MakeResult, tmp_path: Path) -> None:
    cells = fill(make_result, grid_file(tmp_path, "{seed: [0, 1]}"))
    old = tmp_path / f"{cells[0].digest}.h5"
    (tmp_path / f"{cells[0].digest}.incomplete-1.h5").write_bytes(old.read_bytes())
    (tmp_path / "notes.h5").write_text("no HDF5")
    collect(open_source(tmp_path), tmp_path / "grid.h5")
    source = open_source(tmp_path)
    assert len(source.digests) == 2
    assert source.warnings() == ["left out, no results: notes.h5"]


def test_only_a_collection_is_overwritten(make_result: MakeResult, tmp_path: Path) -> None:
    (cell, _) = fill(make_result, grid_file(tmp_path, "{seed: [0, 1]}"))
    result, foreign = tmp_path / f"{cell.digest}.h5", tmp_path / "notes.txt"
    foreign.write_text("precious")
    for out in (result, foreign):
        before = out.read_bytes()
        done = ppfl("collect", tmp_path, "--out", out)
        assert (done.exit_code, out.read_bytes()) == (2, before)
        assert "choose another name" in done.stderr
    for _ in range(2):
        assert ppfl("collect", tmp_path, "--out", tmp_path / "grid.h5").exit_code == 0
    assert ppfl("collect", tmp_path, "--out", tmp_path / "notes.txt" / "grid.h5").exit_code == 2
    assert not list(tmp_path.glob(".*"))


def test_a_collection_that_fails_half_way_leaves_the_old_one(
    make_result: MakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(make_result, grid_file(tmp_path, "{seed: [0, 1]}"))
    out = tmp_path / "grid.h5"
    collect(open_source(tmp_path), out)
    before = out.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(collection.CollectionWriter, "write_block", full)
    with pytest.raises(UserError, match="No space left"):
        collect(open_source(tmp_path), out)
    assert out.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_one_result_is_open_at_a_time_and_blocks_are_small(
    make_result: MakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(make_result, grid_file(tmp_path, GRID))
    monkeypatch.setattr(collection, "_MAX_BLOCK_CELLS", 3)
    sizes, opens = [], []
    write = collection.CollectionWriter.write_block
    source = open_source(tmp_path)

    def watched_read(*arguments: Any) -> Any:
        opens.append(h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE))
        return source.read(*arguments)

    def watched_write(writer: collection.CollectionWriter, name: str, place: Any, values: Any) -> None:
        sizes.append(len(values))
        write(writer, name, place, values)

    monkeypatch.setattr(collection.CollectionWriter, "write_block", watched_write)

    collect(dataclasses.replace(source, read=watched_read), tmp_path / "grid.h5")
    assert len(opens) == 8
    assert set(opens) == {1}  # the file being written, and no result beside the one to be read
    assert max(sizes) <= 3


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (2, 3, 4), (5, 1, 2)])
@pytest.mark.parametrize("most", [1, 2, 5, 100])
def test_blocks_cover_every_cell_once(shape: tuple[int, ...], most: int) -> None:
    counts = np.zeros(shape)
    for place in collection._blocks(shape, most):
        counts[place] += 1
        assert counts[place].size <= most
    assert (counts == 1).all()


def test_no_reading_command_loads_torch(make_result: MakeResult, tmp_path: Path) -> None:
    config = grid_file(tmp_path, "{seed: [0, 1]}")
    fill(make_result, config)
    script = (
        "import sys; from ppfl.cli import main\n"
        f"for command in (['collect', '--out', 'g.h5'], ['table'], ['plot', '--out', 'g.png']):\n"
        f"    source = [{str(config)!r}, '--results', {str(tmp_path)!r}]\n"
        "    main([command[0], *source, *command[1:]], standalone_mode=False)\n"
        "print('torch._C' in sys.modules, 'mpi4py.MPI' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False False"
