"""Payments for squared norms: what they add up to, who pays them, and what lying gains."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ppfl.analysis import payment_table
from ppfl.analysis.payments import gains, honest_of, payments_of, played, utilities_of
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import validate
from ppfl.core.errors import UserError
from ppfl.jobs.attempt import Caller
from ppfl.results.quick_reader import Outline
from ppfl.results.reader import open_result
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.grids import ppfl

GAME: dict[str, Any] = {
    "name": "game",
    "rounds": 12,
    "precision": "float64",
    "problem": {
        "name": "quadratic", "generator": "means", "clients": 4, "shared_dimension": 3,
        "samples": 1, "mean": 0, "spread": 1, "noise": 0,
    },
    "algorithm": {"name": "ffgg", "lr": 0.25, "fine_tuner": {"name": "exact"}},
    "evaluate": {"every": 1, "reports": ["squared_norm"], "tuned": None},
}  # fmt: skip
SCALES = (0.5, 1.0, 2.0, 8.0)


def compute(folder: Path, stem: str, caller: Caller | None = None, **sections: Any) -> Path:
    out = folder / f"{stem}.h5"
    config = validate({**GAME, **sections}, folder, "test")
    run(config, out, Silent(), SoloCommunicator(), **({} if caller is None else {"caller": caller}))
    return out


def liar(scale: float, **more: Any) -> dict[str, Any]:
    return {"strategic": {"clients": ["2"], "scale": scale, **more}}


@pytest.fixture(scope="module")
def lies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with counterfactuals: one client that says less, the truth, more and much more."""
    folder = tmp_path_factory.mktemp("lies")
    for scale in SCALES:
        compute(folder, f"scale-{scale}", **liar(scale))
    return folder


def test_payments_are_those_of_the_formula_and_add_up_to_nothing() -> None:
    norms = np.random.default_rng(0).exponential(size=(50, 7))
    norms[np.random.default_rng(1).random(norms.shape) < 0.3] = np.nan
    norms[7, 1:], norms[8, :] = np.nan, np.nan
    paid = payments_of(norms, 3.0)
    assert np.abs(paid.sum(axis=1)).max() < 1e-14 * np.abs(paid).max() * norms.shape[1]
    for row, told in zip(paid, norms, strict=True):
        there = np.flatnonzero(~np.isnan(told))
        for client in range(len(told)):
            others = [told[other] for other in there if other != client]
            wanted = 3.0 * (told[client] - np.mean(others)) if client in there and others else 0.0
            assert row[client] == pytest.approx(wanted, rel=1e-12, abs=1e-14)


def test_identical_clients_pay_nothing_at_all() -> None:
    norms = np.full((5, 9), 0.1 + 1e-17)
    norms[2, :4] = np.nan
    assert (payments_of(norms, 1e6) == 0.0).all()


def test_a_price_is_a_factor_and_a_utility_is_what_is_left() -> None:
    norms = np.random.default_rng(0).exponential(size=(3, 4))
    np.testing.assert_array_equal(payments_of(norms, 4.0), 4.0 * payments_of(norms, 1.0))
    losses = np.arange(4.0)
    np.testing.assert_allclose(utilities_of(losses, payments_of(norms, 1.0)).sum(), -losses.sum(), rtol=1e-14)


def test_data_that_are_twice_as_large_make_payments_four_times_as_large(tmp_path: Path) -> None:
    """By a power of 2, so that not a bit is lost."""
    large = {**GAME["problem"], "spread": 2.0}
    one = played(compute(tmp_path, "one", **liar(2.0)))
    two = played(compute(tmp_path, "two", **liar(2.0), problem=large))
    np.testing.assert_array_equal(payments_of(two.squared_norms, 1.0), 4.0 * payments_of(one.squared_norms, 1.0))
    np.testing.assert_array_equal(two.utilities(1.0), 4.0 * one.utilities(1.0))


def test_what_lying_gains_falls_with_the_price_for_those_who_exaggerate(lies: Path) -> None:
    games = {scale: played(lies / f"scale-{scale}.h5") for scale in SCALES}
    honest = honest_of(list(games.values()))
    assert {other.scale for other in honest.values()} == {1.0}
    prices = (0.0, 1e-3, 1e-2, 0.1)
    of_prices = {
        scale: [gains(game, honest[game.digest], price)[2] for price in prices] for scale, game in games.items()
    }
    assert of_prices[1.0] == [0.0] * 4
    for scale in (2.0, 8.0):
        assert of_prices[scale][0] > 0 > of_prices[scale][-1]
        assert of_prices[scale] == sorted(of_prices[scale], reverse=True)
    # the same rule rewards who says less
    assert of_prices[0.5][0] < 0 < of_prices[0.5][-1]


def rows_of(*arguments: str | Path) -> tuple[list[dict[str, str]], str]:
    done = ppfl("payments", *arguments, "--format", "csv")
    assert done.exit_code == 0, done.output
    return list(csv.DictReader(io.StringIO(done.stdout))), done.stderr


def test_the_command_tells_payments_utilities_and_gains(lies: Path, tmp_path: Path) -> None:
    rows, told = rows_of(lies, "--price", "0", "--price", "0.01")
    assert told == ""
    assert len(rows) == len(SCALES) * 2 * 4
    assert {row["role"] for row in rows if row["client"] == "2"} == {"strategic"}
    for row in rows:
        paid, loss, utility = (float(row[name]) for name in ("payments", "loss", "utility"))
        assert utility == -loss - paid
        assert paid == 0.0 or row["price"] == "0.01"
    by_scale = {row["scale"]: row for row in rows if row["client"] == "2" and row["price"] == "0.01"}
    for row in by_scale.values():
        assert float(row["gain"]) == float(row["utility"]) - float(by_scale["1"]["utility"])
    few, _ = rows_of(lies / "scale-2.0.h5", lies / "scale-1.0.h5", "--price", "0.01", "--deviators")
    assert few == [by_scale["1"], by_scale["2"]]
    saved = ppfl("payments", lies, "--price", "0.01", "--deviators", "--out", tmp_path / "new" / "table.txt")
    assert saved.exit_code == 0
    header, *lines = (tmp_path / "new" / "table.txt").read_text(encoding="utf-8").splitlines()
    assert header.split()[0] == "digest"
    assert header.split()[-5:] == ["price", "payments", "loss", "utility", "gain"]
    assert len(lines) == len(SCALES)


def test_the_plain_run_is_a_counterpart_and_a_lie_without_one_has_no_gain(tmp_path: Path) -> None:
    compute(tmp_path, "plain", name="another-name")
    compute(tmp_path, "liar", **liar(2.0, noise=0.1))
    with_one, told = rows_of(tmp_path, "--price", "1", "--deviators")
    assert told == ""
    assert [float(row["gain"]) < 0 for row in with_one] == [True]
    without, told = rows_of(tmp_path / "liar.h5", "--price", "1", "--deviators")
    assert told == "ppfl: 1 run(s) have no counterpart in which all tell the truth (scale 1), and so no gain\n"
    assert [row["gain"] for row in without] == [""]
    compute(tmp_path, "other-seed", seed=1)
    again, told = rows_of(tmp_path / "liar.h5", tmp_path / "other-seed.h5", "--price", "1", "--deviators")
    assert [(row["seed"], row["gain"]) for row in again] == [("0", "")]


def test_numbers_of_different_kinds_are_no_counterparts(lies: Path) -> None:
    """A cohort of 1 is one client, and of 1.0 all."""
    liar_of_one, honest = (played(lies / f"scale-{scale}.h5") for scale in (2.0, 1.0))
    liar_of_one, one, everyone = (
        replace(game, settings={**game.settings, "cohort": cohort})
        for game, cohort in ((liar_of_one, 1), (honest, 1), (honest, 1.0))
    )
    assert liar_of_one.digest not in honest_of([everyone, liar_of_one])
    assert honest_of([everyone, one, liar_of_one])[liar_of_one.digest] is one


def test_what_varies_is_told_before_seeds(lies: Path, tmp_path: Path) -> None:
    compute(tmp_path, "seed", **liar(2.0), seed=1)
    compute(tmp_path, "step", **liar(2.0), algorithm={**GAME["algorithm"], "lr": 0.125})
    rows, _ = rows_of(tmp_path, lies / "scale-2.0.h5", lies / "scale-1.0.h5", "--price", "1", "--deviators")
    assert list(rows[0])[:5] == ["digest", "algorithm.lr", "seed", "scale", "noise"]
    found = [(row["algorithm.lr"], row["seed"], row["scale"], row["gain"] != "") for row in rows]
    assert found == [("0.125", "0", "2", False), ("0.25", "0", "1", True), ("0.25", "0", "2", True),
                     ("0.25", "1", "2", False)]  # fmt: skip


def test_files_that_make_a_comparison_doubtful_are_told(
    lies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged, copy = tmp_path / "damaged.h5", tmp_path / "copy.h5"
    content = bytearray((lies / "scale-2.0.h5").read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    rows, told = rows_of(damaged, lies, "--price", "0", "--deviators")
    assert len(rows) == len(SCALES)
    assert told.startswith(f"ppfl: left out: {damaged}: the result cannot be read: ")
    copy.write_bytes((lies / "scale-2.0.h5").read_bytes())
    done = ppfl("payments", lies, copy, "--price", "0")
    assert done.exit_code == 2
    assert f"{copy}: holds the same run as {lies / 'scale-2.0.h5'}; give one of them" in done.output
    original = payment_table.outline
    monkeypatch.setattr(payment_table, "outline", lambda path: _of_another_commit(original(path), path.stem))
    _, told = rows_of(lies, "--price", "0")
    assert told.startswith("ppfl: the results are of different commit: ")


def _of_another_commit(found: Outline, commit: str) -> Outline:
    return replace(found, provenance={**found.provenance, "commit": commit})


def test_sampled_clients_pay_in_their_rounds_alone(tmp_path: Path) -> None:
    game = played(compute(tmp_path, "sampled", cohort=2, **liar(2.0)))
    paid = payments_of(game.squared_norms, 1.0)
    assert (np.count_nonzero(paid, axis=1) == 2).all()
    np.testing.assert_allclose(paid.sum(axis=1), 0.0, atol=1e-15 * np.abs(paid).max())


def test_runs_that_came_to_no_end_are_told_and_left_out(lies: Path, tmp_path: Path) -> None:
    diverged = compute(tmp_path, "diverged", **liar(1e200))
    stopped = compute(tmp_path, "stopped", Caller(wants_stop=lambda: True), **liar(3.0))
    assert [open_result(path).attrs["status"] for path in (diverged, stopped)] == ["diverged", "running"]
    rows, told = rows_of(diverged, stopped, lies, "--price", "0", "--deviators")
    assert told.splitlines() == [
        "ppfl: left out, utilities are of complete runs: 1 diverged",
        "ppfl: left out, utilities are of complete runs: 1 running",
    ]
    assert len(rows) == len(SCALES)
    done = ppfl("payments", diverged, stopped, "--price", "0")
    assert done.exit_code == 2
    assert "no complete run to make payments in" in done.output


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no norms": ({"evaluate": {"every": 1}}, r"payments need the squared norms of every round: evaluate: {every: 1, "),
    "rare norms": ({"evaluate": {"every": 2, "reports": ["squared_norm"]}}, "payments need the squared norms of every"),
    "attackers": (
        {"byzantine": {"attack": {"name": "sign_flip"}, "clients": 1}}, "has Byzantine clients, who tell nothing",
    ),
    "arrivals": (
        {"asynchronous": {"engine": "virtual"}, "compute_times": {"name": "fixed"}}, "payments are between the clients",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_where_payments_are_not_defined_they_are_refused(case: str, tmp_path: Path) -> None:
    sections, wanted = REFUSED[case]
    done = ppfl("payments", compute(tmp_path, "r", **sections), "--price", "1")
    assert done.exit_code == 2
    assert wanted in done.output


def test_losses_of_networks_are_those_of_training_samples_where_they_are_scored(tmp_path: Path) -> None:
    problem = {
        "name": "supervised", "dataset": {"name": "digits", "partition": {"name": "iid", "clients": 4}},
        "model": {"name": "logistic_regression"}, "split": {"local": []}, "batch_size": 16,
    }  # fmt: skip
    network = {"problem": problem, "algorithm": {"name": "fedavg", "lr": 0.1, "local_steps": 1}, "rounds": 2}
    evaluate = {"every": 1, "reports": ["squared_norm"], "tuned": None}
    without = compute(tmp_path, "without", **network, evaluate=evaluate)
    with pytest.raises(UserError, match=r"add train to evaluate.parts, or choose by --loss among .*personal_test_loss"):
        played(without)
    rows, _ = rows_of(without, "--price", "1", "--loss", "personal_test_loss")
    wanted = open_result(without).clients["personal_test_loss"].to_numpy()
    assert [float(row["loss"]) for row in rows] == wanted.tolist()
    for loss in ("personal_test_accuracy", "nothing", "client", "num_train_samples"):
        done = ppfl("payments", without, "--price", "1", "--loss", loss)
        assert done.exit_code == 2
        assert f"--loss {loss}: no loss of clients in" in done.output
    trained = compute(tmp_path, "with", **network, evaluate={**evaluate, "parts": ["train", "test"]})
    assert played(trained).losses.tolist() == open_result(trained).clients["personal_train_loss"].to_numpy().tolist()


def test_what_is_no_result_and_no_price_is_refused(lies: Path, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(GAME))
    cases = {
        (tmp_path, "--price", "1"): "has no results (.h5) in it",
        (tmp_path / "a.yaml", "--price", "1"): "is no result of ppfl",
        (tmp_path / "b.h5", "--price", "1"): "b.h5: no such file or folder",
        (lies, "--price", "-1"): "-1",
        (lies, "--price", "inf"): "--price: allowed: finite numbers of at least 0",
        (lies, "--price", "nan"): "--price: allowed: finite numbers of at least 0",
        (lies,): "--price",
    }
    for arguments, wanted in cases.items():
        done = ppfl("payments", *arguments)
        assert done.exit_code == 2, arguments
        assert wanted in done.output
