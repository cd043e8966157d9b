"""One configuration gives byte-identical result arrays on 1, 2, 3 and 4 MPI ranks; every method and rule on 1 and 3."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from tests import examples
from tests.aggregators.tables import BEFORE, ON_VECTORS, RULES, settings_for, step
from tests.algorithms.cases import sections

pytestmark = pytest.mark.mpi

QUADRATIC = {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 5, "rows": 200}
DIGITS = {
    "name": "supervised",
    "dataset": {"name": "digits", "partition": {"name": "dirichlet", "clients": 7, "alpha": 0.3}},
    "split": {"local": ["head.*"]},
    "batch_size": 16,
}
PARTIAL = str(Path(__file__).parents[1] / "examples" / "partial")
CG = {"name": "conjugate_gradient", "steps": 3, "start": "redraw"}
GD = {"name": "gradient_descent", "steps": 3, "lr": 0.1}

MOTEF = {"name": "motef", "mixing": 0.3, "momentum": 0.2, "compressor": {"name": "top_k", "share": 0.1}}


def ffgg(lr: object, fine_tuner: dict[str, object]) -> dict[str, object]:
    return {"name": "ffgg", "lr": lr, "fine_tuner": fine_tuner}


def robust_cases() -> dict[str, dict[str, object]]:
    """Every aggregator, each after the next pre-aggregator and up against the next attack on vectors."""
    attacks = [examples.section("attacks", name) for name in ON_VECTORS]
    steps = [step(name, 7) for name in BEFORE]
    cases: dict[str, dict[str, object]] = {}
    for rule, first, attack in zip(RULES, cycle(steps), cycle(attacks), strict=False):
        left = examples.kind("pre_aggregators", first["name"]).model_validate(first).num_outputs(7)
        cases[f"{attack['name']}-{first['name']}-{rule}"] = {
            "problem": QUADRATIC,
            "algorithm": ffgg("theory", CG),
            "aggregator": {"name": rule, **settings_for(rule, left), "before": [first]},
            "byzantine": {"attack": attack, "clients": 2, "placement": "beside"},
        }
    return cases


CASES: dict[str, dict[str, object]] = {
    "quadratic": {"problem": QUADRATIC, "algorithm": ffgg("theory", CG), "precision": "float64"},
    "quadratic-exact": {"problem": QUADRATIC, "algorithm": ffgg("theory", {"name": "exact"}), "precision": "float64"},
    "quadratic-float32": {"problem": QUADRATIC, "algorithm": ffgg("theory", CG)},
    "asynchronous": {
        "problem": QUADRATIC,
        "algorithm": ffgg("theory", CG),
        "precision": "float64",
        "rounds": 40,
        "asynchronous": {
            "engine": "virtual",
            "step": "delay_adaptive",
            "concurrency": 4,
            "buffer": 2,
            "max_staleness": 2,
        },
        "compute_times": {"name": "log_normal", "stragglers": 1, "straggler_factor": 10},
    },
    "asynchronous-attacked": {
        "problem": QUADRATIC,
        "algorithm": ffgg("theory", CG),
        "rounds": 40,
        "aggregator": {"name": "geometric_median", "before": [{"name": "nnm", "f": 1}]},
        "byzantine": {"attack": {"name": "min_max", "direction": "std"}, "clients": 1, "rounds": 0.7},
        "asynchronous": {"engine": "virtual", "step": "delay_adaptive", "buffer": 4, "max_staleness": 2},
        "compute_times": {"name": "log_normal"},
    },
    "digits-asynchronous": {
        "problem": {**DIGITS, "model": {"name": "mlp", "hidden": [32]}},
        "algorithm": ffgg(0.1, GD),
        "server_optimizer": {"name": "momentum"},
        "rounds": 40,
        "asynchronous": {"engine": "virtual"},
        "compute_times": {"name": "pareto"},
    },
    "quadratic-sampled": {"problem": QUADRATIC, "algorithm": ffgg("theory", CG), "cohort": 2, "precision": "float64"},
    "digits": {
        "problem": {**DIGITS, "model": {"name": "mlp", "hidden": [32]}},
        "algorithm": ffgg(0.1, GD),
        "server_optimizer": {"name": "momentum"},
        "weights": "samples",
    },
    "digits-schedules": {
        "problem": {**DIGITS, "model": {"name": "mlp", "hidden": [32]}},
        "algorithm": {
            **ffgg(0.1, {**GD, "lr_schedule": {"name": "linear", "end": 0.2}}),
            "lr_schedule": {"name": "cosine", "warmup": 2},
        },
    },
    "digits-least-squares": {
        "problem": {**DIGITS, "name": "least_squares", "model": {"name": "mlp", "hidden": [32]}},
        "algorithm": ffgg(0.3, {"name": "exact"}),
    },
    "digits-trained": {
        "problem": {
            **DIGITS,
            "model": {"name": "mlp", "hidden": [32, 16], "dropout": 0.2},
            "split": {
                "local": ["*.lora_*"],
                "frozen": ["hidden1.weight", "hidden1.bias"],
                "lora": {"layers": ["hidden1"], "rank": 2},
            },
            "training": {
                "clip_norm": 0.5,
                "weight_decay": 0.01,
                "proximal": 0.01,
                "augmentation": {"crop": 1, "flip": True},
            },
        },
        "algorithm": ffgg(0.1, {"name": "sgd", "lr": 0.1, "epochs": 1, "batch_size": 5}),
        "evaluate": {"every": 2, "tuned": {"epochs": 2}},
    },
    "digits-floral": {
        "problem": {
            **DIGITS,
            "model": {"name": "mlp", "hidden": [16]},
            "split": {
                "local": ["floral.router", "head.*"],
                "floral": {"adaptors": 2, "layers": ["hidden1"], "rank": 2},
            },
        },
        "algorithm": {"name": "floral", "lr": 0.1, "epochs": 1, "batch_size": 10, "router_lr": 0.5},
        "cohort": 3,
    },
    "digits-best-round": {
        "problem": {**DIGITS, "model": {"name": "mlp", "hidden": [32]}},
        "algorithm": ffgg(1.0, {**GD, "lr": 1.0}),
        "rounds": 30,
        "evaluate": {"every": 1, "history": True, "best_round": {"patience": 2}},
    },
    "digits-network": {
        "problem": {**DIGITS, "model": {"name": "mlp", "hidden": [32]}},
        "algorithm": ffgg(0.1, GD),
        "aggregator": {"name": "median"},
        "cohort": 5,
        "rounds": 8,
        "compute_times": {"name": "log_normal"},
        "network": {
            "name": "log_normal",
            "up_bits_per_second": {"low": 1e5, "high": 1e6},
            "jitter_seconds": 0.5,
            "availability": 0.8,
            "drop_out": 0.2,
            "timeout_seconds": 3.0,
        },
    },
    "asynchronous-network": {
        "problem": QUADRATIC,
        "algorithm": ffgg("theory", CG),
        "rounds": 40,
        "asynchronous": {"engine": "virtual", "step": "delay_adaptive", "concurrency": 4},
        "compute_times": {"name": "log_normal"},
        "network": {
            "name": "constant",
            "up_bits_per_second": 1e4,
            "availability": 0.8,
            "drop_out": 0.2,
            "timeout_seconds": 4.0,
        },
    },
    "digits-one-client-a-round": {
        "problem": {**DIGITS, "model": {"name": "mlp", "hidden": [32]}},
        "algorithm": ffgg(0.1, {"name": "sgd", "lr": 0.1, "epochs": 1, "batch_size": 5}),
        "cohort": 1,
    },
    "digits-cnn-float64": {
        "problem": {**DIGITS, "model": {"name": "cnn", "channels": [4, 8], "hidden": 16, "padding": 2}},
        "algorithm": ffgg(0.1, GD),
        "precision": "float64",
        "cohort": 0.5,
    },
    **{
        f"digits-cnn-{precision}": {
            "problem": {**DIGITS, "model": {"name": "cnn", "channels": [4, 16], "hidden": 16, "padding": 2}},
            "algorithm": ffgg(0.1, GD),
            "precision": precision,
            "engine": {"device": "cpu"},
        }
        for precision in ("float32", "bfloat16")
    },
    "partial-training": {
        "problem": QUADRATIC,
        "algorithm": {"name": "partial_training", "lr": 0.1, "local_steps": 2, "shares": [0.3, 1.0, 0.5]},
        "cohort": 3,
        "evaluate": {"every": 2, "reports": ["shared_gradients"]},
        "plugins": [PARTIAL],
    },
    "partial-news-asynchronous": {
        "problem": QUADRATIC,
        "algorithm": {"name": "partial_news", "lr": 0.1, "local_steps": 1, "shares": [0.3, 1.0]},
        "rounds": 40,
        "asynchronous": {"engine": "virtual"},
        "compute_times": {"name": "exponential"},
        "evaluate": {"every": 7, "reports": ["loss_before"]},
        "plugins": [PARTIAL],
    },
    # two ranks and more have columns of their own
    "digits-many-columns": {
        "problem": {**DIGITS, "model": {"name": "mlp", "hidden": [256]}},
        "algorithm": ffgg(0.1, GD),
        "aggregator": {"name": "geometric_median", "before": [{"name": "nnm", "f": 3}]},
        "byzantine": {"attack": {"name": "gaussian", "standard_deviation": 1.0}, "clients": 3, "placement": "among"},
    },
    "quadratic-strategic": {
        "problem": QUADRATIC,
        "algorithm": ffgg("theory", CG),
        "precision": "float64",
        "strategic": {"clients": 2, "scale": 3, "noise": 0.5},
        "evaluate": {"every": 1, "reports": ["squared_norm"]},
    },
    "digits-strategic": {
        "problem": {**DIGITS, "model": {"name": "mlp", "hidden": [32]}},
        "algorithm": ffgg(0.1, GD),
        "aggregator": {"name": "trimmed_mean", "f": 1},
        "strategic": {"clients": 2, "scale": -1, "noise": 0.1},
        "cohort": 5,
    },
    "digits-backdoor": {
        "problem": {**DIGITS, "model": {"name": "mlp", "hidden": [32]}},
        "algorithm": ffgg(0.1, GD),
        "byzantine": {"attack": {"name": "backdoor", "target": 1, "trigger": "own"}, "clients": 3},
    },
    "digits-compressed": {
        "problem": {**DIGITS, "model": {"name": "mlp", "hidden": [32]}},
        "algorithm": ffgg(0.1, GD),
        "aggregator": {"name": "trimmed_mean", "f": 1},
        "compression": {"compressor": {"name": "quantizer", "bits": 3}},
        "cohort": 5,
    },
    "gossip-quadratic": {
        "problem": QUADRATIC,
        "algorithm": {**MOTEF, "lr": 0.001, "fine_tuner": CG},
        "gossip": {"graph": {"name": "erdos_renyi", "probability": 0.6}},
        "precision": "float64",
        "rounds": 20,
    },
    "gossip-digits": {
        "problem": {**DIGITS, "model": {"name": "mlp", "hidden": [32]}},
        "algorithm": {**MOTEF, "lr": 0.1, "fine_tuner": {"name": "sgd", "lr": 0.1, "epochs": 1, "batch_size": 5}},
        "gossip": {"graph": {"name": "ring"}},
    },
    "gossip-choco": {
        "problem": {**DIGITS, "model": {"name": "mlp", "hidden": [32]}, "split": {"local": []}},
        "algorithm": {"name": "choco_sgd", "lr": 0.1, "mixing": 0.3, "compressor": {"name": "top_k", "share": 0.1}},
        "gossip": {"graph": {"name": "star"}},
    },
    "digits-label-flip": {
        "problem": {**DIGITS, "model": {"name": "mlp", "hidden": [32]}},
        "algorithm": ffgg(0.1, GD),
        "byzantine": {"attack": {"name": "label_flip"}, "clients": 3},
    },
}
PLUG_INS: dict[str, dict[str, object]] = {
    **{
        f"{algorithm}-{aggregator}": {
            **sections(algorithm, "quadratic"),
            "precision": "float64",
            "aggregator": {"name": aggregator},
        }
        for algorithm in examples.names("algorithms")
        for aggregator in ("mean", *(() if examples.kind("algorithms", algorithm).needs_mean else ("median",)))
    },
    **robust_cases(),
}
"""Every method and every rule, each in the same engine: on three ranks, of which one has fewer clients than others."""
RANK_COUNTS = (1, 2, 3, 4)
COMPARED = [(count, name) for count in RANK_COUNTS[1:] for name in CASES] + [(3, name) for name in PLUG_INS]
TIMING = {"seconds", "communication_seconds"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("same-bits")
    for name, case in {**CASES, **PLUG_INS}.items():
        config = {"name": name, "seed": 3, "rounds": 6, "evaluate": {"every": 2}, "save": {"local": True}, **case}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    for count in RANK_COUNTS:
        start_ranks(count, folder, {**CASES, **PLUG_INS} if count in (1, 3) else CASES)
    return folder


def start_ranks(count: int, folder: Path, names: Iterable[str]) -> None:
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"
    configs = [str(folder / f"{name}.yaml") for name in names]
    command = [mpiexec, "-n", str(count), sys.executable, "-m", "mpi4py", "-m", "tests.mpi.run_many"]
    root = Path(__file__).parents[2]
    subprocess.run([*command, str(folder / f"ranks-{count}"), *configs], cwd=root, check=True, timeout=600)


def arrays(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def collect(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and name.rsplit("/", 1)[-1] not in TIMING:
            found[name] = node[()]

    with h5py.File(path) as file:
        file.visititems(collect)
    return found


@pytest.mark.parametrize(("count", "name"), COMPARED)
def test_result_arrays_are_byte_identical(results: Path, name: str, count: int) -> None:
    expected, got = (arrays(results / f"ranks-{n}" / f"{name}.h5") for n in (1, count))
    assert expected.keys() == got.keys()
    assert len(expected) > 10
    for key, want in expected.items():
        assert got[key].dtype == want.dtype, key
        if want.dtype == object:
            assert list(got[key].ravel()) == list(want.ravel()), key
        else:
            assert got[key].tobytes() == want.tobytes(), key


@pytest.mark.parametrize(("count", "name"), COMPARED)
def test_parameters_are_byte_identical(results: Path, name: str, count: int) -> None:
    from ppfl.results.parameters import load_local, load_shared

    expected, got = (results / f"ranks-{n}" / f"{name}.h5" for n in (1, count))
    for key, value in load_shared(expected).items():
        assert value.numpy().tobytes() == load_shared(got)[key].numpy().tobytes()
    want, have = load_local(expected), load_local(got)
    assert want.keys() == have.keys()
    for client, params in want.items():
        for key, value in params.items():
            assert value.numpy().tobytes() == have[client][key].numpy().tobytes(), (client, key)


def test_the_seed_changes_the_arrays(results: Path) -> None:
    """The comparison sees differences: another case of the same shape is not equal."""
    one, other = (arrays(results / "ranks-1" / f"{name}.h5") for name in ("quadratic", "quadratic-exact"))
    assert one["rounds/operator_norm"].tobytes() != other["rounds/operator_norm"].tobytes()
