"""Grids: which runs a file describes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppfl.config.errors import ConfigError
from ppfl.config.grid import Cell, choose_cell, load_cells
from ppfl.config.run import load

BASE = """
name: g
rounds: 10
problem: {name: quadratic, generator: comparison, zeta: 1}
algorithm: {name: ffgg, lr: theory, fine_tuner: {name: conjugate_gradient, steps: 5}}
"""


def write(tmp_path: Path, grid: str) -> Path:
    path = tmp_path / "grid.yaml"
    path.write_text(BASE + grid)
    return path


def varying(cells: dict[str, Cell]) -> list[dict[str, object]]:
    return [cell.varying for cell in cells.values()]


def test_lists_make_a_product_in_the_order_of_the_file(tmp_path: Path) -> None:
    cells = load_cells(write(tmp_path, "grid: {problem.zeta: [0, 10], seed: [0, 1]}"))
    assert varying(cells) == [{"problem.zeta": zeta, "seed": seed} for zeta in (0, 10) for seed in (0, 1)]
    assert all(digest == cell.digest == cell.config.digest for digest, cell in cells.items())
    assert [cell.config.seed for cell in cells.values()] == [0, 1, 0, 1]


def test_zipped_lists_go_together(tmp_path: Path) -> None:
    cells = load_cells(write(tmp_path, "grid: {zip: [{rounds: [1, 2], algorithm.lr: [0.2, 0.1]}], seed: [0, 1]}"))
    assert [(cell.config.rounds, cell.varying["algorithm.lr"], cell.config.seed) for cell in cells.values()] == [
        (1, 0.2, 0), (1, 0.2, 1), (2, 0.1, 0), (2, 0.1, 1),
    ]  # fmt: skip


def test_two_zips_multiply(tmp_path: Path) -> None:
    grid = "grid: {zip: [{rounds: [1, 2], seed: [1, 2]}, {problem.zeta: [3, 4], precision: [float32, float64]}]}"
    cells = load_cells(write(tmp_path, grid))
    assert [(cell.config.rounds, cell.config.precision) for cell in cells.values()] == [
        (1, "float32"), (1, "float64"), (2, "float32"), (2, "float64"),
    ]  # fmt: skip


def test_cases_may_set_different_things(tmp_path: Path) -> None:
    grid = """
grid:
  cases:
    - {algorithm.fine_tuner: {name: exact}}
    - {algorithm.fine_tuner: {name: adam, lr: 0.01, batch_size: all}, precision: float64}
    - {algorithm.fine_tuner.steps: 2}
  seed: [0, 1]
"""
    cells = list(load_cells(write(tmp_path, grid)).values())
    names = [cell.config.algorithm.model_dump()["fine_tuner"]["name"] for cell in cells]
    assert names == ["exact", "exact", "adam", "adam", "conjugate_gradient", "conjugate_gradient"]
    assert [cell.config.precision for cell in cells] == ["float32"] * 2 + ["float64"] * 2 + ["float32"] * 2


def test_a_section_is_set_before_keys_inside_it(tmp_path: Path) -> None:
    grid = "grid: {algorithm.fine_tuner.steps: [2, 3], algorithm.fine_tuner: [{name: conjugate_gradient, steps: 9}]}"
    cells = load_cells(write(tmp_path, grid))
    assert [cell.config.algorithm.model_dump()["fine_tuner"]["steps"] for cell in cells.values()] == [2, 3]


def test_a_cell_is_the_run_that_a_file_of_its_own_describes(tmp_path: Path) -> None:
    cells = load_cells(write(tmp_path, "grid: {problem.zeta: [0, 10], seed: [0, 1]}"))
    alone = tmp_path / "alone.yaml"
    alone.write_text(BASE)
    assert load(alone, ["problem.zeta=10", "seed=1"]).digest == list(cells)[3]


def test_a_file_without_grid_is_one_run(tmp_path: Path) -> None:
    (cell,) = load_cells(write(tmp_path, "")).values()
    assert cell.varying == {}
    assert cell.digest == load(tmp_path / "grid.yaml").digest


def test_overrides_apply_to_every_cell_and_to_the_grid_itself(tmp_path: Path) -> None:
    path = write(tmp_path, "grid: {seed: [0, 1]}")
    assert {cell.config.rounds for cell in load_cells(path, ["rounds=3"]).values()} == {3}
    assert varying(load_cells(path, ["grid.seed=[5]", "grid.problem.zeta=[0]"])) == [{"seed": 5, "problem.zeta": 0}]


def test_a_file_with_grid_is_not_one_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="grid"):
        load(write(tmp_path, "grid: {seed: [0, 1]}"))


def test_a_cell_is_chosen_by_a_unique_beginning(tmp_path: Path) -> None:
    path = write(tmp_path, "grid: {seed: [0, 1, 2]}")
    digests = list(load_cells(path))
    for digest in digests:
        assert choose_cell(path, (), digest).digest == digest
        assert choose_cell(path, (), digest[:10].upper()).digest == digest


def test_an_ambiguous_beginning_lists_what_it_matches(tmp_path: Path) -> None:
    path = write(tmp_path, f"grid: {{seed: {list(range(17))}}}")  # 17 digests: two begin alike
    digests = list(load_cells(path))
    first = next(digest[0] for digest in digests if sum(other[0] == digest[0] for other in digests) > 1)
    with pytest.raises(ConfigError) as raised:
        choose_cell(path, (), first)
    message = str(raised.value)
    assert "--cell: matches several runs" in message
    assert all((digest in message) == digest.startswith(first) for digest in digests)


def test_a_file_without_grid_takes_its_own_digest_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    (digest,) = load_cells(path)
    assert choose_cell(path, (), None).digest == choose_cell(path, (), digest[:5]).digest == digest
    with pytest.raises(ConfigError, match=f"no such run .*{digest}"):
        choose_cell(path, (), "x")


def test_long_lists_of_cells_are_cut(tmp_path: Path) -> None:
    path = write(tmp_path, f"grid: {{seed: {list(range(40))}}}")
    with pytest.raises(ConfigError, match="and 20 more"):
        choose_cell(path, (), None)


def test_an_error_in_some_cells_names_one_of_them_once(tmp_path: Path) -> None:
    grid = "grid: {algorithm.fine_tuner.name: [conjugate_gradient, exact], seed: [0, 1, 2]}"
    with pytest.raises(ConfigError) as raised:
        load_cells(write(tmp_path, grid))
    (line,) = raised.value.lines
    assert "algorithm.fine_tuner.steps: unknown key (given 5)" in line
    assert "[in the run with algorithm.fine_tuner.name='exact', seed=0]" in line


def test_an_error_of_all_cells_names_none(tmp_path: Path) -> None:
    path = write(tmp_path, "grid: {seed: [0, 1, 2]}")
    with pytest.raises(ConfigError) as raised:
        load_cells(path, ["rounds=0"])
    assert raised.value.lines == (f"{path}: rounds: wrong value (given 0); allowed: a whole number of at least 1",)
