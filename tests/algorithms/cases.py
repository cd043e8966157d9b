"""Settings of every algorithm on a small quadratic problem and on digits; a new algorithm needs a row here."""

from __future__ import annotations

from typing import Any

from tests.engine.build import config, engine

Section = dict[str, Any]

QUADRATIC: Section = {
    "name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 5, "shared_dimension": 6,
    "local_dimension": 4, "rows": 20,
}  # fmt: skip
DIGITS: Section = {
    "name": "supervised",
    "dataset": {"name": "digits", "partition": {"name": "iid", "clients": 6}},
    "model": {"name": "mlp", "hidden": [8]},
    "batch_size": 16,
}

_STEPS: Section = {"lr": "theory", "local_steps": 3}
_EPOCHS: Section = {"lr": 0.1, "epochs": 1, "batch_size": 5}
_GD: Section = {"name": "gradient_descent", "steps": 2, "lr": "theory"}
_SGD: Section = {"name": "sgd", "lr": 0.1, "batch_size": 6}
_INNER: Section = {"penalty": 2.0, "inner_steps": 2}
_COIN: Section = {"penalty": 0.5, "probability": 0.4}

SETTINGS: dict[str, tuple[Section, Section]] = {
    "apfl": ({**_STEPS, "mixing_lr": 0.02}, {**_EPOCHS, "mixing_lr": 0.1}),
    "ditto": ({**_STEPS, "penalty": 0.3}, {**_EPOCHS, "penalty": 0.3}),
    "fedalt": ({**_STEPS, "fine_tuner": _GD}, {**_EPOCHS, "fine_tuner": _SGD}),
    "fedavg": (_STEPS, _EPOCHS),
    "fedbabu": ({**_STEPS, "fine_tuner": _GD}, {**_EPOCHS, "fine_tuner": _SGD}),
    "fedper": (_STEPS, _EPOCHS),
    "fedprox": ({**_STEPS, "penalty": 0.3}, {**_EPOCHS, "penalty": 0.3}),
    "fedrep": ({**_STEPS, "fine_tuner": _GD}, {**_EPOCHS, "fine_tuner": _SGD}),
    "fedsim": (_STEPS, _EPOCHS),
    "ffgg": ({"lr": "theory", "fine_tuner": _GD}, {"lr": 0.1, "fine_tuner": _SGD}),
    "l2gd": ({"lr": "theory", **_COIN}, {"lr": 0.5, **_COIN}),
    "l2gd_theta": ({"lr": "theory", **_COIN}, {"lr": 0.5, **_COIN}),
    "lg_fedavg": (_STEPS, _EPOCHS),
    "local_ffgg": (
        {**_STEPS, "fine_tuner": {**_GD, "start": "redraw"}},
        {"lr": 0.1, "local_steps": 2, "fine_tuner": {**_SGD, "start": "redraw"}},
    ),
    "local_gd": (_STEPS, {"lr": 0.1, "local_steps": 3}),
    "local_only": (_STEPS, _EPOCHS),
    "pfedme": ({**_STEPS, "inner_lr": "theory", **_INNER}, {**_EPOCHS, "inner_lr": 0.1, **_INNER}),
    "scaffold": (_STEPS, _EPOCHS),
    "scaffold_theta": (_STEPS, _EPOCHS),
}
"""{name: (on the quadratic problem, on digits)}."""

EVERYTHING_SHARED = {"apfl", "ditto", "fedavg", "fedprox", "l2gd", "local_gd", "pfedme"}
NAMES = sorted(SETTINGS)
PROBLEMS = ("quadratic", "digits")


def split_of(name: str, problem: str) -> Section:
    """Return a split that the algorithm accepts."""
    if name in EVERYTHING_SHARED:
        return {"local": []}
    if name == "lg_fedavg":
        return {"local": ["theta" if problem == "quadratic" else "hidden1.*"]}
    return {"local": ["w" if problem == "quadratic" else "head.*"]}


def sections(name: str, problem: str, **others: Any) -> Section:
    """Return the sections of a configuration in which an algorithm works on a problem."""
    settings = SETTINGS[name][PROBLEMS.index(problem)]
    base = QUADRATIC if problem == "quadratic" else DIGITS
    return {
        "problem": {**base, "split": split_of(name, problem)},
        "algorithm": {"name": name, **settings},
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
