"""Every algorithm on a small quadratic problem and on digits, with the settings of its example."""

from __future__ import annotations

from typing import Any

from ppfl.interfaces.gossip import Gossip
from tests import examples
from tests.engine.build import config, engine

Section = dict[str, Any]

QUADRATIC = examples.section("problems", "quadratic")
DIGITS = {key: value for key, value in examples.section("problems", "supervised").items() if key != "split"}
NAMES = examples.names("algorithms")
PROBLEMS = ("quadratic", "digits")
_SGD: Section = {"name": "sgd", "lr": 0.1, "batch_size": 6}
ADAPTORS: Section = {
    "local": ["floral.router", "head.*"], "floral": {"adaptors": 2, "layers": ["*"], "rank": 2}
}  # fmt: skip
"""Of networks, those of the head local. Without adaptors, as on the quadratic problem, `floral` sends no weights."""


def splits_of(name: str) -> str:
    """Return which splits an algorithm is made for."""
    found: str = examples.kind("algorithms", name).splits
    return found


def is_gossip(name: str) -> bool:
    """Say whether its clients are nodes of a graph, all of whom take part."""
    return issubclass(examples.kind("algorithms", name), Gossip)


def cohorts_of(name: str) -> tuple[str | int, ...]:
    """Return cohorts that it can have: all, and two clients where it can."""
    return ("all",) if is_gossip(name) else ("all", 2)


def split_of(name: str, problem: str) -> Section:
    """Return a split that the algorithm accepts."""
    if name == "floral" and problem == "digits":
        return ADAPTORS
    if splits_of(name) == "all shared":
        return {"local": []}
    if splits_of(name) == "input side":
        return {"local": ["theta" if problem == "quadratic" else "hidden1.*"]}
    return {"local": ["w" if problem == "quadratic" else "head.*"]}


def settings_of(name: str, problem: str) -> Section:
    """Return the example: on the quadratic problem with steps by theory, on digits in mini-batches where it can."""
    settings = examples.section("algorithms", name)
    if problem == "quadratic":
        return _by_theory("algorithms", settings)
    if "fine_tuner" in settings:
        tuner = settings["fine_tuner"]
        settings["fine_tuner"] = {**_SGD, **{key: tuner[key] for key in ("start",) if key in tuner}}
    batched = {key: value for key, value in settings.items() if key != "local_steps"} | {"epochs": 1, "batch_size": 5}
    return batched if examples.accepts("algorithms", name, batched) else settings


def _by_theory(folder: str, settings: Section) -> Section:
    for key in settings:
        changed = {**settings, key: "theory"}
        if key != "name" and examples.accepts(folder, settings["name"], changed):
            settings = changed
    if "fine_tuner" in settings:
        settings["fine_tuner"] = _by_theory("fine_tuners", settings["fine_tuner"])
    return settings


def sections(name: str, problem: str, **others: Any) -> Section:
    """Return the sections of a configuration in which an algorithm works on a problem."""
    base = QUADRATIC if problem == "quadratic" else DIGITS
    if is_gossip(name):
        others = {"gossip": {"graph": {"name": "ring"}}, **others}
    return {
        "problem": {**base, "split": split_of(name, problem)},
        "algorithm": settings_of(name, problem),
        "rounds": 4,
        **others,
    }


def quadratic(name: str, local: list[str], **others: Any) -> Any:
    """Return an engine on the small quadratic problem; `others` are the algorithm's settings and whole sections."""
    keys = set(type(config()).model_fields)
    settings = {key: value for key, value in others.items() if key not in keys}
    document = {key: value for key, value in others.items() if key in keys}
    problem = {**QUADRATIC, **document.pop("problem", {}), "split": {"local": local}}
    return engine(problem=problem, algorithm={"name": name, **settings}, **document)
