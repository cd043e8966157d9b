"""`evaluate.newcomers`: short forms, what decides the digest, and what is refused before anything is read."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import jsonschema
import pytest

from ppfl.config.errors import ConfigError
from ppfl.config.run import Config, schema
from ppfl.core.yaml_text import load_text
from tests import examples
from tests.engine.build import COMPARISON, EXACT, config, ffgg

GD: dict[str, Any] = {"name": "gradient_descent", "steps": 1, "lr": 0.1}
SUPERVISED = examples.section("problems", "supervised")
FEDREP = {"name": "fedrep", "lr": 0.1, "epochs": 1, "fine_tuner": GD}


def document(newcomers: Any, **sections: Any) -> dict[str, Any]:
    evaluate = {"every": 2, "newcomers": newcomers, **sections.pop("evaluate", {})}
    return {"problem": SUPERVISED, "algorithm": FEDREP, "rounds": 2, **sections, "evaluate": evaluate}


def digest(newcomers: Any, **sections: Any) -> str:
    return config(**document(newcomers, **sections)).digest


def test_silent_at_its_default() -> None:
    plain = document(None)
    del plain["evaluate"]["newcomers"]
    assert digest(None) == config(**plain).digest
    assert "newcomers" not in config(**document(None)).scientific()["evaluate"]
    assert "newcomers" not in config(**document(None)).to_yaml()


def test_short_forms_and_other_orders_are_the_same_run() -> None:
    same = [0.25, {"clients": 0.25}, {"clients": 0.25, "steps": [5, 1, 5]}, {"clients": 0.25, "fine_tuner": GD}]
    assert len({digest(newcomers) for newcomers in same}) == 1
    named = [["0", "3"], {"clients": ["3", "0", "0"]}]
    assert len({digest(newcomers) for newcomers in named}) == 1
    others = [0.25, 0.5, ["0", "3"], ["0"], {"clients": 0.25, "steps": [1]}, {"clients": 0.25, "in_rounds": True},
              {"clients": 0.25, "fine_tuner": {**GD, "lr": 0.2}}, None]  # fmt: skip
    assert len({digest(newcomers) for newcomers in others}) == len(others)


def test_the_fine_tuner_is_that_of_the_stage_where_it_names_one() -> None:
    tuned = {"tuned": {"fine_tuner": {**GD, "lr": 0.4}}}
    found = config(**document(0.25, evaluate=tuned))
    assert found.evaluate.fine_tuner_of_newcomers == found.evaluate.tuned.fine_tuner  # type: ignore[union-attr]
    assert found.digest == digest({"clients": 0.25, "fine_tuner": {**GD, "lr": 0.4}}, evaluate=tuned)
    assert found.digest != digest({"clients": 0.25, "fine_tuner": GD}, evaluate=tuned)
    assert digest(0.25, evaluate={"tuned": None}) == digest(
        {"clients": 0.25, "fine_tuner": GD}, evaluate={"tuned": None}
    )


@pytest.mark.parametrize("newcomers", [0.25, ["0", "3"], {"clients": 0.25, "steps": [2], "fine_tuner": GD}], ids=str)
def test_it_is_read_back_as_it_was_written(newcomers: Any) -> None:
    found = config(**document(newcomers))
    again = Config.model_validate(load_text(found.to_yaml()))
    assert (again, again.digest) == (found, found.digest)
    copied = pickle.loads(pickle.dumps(found))
    assert (copied, copied.digest) == (found, found.digest)
    jsonschema.validate({"name": "test", **document(newcomers)}, schema())


@pytest.mark.parametrize(
    ("newcomers", "wanted"),
    [
        (0, "evaluate.newcomers: wrong value .given 0.; allowed: a number greater than 0 and less than 1, or a list"),
        (1.0, "evaluate.newcomers: wrong value .given 1.0.; allowed: a number greater than 0 and less than 1"),
        (True, "evaluate.newcomers: wrong value .given true."),
        ([], "evaluate.newcomers: wrong value .given \\[\\]."),
        ([3], r"evaluate.newcomers: wrong value .given \[3\].; allowed: a list of length at least 1 of .text"),
        ({}, "evaluate.newcomers.clients: missing key"),
        ({"clients": 0.2, "steps": []}, "evaluate.newcomers.steps: wrong value"),
        ({"clients": 0.2, "steps": [0]}, r"evaluate.newcomers.steps\[0\]: wrong value .given 0."),
        ({"clients": 0.2, "step": [3]}, "evaluate.newcomers.step: unknown key .* did you mean 'steps'"),
        (
            {"clients": 0.2, "fine_tuner": {**GD, "lr_schedule": {"name": "cosine"}}},
            "evaluate.newcomers.fine_tuner.lr_schedule: .*nothing: this stage has no rounds",
        ),
        ([str(client) for client in range(6)], "evaluate.newcomers.clients: .*so that a client is left to train"),
        (0.95, "evaluate.newcomers.clients: .*so that a client is left to train"),
    ],
    ids=str,
)
def test_what_is_refused(newcomers: Any, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        config(**document(newcomers))


def test_a_method_without_a_fine_tuner_has_to_be_given_one() -> None:
    fedavg = {"name": "fedavg", "lr": 0.1, "epochs": 1}
    shared = {"problem": {**SUPERVISED, "split": {"local": []}}, "algorithm": fedavg}
    wanted = (
        "evaluate.newcomers.fine_tuner: .*since 'fedavg' has no fine-tuner of its own and evaluate.tuned names none"
    )
    with pytest.raises(ConfigError, match=wanted):
        config(**document(0.5, **shared))
    config(**document({"clients": 0.5, "fine_tuner": GD}, **shared))
    config(**document(0.5, **shared, evaluate={"tuned": {"fine_tuner": GD}}))


def test_problems_that_know_their_solution_have_no_newcomers() -> None:
    with pytest.raises(ConfigError, match=r"evaluate.newcomers: .*of problem 'quadratic' θ\*, ‖F‖ and legal steps"):
        config(problem=COMPARISON, algorithm=ffgg(EXACT), evaluate={"newcomers": 0.2})


def test_clipped_gradients_and_tuners_that_need_whole_ones_do_not_meet() -> None:
    clipped = {"problem": {**SUPERVISED, "training": {"clip_norm": 1.0}}}
    with pytest.raises(ConfigError, match=r"problem.training.clip_norm: .*'lbfgs' takes whole gradients"):
        config(**document({"clients": 0.5, "fine_tuner": {"name": "lbfgs", "steps": 2}}, **clipped))


def test_cohorts_and_scored_clients_are_of_those_that_train() -> None:
    # four of six are left
    config(**document(0.3, cohort=4, evaluate={"clients": 4}))
    with pytest.raises(ConfigError, match=r"cohort: .*at most 4, the clients of the problem"):
        config(**document(0.3, cohort=5))
    with pytest.raises(ConfigError, match=r"evaluate.clients: .*at most 4, the clients that train"):
        config(**document(0.3, evaluate={"clients": 5}))
    attack = {"attack": {"name": "sign_flip"}, "clients": 4}
    with pytest.raises(ConfigError, match=r"byzantine.clients: .*at most 3 of 4 clients"):
        config(**document(0.3, byzantine=attack))


def test_a_document_is_not_changed() -> None:
    given = document(0.25)
    before = copy.deepcopy(given)
    config(**given)
    assert given == before
