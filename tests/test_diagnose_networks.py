"""`ppfl diagnose` of tokens, adapters, factors of low rank, frozen parameters, other starts, clipped gradients."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from ppfl.cli import main
from ppfl.comm.solo import SoloCommunicator
from ppfl.diagnose.measure import Measurement, measure
from ppfl.diagnose.verdict import MOST_LABELS, listed
from ppfl.runs.assemble import build
from tests.engine.build import config
from tests.tasks.test_texts import write
from tests.test_diagnose import digits

SPLITS: dict[str, dict[str, Any]] = {
    "adapters": {"local": ["*adapter*", "*norm*"]},
    "factors": {"lora": {"layers": ["layers.*.self_attn.*"], "rank": 1}, "local": ["*.lora_*"]},
    "frozen": {"local": ["decoder.*"], "frozen": ["layers.*"]},
}


def text_run(folder: Path, split: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Return the configuration of two rounds on the texts of three clients."""
    texts = {name: [word * 4, word[::-1] * 5] for name, word in (("ada", "abcd"), ("bob", "bcda"), ("eve", "aabb"))}
    data = write(folder / "texts.h5", texts)
    return {
        "name": "texts",
        "rounds": 2,
        "problem": {
            "name": "supervised",
            "task": {"name": "next_token"},
            "dataset": {"name": "text_hdf5", "unit": "characters", "train": data, "test": data, "length": 6},
            "model": {"name": "transformer", "width": 8, "layers": 1, "heads": 2, "feed_forward": 8, "adapters": 2},
            "split": split,
            "batch_size": 2,
        },
        "algorithm": {"name": "ffgg", "lr": 0.1, "fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": 0.1}},
        "evaluate": {"every": 2, "tuned": {"epochs": 1}},
        "save": {"local": True},
        **others,
    }


def ppfl(*arguments: str | Path) -> Result:
    done = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False, prog_name="ppfl")
    assert done.exit_code == 0, done.stderr
    return done


def found_by(source: Path) -> dict[str, Any]:
    ppfl("diagnose", source, "--json", source.with_suffix(".json"))
    (split,) = json.loads(source.with_suffix(".json").read_text())["splits"]
    assert isinstance(split, dict)
    return split


def written(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("name", SPLITS)
def test_a_result_on_texts_is_diagnosed_as_its_configuration_is(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "texts.yaml", text_run(tmp_path, SPLITS[name]))
    ppfl("run", path, "--out", tmp_path / "r.h5")
    of_config, of_result = found_by(path), found_by(tmp_path / "r.h5")
    assert of_config == of_result
    assert all(math.isfinite(of_config[key]) for key in ("train_loss", "test_loss", "test_accuracy"))
    assert of_config["rho"]["value"] > 0
    trained = {*of_config["shared"], *of_config["local"]}
    assert any(label.startswith("layers.") for label in trained) == (name != "frozen")


def test_another_start_is_what_is_compared_with(tmp_path: Path) -> None:
    """σ²(θ₀) of a run that starts from another is at the θ that the other ended with."""
    first = text_run(tmp_path, SPLITS["adapters"])
    ppfl("run", written(tmp_path / "first.yaml", first), "--out", tmp_path / "first.h5")
    then = {**first, "name": "then", "start": {"result": "first.h5", "only": ["word_embedding.*", "layers.*.linear*"]}}
    begins_there = found_by(written(tmp_path / "then.yaml", then))
    begins_anew = found_by(tmp_path / "first.h5")
    for group in ("word_embedding", "layers.0.linear1"):
        assert begins_there["groups"][group]["at_start"] != begins_anew["groups"][group]["at_start"]
    ppfl("run", tmp_path / "then.yaml", "--out", tmp_path / "then.h5")
    assert found_by(tmp_path / "then.h5") == begins_there


def measured(training: dict[str, Any] | None, local: list[str]) -> Measurement:
    setup = build(config(**digits(local, problem={"training": training})), SoloCommunicator())
    return measure(setup, setup.problem.objective.init_shared(), setup.problem.objective.init_local, 0)


def test_bounded_gradients_are_measured_whole() -> None:
    """A bound that is active at θ₀ and not at θ̂ would raise ρ; training and fine-tuning keep it."""
    whole, bounded = (measured(training, []) for training in (None, {"clip_norm": 1e-3}))
    np.testing.assert_array_equal(bounded.client_squares, whole.client_squares)
    assert bounded.client_squares.min() > 1e-6
    tuned = [measured(training, ["head.*"]).scores["train_loss"] for training in (None, {"clip_norm": 1e-3})]
    assert (tuned[0] < tuned[1]).all()


def test_w_beside_a_theta_of_the_clients_own_is_found(tmp_path: Path) -> None:
    """Beside a result of L2GD lie (θ_m, w_m); tuning begins at w_m, as it does for the configuration."""
    tuner = {"name": "gradient_descent", "steps": 1, "lr": 0.1}
    document = text_run(
        tmp_path,
        SPLITS["adapters"],
        rounds=4,
        algorithm={"name": "l2gd_theta", "lr": 0.1, "penalty": 0.1, "probability": 0.3},
        evaluate={"every": 4, "tuned": {"epochs": 1, "fine_tuner": tuner}},
    )
    path = written(tmp_path / "own.yaml", document)
    ppfl("run", path, "--out", tmp_path / "r.h5")
    assert found_by(path) == found_by(tmp_path / "r.h5")


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ({"name": "local_only"}, "sends nothing"),
        ({"name": "pfedgraph", "penalty": 1}, "gives each client a θ of its own"),
    ],
)
def test_methods_whose_theta_stays_have_no_rho(tmp_path: Path, method: dict[str, Any], why: str) -> None:
    algorithm = {**method, "lr": 0.1, "local_steps": 2}
    document = {**text_run(tmp_path, SPLITS["adapters"]), "algorithm": algorithm}
    path = written(tmp_path / "alone.yaml", document)
    ppfl("run", path, "--out", tmp_path / "r.h5")
    for source in (path, tmp_path / "r.h5"):
        done = CliRunner().invoke(main, ["diagnose", str(source)], prog_name="ppfl")
        assert done.exit_code == 2
        assert f"algorithm.name: {method['name']} {why}" in done.stderr


def test_of_many_labels_some_are_listed() -> None:
    labels = [f"layer{number}" for number in range(40)]
    assert listed([]) == "nothing"
    assert listed(labels[:MOST_LABELS]).endswith(labels[MOST_LABELS - 1])
    assert listed(labels) == "layer0, layer1, layer2, layer3, layer4 and 35 more"
