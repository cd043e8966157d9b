"""`ppfl hurt`: whom a run serves worse than others do, by name and on the same samples alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import ppfl
from ppfl.config.run import load
from ppfl.config.samples import samples_digest
from ppfl.core.errors import UserError
from ppfl.results.client_scores import larger_is_better, worst_tenth
from ppfl.results.hurt import hurt
from ppfl.results.reader import open_result
from ppfl.results.recorder import Recorder
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests import examples
from tests.grids import ppfl as command
from tests.outside.sources import rule_called, write

NAMES = tuple("abcdefgh")
CONFIG: dict[str, Any] = {
    "name": "judged", "seed": 0, "problem": {"name": "supervised", "seed": 0, "dataset": {"name": "digits"}},
    "algorithm": {"name": "ffgg"},
}  # fmt: skip


def result(
    path: Path, scores: list[float], names: tuple[str, ...] = NAMES, config: dict[str, Any] | None = None,
    metric: str = "test_accuracy", sizes: list[int] | None = None, provenance: dict[str, Any] | None = None,
    **more: Any,
) -> Path:  # fmt: skip
    """Write a finished result with scores of single clients in the stages `personal` and `tuned`."""
    document = {**CONFIG, **(config or {})}
    attributes = {"digest": path.stem, "name": "judged", "config": yaml.safe_dump(document), "results_version": 1}
    recorder = Recorder(path, attributes, {"commit": "0123456789ab", **(provenance or {})})
    facts = {"num_test_samples": np.array(sizes or [5] * len(names)), **more}
    recorder.describe_problem({}, {"client": np.array(names, dtype=object), **facts})
    recorder.append(0, {"loss": 1.0})
    values = np.array(scores)
    clients = {f"personal_{metric}": values, f"tuned_{metric}": 1.0 - values}
    summary = {metric: np.zeros((2, 1))}
    recorder.finish("complete", clients, summary, ["personal", "tuned"], ["mean"], {}, {})
    return path


OURS = [0.5, 0.5, 0.5, 0.5, 0.9, np.nan, np.nan, 0.2]
THEIRS = [0.4, 0.5, 0.6, 0.7, 0.1, np.nan, 0.5, np.nan]


def test_clients_are_compared_by_name(tmp_path: Path) -> None:
    """b is tied, c, d and g are hurt, a, e and h are not, and f has no samples: in whatever order they stand."""
    ours = result(tmp_path / "ours.h5", OURS, sizes=list(range(8)))
    order = [3, 1, 7, 0, 2, 6, 5, 4]
    names = tuple(NAMES[place] for place in order)
    theirs = result(tmp_path / "theirs.h5", [THEIRS[place] for place in order], names, sizes=order)
    found = hurt(ours, [theirs])
    assert found.clients == ("a", "b", "c", "d", "e", "g", "h")
    (other,) = found.others
    assert (other.num_hurt, other.num_tied, found.num_unscored, found.num_byzantine) == (3, 1, 1, 0)
    assert other.share_hurt == 3 / 7
    np.testing.assert_array_equal(other.scores, [0.4, 0.5, 0.6, 0.7, 0.1, 0.5, np.nan])
    back = hurt(theirs, [ours]).others[0]
    assert back.num_hurt + back.num_tied + other.num_hurt == 7


def test_lower_losses_are_better(tmp_path: Path) -> None:
    ours = result(tmp_path / "ours.h5", OURS, metric="test_loss")
    theirs = result(tmp_path / "theirs.h5", THEIRS, metric="test_loss")
    found = hurt(ours, [theirs], "test_loss").others[0]
    # a and e have larger losses, and g has none that is a number
    assert (found.num_hurt, found.num_tied) == (3, 1)


def test_stages_may_differ(tmp_path: Path) -> None:
    ours, theirs = (result(tmp_path / f"{name}.h5", [0.75, 0.5], ("a", "b")) for name in ("ours", "theirs"))
    assert hurt(ours, [theirs], stage="tuned").others[0].num_tied == 2
    assert hurt(ours, [theirs], stage="tuned", than_stage="personal").others[0].num_hurt == 1


def test_attackers_are_left_out(tmp_path: Path) -> None:
    """Of either run."""
    ours = result(tmp_path / "ours.h5", [0.1, 0.1, 0.1], ("a", "b", "c"), byzantine=np.array([1, 0, 0]))
    theirs = result(tmp_path / "theirs.h5", [0.2, 0.2, 0.2], ("a", "b", "c"))
    for found in (hurt(ours, [theirs]), hurt(theirs, [ours])):
        assert found.clients == ("b", "c")
        assert found.num_byzantine == 1


def test_who_only_answers_is_left_out(tmp_path: Path) -> None:
    """Of either run, and an attacker, who asks nobody, is one."""
    marks = {"main": np.array([0, 1, 0]), "byzantine": np.array([0, 0, 1])}
    ours = result(tmp_path / "ours.h5", [0.1, 0.1, 0.1], ("a", "b", "c"), **marks)
    theirs = result(tmp_path / "theirs.h5", [0.2, 0.2, 0.2], ("a", "b", "c"))
    for found in (hurt(ours, [theirs]), hurt(theirs, [ours])):
        assert found.clients == ("b",)
        assert (found.num_answering, found.num_byzantine) == (1, 1)


def test_attackers_are_not_among_the_worst_that_are_shown(tmp_path: Path) -> None:
    path = result(tmp_path / "r.h5", [0.125, 0.5, 0.75], ("a", "b", "c"), byzantine=np.array([1, 0, 0]))
    row = next(line for line in command("show", path).stdout.splitlines() if "personal" in line)
    assert row.split("│")[-2].strip() == "0.5"


@pytest.mark.parametrize("size", [1, 10, 11, 37])
def test_the_worst_tenth_is_that_of_its_definition(size: int) -> None:
    values = np.random.default_rng(size).normal(size=size)
    number = int(np.ceil(size / 10))
    assert worst_tenth("test_accuracy", values).mean == pytest.approx(np.sort(values)[:number].mean())
    assert worst_tenth("test_loss", values).mean == pytest.approx(np.sort(values)[-number:].mean())
    assert worst_tenth("test_r2", values).percentile == np.quantile(values, 0.1)
    assert worst_tenth("test_perplexity", values).percentile == np.quantile(values, 0.9)
    assert all(map(np.isnan, worst_tenth("test_loss", values[:0])))


def test_every_score_of_a_task_has_its_way() -> None:
    better = ("accuracy", "accuracy_with_special_tokens", "hit_rate_at_5", "ndcg_at_20", "r2")
    worse = ("loss", "perplexity", "mean_squared_error", "mean_absolute_error")
    assert all(larger_is_better(f"{part}_{name}") for part in ("train", "validation", "test") for name in better)
    assert not any(larger_is_better(f"{part}_{name}") for part in ("train", "validation", "test") for name in worse)
    assert all(map(larger_is_better, ("newcomers_5_test_accuracy", "client_test_ndcg_at_20", "balanced_accuracy")))
    assert not any(map(larger_is_better, ("newcomers_0_test_loss", "rank_r20", "inaccuracy")))
    assert not any(map(larger_is_better, ("loss", "operator_norm", "distance", "client_gradient_norm")))


OTHER_SEED = {"problem": {**CONFIG["problem"], "seed": 1}}
OTHER_SET = {"problem": {**CONFIG["problem"], "dataset": {"name": "digits", "test": 0.5}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": OTHER_SEED}, r"other.h5: is of other data than \S+ours.h5: problem.seed is 1 and not 0; "),
        ({"config": OTHER_SET}, r"problem.dataset.test is 0.5 and not None; "),
        ({"config": {"evaluate": {"samples": 3}}}, r"evaluate.samples is 3 and not None; "),
        ({"names": tuple("abcdefgz")}, r"client h is in one of them alone \(2 are\)"),
        ({"sizes": [5, 5, 4, 5, 5, 5, 5, 5]}, r"client c has 4 and not 5 as num_test_samples"),
        ({"provenance": {"samples": "0" * 16}}, r"files or plug-ins that it names had another content"),
        ({"metric": "test_loss"}, r"^--metric test_accuracy: \S+other.h5 has no such final score; allowed: test_loss$"),
    ],
)
def test_results_of_other_data_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    ours = result(tmp_path / "ours.h5", OURS, provenance={"samples": "1" * 16})
    with pytest.raises(UserError, match=message):
        hurt(ours, [result(tmp_path / "other.h5", THEIRS, **changes)])


def test_what_trains_may_differ(tmp_path: Path) -> None:
    problem = {**CONFIG["problem"], "split": {"local": []}, "model": {"name": "mlp"}, "batch_size": 3}
    ours = result(tmp_path / "ours.h5", OURS)
    assert hurt(ours, [result(tmp_path / "other.h5", THEIRS, config={"problem": problem, "seed": 7})]).others


def test_unfinished_runs_and_unknown_stages_are_refused(tmp_path: Path) -> None:
    ours = result(tmp_path / "ours.h5", OURS)
    recorder = Recorder(tmp_path / "r.h5", {"digest": "r", "name": "r", "config": yaml.safe_dump(CONFIG)}, {})
    recorder.describe_problem({}, {"client": np.array(NAMES, dtype=object)})
    recorder.append(0, {"loss": 1.0})
    with pytest.raises(UserError, match=r"r.h5: has no final scores yet \(status running\)"):
        hurt(ours, [tmp_path / "r.h5"])
    with pytest.raises(UserError, match=r"^--stage best_personal: \S+ has no such stage; allowed: personal, tuned$"):
        hurt(ours, [ours], stage="best_personal")
    with pytest.raises(UserError, match=r"no such file"):
        hurt(ours, [tmp_path / "none.h5"])
    with pytest.raises(UserError, match=r"^--than: "):
        hurt(ours, [])


def test_results_of_older_versions_are_compared_by_their_settings(tmp_path: Path) -> None:
    old = Path(__file__).parents[1] / "kept" / "version-6" / "digits.h5"
    assert "samples" not in open_result(old).provenance
    assert hurt(old, [old]).others[0].num_tied == len(hurt(old, [old]).clients) > 0
    ours, other = result(tmp_path / "ours.h5", OURS), result(tmp_path / "other.h5", THEIRS, config=OTHER_SEED)
    with pytest.raises(UserError, match=r"problem.seed is 1 and not 0; compare runs on the same samples$"):
        hurt(ours, [other])


DIGITS: dict[str, Any] = {
    "name": "real", "rounds": 6,
    "problem": {
        "name": "supervised", "dataset": {"name": "digits", "partition": {"name": "shards", "clients": 12}},
        "model": {"name": "logistic_regression"}, "split": {"local": ["*.bias"]}, "batch_size": "all",
    },
    "algorithm": {"name": "ffgg", "lr": 0.5, "fine_tuner": {"name": "gradient_descent", "steps": 1, "lr": 0.1}},
    "evaluate": {"every": 6},
}  # fmt: skip


def test_runs_are_compared_as_their_results_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of two classes each are hurt by FedAvg's one model, and not by their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(DIGITS))
    training = "lr: 0.5, local_steps: 1}"
    changes = {
        "alone": [f"algorithm={{name: local_only, {training}"],
        "fedavg": [f"algorithm={{name: fedavg, {training}", "problem.split.local=[]"],
    }
    for name, overrides in changes.items():
        run(load("r.yaml", overrides), tmp_path / f"{name}.h5", Silent())
    found = ppfl.hurt("fedavg.h5", "alone.h5")
    mine, theirs = (open_result(Path(f"{name}.h5")).clients["personal_test_accuracy"] for name in ("fedavg", "alone"))
    assert found.others[0].num_hurt == int((mine < theirs).sum()) > 6
    assert found.others[0].num_tied == int((mine == theirs).sum())
    said = command("hurt", "fedavg.h5", "--than", "alone.h5", "--than", "fedavg.h5")
    assert said.exit_code == 0, said.stderr
    row = next(line for line in said.stdout.splitlines() if "local_only" in line)
    worst = worst_tenth("test_accuracy", theirs.to_numpy())
    expected = (12, f"{float(theirs.mean()):.4g}", f"{worst.percentile:.4g}", f"{worst.mean:.4g}")
    assert all(f" {value} " in row for value in (*expected, found.others[0].num_hurt, found.others[0].num_tied))
    assert f"{100 * found.others[0].share_hurt:.1f} %" in row
    shown = command("show", "alone.h5").stdout
    line = next(line for line in shown.splitlines() if "test_accuracy" in line and "personal" in line)
    assert f" {worst.mean:.6g} " in line
    run(load("r.yaml", [*changes["alone"], "seed=1"]), tmp_path / "other.h5", Silent())
    refused = command("hurt", "fedavg.h5", "--than", "other.h5")
    assert refused.exit_code == 2
    assert "problem.seed is 1 and not 0" in refused.stderr


def test_a_file_counts_by_its_content(tmp_path: Path) -> None:
    """The same samples under another name are the same, others under the same name are not."""
    section, digests = examples.section("datasets", "federated_hdf5"), []
    for number in range(2):
        folder = tmp_path / str(number)
        shutil.copytree(examples.files("datasets", "federated_hdf5"), folder)
        document = {**DIGITS, "problem": {**DIGITS["problem"], "dataset": section}}
        (folder / "r.yaml").write_text(yaml.safe_dump(document))
        digests.append(samples_digest(load(folder / "r.yaml")))
        digests.append(samples_digest(load(folder / "r.yaml", ["problem.batch_size=3", "algorithm.lr=0.1"])))
        digests.append(samples_digest(load(folder / "r.yaml", ["problem.seed=0", "seed=1"])))
    assert len(set(digests)) == 1
    with (folder / section["train"]).open("ab") as file:
        file.write(b"0")
    assert samples_digest(load(folder / "r.yaml")) != digests[0]
    selected = [["evaluate.clients=2"], ["evaluate.clients=2", "problem.seed=0", "seed=1"], ["evaluate.newcomers=0.2"]]
    found = {samples_digest(load(folder / "r.yaml", overrides)) for overrides in [[], *selected]}
    # the seed of the run draws what is scored, where that is not everything
    assert len(found) == 4


PARTITION = '''\
from typing import Literal

import numpy as np

from ppfl.interfaces.partition import Partition


class Strided(Partition):
    """Every M-th sample."""

    name: Literal["strided"]

    def assign(self, labels, seed):
        """Return for each client the ascending indices of its samples."""
        return [np.arange(start, len(labels), self.clients) for start in range(self.clients)]
'''


def test_a_plug_in_counts_by_its_content_where_it_decides_about_samples(tmp_path: Path) -> None:
    """One that deals other samples under the same name is another one; methods may be what they like."""
    dataset = {"name": "digits", "partition": {"name": "strided", "clients": 12}}
    document = {**DIGITS, "problem": {**DIGITS["problem"], "dataset": dataset}, "plugins": ["mine"]}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(document))

    def digest(text: str, rule: str = "return matrix.combine(matrix.norms() * 0)") -> str:
        write(tmp_path / "mine", {"partitions/strided.py": text, "aggregators/few.py": rule_called("few", rule)})
        return samples_digest(load(tmp_path / "r.yaml", ["aggregator={name: few}"]))

    first = digest(PARTITION)
    assert digest(PARTITION, "return matrix.combine(matrix.norms())") == first
    assert digest(PARTITION.replace("start, len", "self.clients - start - 1, len")) != first


def test_newcomers_are_no_stage_of_those_that_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    document = {**DIGITS, "rounds": 1, "evaluate": {"tuned": None, "newcomers": 0.25, "best_round": {}}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(document))
    run(load("r.yaml"), tmp_path / "r.h5", Silent())
    with pytest.raises(UserError, match=r"^--stage newcomers_5: .* allowed: global, personal, best_global, best_pers"):
        hurt(Path("r.h5"), [Path("r.h5")], stage="newcomers_5")
    assert len(hurt(Path("r.h5"), [Path("r.h5")], stage="best_personal").clients) == 9


def test_where_nobody_is_scored_nobody_is_compared(tmp_path: Path) -> None:
    nobody = result(tmp_path / "nobody.h5", [np.nan] * 8)
    with pytest.raises(UserError, match=r"^--metric test_accuracy: no honest client of \S+nobody\.h5 has such a score"):
        hurt(nobody, [nobody])


def test_a_stage_of_the_others_is_told_by_its_own_option(tmp_path: Path) -> None:
    ours = result(tmp_path / "ours.h5", OURS)
    with pytest.raises(UserError, match=r"^--than-stage best: \S+ has no such stage; allowed: personal, tuned$"):
        hurt(ours, [ours], than_stage="best")
