"""What L2GD sends and computes: x̄ stands still between two gradient steps of all clients, so it is formed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from ppfl.cli import main
from ppfl.config.grid import load_cells
from ppfl.core.rng import generator
from ppfl.results.reader import open_result
from tests.algorithms.cases import QUADRATIC, split_of, splits_of
from tests.engine.build import engine
from tests.engine.interrupted import go_on, merged
from tests.ranks import on_ranks

P, ROUNDS, M = 0.4, 200, 5
NAMES = pytest.mark.parametrize("name", ["l2gd", "l2gd_theta"])


def num_shared(name: str) -> int:
    """Return the length of θ: 6, and 4 more where w is shared."""
    return 10 if splits_of(name) == "all shared" else 6


def document(name: str, **sections: Any) -> dict[str, Any]:
    return {
        "name": "coins", "rounds": ROUNDS, "precision": "float64",
        "problem": {**QUADRATIC, "split": split_of(name, "quadratic")},
        "algorithm": {"name": name, "lr": 0.4, "penalty": 2.0, "probability": P},
        "evaluate": {"every": 1, "tuned": {"epochs": 0}}, **sections,
    }  # fmt: skip


def coins(seed: int, rounds: int = ROUNDS) -> np.ndarray:
    """Return which iterations average."""
    return np.array([generator(seed, "l2gd coin", round=k).random() < P for k in range(rounds)])


def firsts(averages: np.ndarray) -> np.ndarray:
    """Return the averagings right after a gradient step."""
    return averages & ~np.concatenate([[True], averages[:-1]])


def assert_counts(out: Path, name: str, seed: int) -> None:
    rounds, averages = open_result(out).rounds, coins(seed)
    sent = np.concatenate([[0], firsts(averages).cumsum()])
    # x̄ is asked for by the first gradient step after it was formed
    fetched = np.concatenate([[0], [sent[: k + 1].max() if not averages[k] else 0 for k in range(ROUNDS)]])
    one_vector = M * 8 * num_shared(name)
    np.testing.assert_array_equal(rounds["uplink_bytes"], one_vector * sent)
    np.testing.assert_array_equal(rounds["downlink_bytes"], one_vector * np.maximum.accumulate(fetched))
    np.testing.assert_array_equal(rounds["shared_gradients"], M * np.concatenate([[0], (~averages).cumsum()]))
    of_w = rounds["local_gradients"] if name == "l2gd_theta" else rounds["shared_gradients"]
    np.testing.assert_array_equal(of_w, rounds["shared_gradients"])
    # p(1 − p)k, and not pk
    assert sent[-1] == pytest.approx(P * (1 - P) * ROUNDS, rel=0.15)
    assert averages.sum() > 1.4 * sent[-1]


def called(*arguments: str | Path) -> None:
    done = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output


@NAMES
def test_a_run_counts_what_was_sent_and_computed(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document(name, seed=3)))
    called("run", tmp_path / "config.yaml", "--out", tmp_path / "out.h5")
    assert_counts(tmp_path / "out.h5", name, 3)


@pytest.mark.slow
def test_packed_runs_count_the_same(tmp_path: Path) -> None:
    cases = [{"algorithm.name": name, "problem.split": split_of(name, "quadratic")} for name in ("l2gd", "l2gd_theta")]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document("l2gd", seed=1, grid={"cases": cases})))
    called("pack", path, "--out", tmp_path, "--jobs", "1")
    for digest, cell in load_cells(path).items():
        assert_counts(tmp_path / f"{digest}.h5", cell.config.algorithm.name, cell.config.seed)


@NAMES
@pytest.mark.parametrize(
    "sections",
    [
        {"cohort": 4},
        {"aggregator": {"name": "median"}},
        {"byzantine": {"attack": {"name": "sign_flip"}, "clients": 1, "placement": "beside"}},
    ],
    ids=["a sampled cohort", "a robust rule", "attackers"],
)
def test_where_the_mean_may_move_every_averaging_sends(name: str, sections: dict[str, Any]) -> None:
    running = engine(**document(name, **sections, rounds=60, evaluate={"every": 60, "tuned": {"epochs": 0}}))
    costs, averages = list(running)[-1].costs, coins(0, 60)
    one_vector = running.setup.cohort.size * 8 * num_shared(name)
    assert costs["uplink_bytes"] == one_vector * averages.sum()
    assert costs["downlink_bytes"] == one_vector * averages[:-1].sum()
    assert costs["shared_gradients"] == running.setup.cohort.size * (~averages).sum()


@NAMES
def test_a_run_that_is_stopped_amid_averagings_goes_on_with_the_same_bits(tmp_path: Path, name: str) -> None:
    """Before, between, and after two averagings in a row: what clients have yet to do is state."""
    averages = coins(0, 12)
    pairs = [k for k in range(1, 11) if averages[k] and averages[k + 1] and not averages[k - 1]]
    sections = document(name, rounds=12)
    whole = merged(on_ranks(1, lambda c: go_on(c, tmp_path / "whole", None, **sections)))
    for stop_after in range(pairs[0], pairs[0] + 4):
        folder = tmp_path / str(stop_after)
        first = merged(on_ranks(2, lambda c, n=stop_after, f=folder: go_on(c, f, n, **sections)))
        rest = merged(on_ranks(1, lambda c, f=folder: go_on(c, f, None, **sections)))
        scores = {key: value for key, value in first.items() if key[0] == "scores"}
        assert scores | rest == whole
    assert on_ranks(1, lambda c: together(c, sections)) == on_ranks(1, lambda c: together(c, {**sections, **CHUNKS}))


CHUNKS = {"engine": {"clients_per_chunk": 5}}


def together(communicator: Any, sections: dict[str, Any]) -> list[float]:
    """Return costs, which clients that are computed together share."""
    scored = list(engine(communicator, **sections))
    return [value for one in scored for name, value in one.costs.items() if "seconds" not in name]
