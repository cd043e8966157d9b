"""Files that a configuration names, and configurations themselves: an error, or another digest and what they say.

`python -m tests.fuzz.data --flips 20000 --seed 1` damages as many of each kind.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from string import ascii_lowercase

import h5py
import numpy as np
import yaml

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import Config, load
from ppfl.core.errors import UserError
from ppfl.runs.assemble import build
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests import examples
from tests.fuzz.harness import Kind, main

_CONFIG = "config.yaml"
_DIGEST = "digest.txt"
_READER = """\
name: fuzz
rounds: 4
problem:
  name: supervised
  dataset: DATASET
  model: {name: logistic_regression}  # weights and biases
  split: {local: ["head.bias"]}
  batch_size: all
algorithm: {name: ffgg, lr: 0.1, fine_tuner: {name: sgd, lr: 0.1, batch_size: all}}
"""
_SUPERVISED = _READER.replace("DATASET", "{name: federated_hdf5, train: data.h5}")
_TEXTS = """\
name: fuzz
rounds: 4
problem:
  name: supervised
  dataset: {name: text_hdf5, train: data.h5, unit: characters, length: 8}
  model: {name: lstm, embedding: 1, hidden: 1, layers: 1}
  task: {name: next_token}
  split: {local: ["head.bias"]}
  batch_size: all
algorithm: {name: ffgg, lr: 0.1, fine_tuner: {name: sgd, lr: 0.1, batch_size: all}}
"""
_NAMED = _SUPERVISED.replace("train: data.h5", "train: data.h5, test: data.h5, clients: {names: names.txt}")
_COUNTED = _TEXTS.replace("train: data.h5, unit: characters", "train: data.h5, test: data.h5, unit: words").replace(
    "length: 8", "field: snippets, length: 4, counts: counts.txt"
)
_FFGG = "algorithm: {name: ffgg, lr: 0.01, fine_tuner: {name: gradient_descent, lr: 0.01, steps: 1}}\n"
_QUADRATIC = f"name: fuzz\nrounds: 4\nproblem: {{name: quadratic, file: data.h5}}\n{_FFGG}"
_ARRIVALS = f"""\
name: fuzz
rounds: 16
problem: {{name: quadratic, generator: comparison, clients: 4, shared_dimension: 2, local_dimension: 1, rows: 3}}
{_FFGG}evaluate: {{every: 16}}
"""
_RECORDED = "asynchronous: {engine: virtual}\ncompute_times: {name: exponential}\n"
_TRACED = "asynchronous: {engine: virtual}\ncompute_times: {name: trace, file: data.h5}\n"
_REPLAYED = "asynchronous: {engine: virtual, replay: data.h5}\n"
_LOST = "network: {name: constant, latency_seconds: 0.1, drop_out: 0.3, timeout_seconds: 5.0}\n"
_LINKS = "network: {name: trace, file: data.h5}\n"
_NODES = """\
name: fuzz
rounds: 2
problem: {name: quadratic, generator: comparison, clients: 4, shared_dimension: 2, local_dimension: 1, rows: 3}
algorithm: {name: dsgd, lr: 0.01, fine_tuner: {name: gradient_descent, lr: 0.01, steps: 1}}
gossip: {graph: {name: file, path: graph.txt, entries: weights}}
"""


def _federated(libver: str, **stored: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        rng = np.random.default_rng(0)
        with h5py.File(folder / "data.h5", "w", libver=libver) as file:
            for name in ("ada", "bob", "cyd"):
                file.create_dataset(f"examples/{name}/pixels", data=rng.random((6, 3, 2)), **stored)
                file.create_dataset(f"examples/{name}/label", data=rng.integers(0, 3, 6), **stored)
        return _described(folder, _SUPERVISED)

    return make


def _flat(libver: str, names: np.dtype, **stored: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        rng = np.random.default_rng(0)
        with h5py.File(folder / "data.h5", "w", libver=libver) as file:
            file.create_dataset("pixels", data=rng.random((18, 3, 2)), **stored)
            file.create_dataset("label", data=rng.integers(0, 3, 18), **stored)
            file.create_dataset("offsets", data=np.array([0, 5, 11, 18]), **stored)
            file.create_dataset("client", data=np.array(["ada", "bob", "cyd"], names), **stored)
        return _described(folder, _SUPERVISED)

    return make


def _texts(dtype: np.dtype, libver: str = "earliest", **stored: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with h5py.File(folder / "data.h5", "w", libver=libver) as file:
            for name in ("ada", "bob", "cyd"):
                texts = [f"{name} is here".encode(), "so is café".encode(), name.encode()]
                file.create_dataset(f"examples/{name}/snippets", data=texts, dtype=dtype, **stored)
        return _described(folder, _TEXTS)

    return make


def _named(folder: Path) -> Path:
    """Clients of one letter: a letter for another is somebody else."""
    with h5py.File(folder / "data.h5", "w") as file:
        for name in ascii_lowercase:
            file[f"examples/{name}/pixels"], file[f"examples/{name}/label"] = np.ones((4, 3, 2)), [0, 1, 2, 0]
    (folder / "names.txt").write_text('test_ids\nf\n"u"\nz\nz\ne\nd\n')
    return _described(folder, _NAMED, "names.txt")


def _counted(folder: Path) -> Path:
    _texts(h5py.string_dtype())(folder)
    (folder / "counts.txt").write_text("is 9\nhere 7\nso 7\nada 1\n")
    return _described(folder, _COUNTED, "counts.txt")


def _quadratic(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    with h5py.File(folder / "data.h5", "w") as file:
        for name, stored in (("ada", {}), ("bob", {"compression": "gzip"})):
            for field, shape in {"H": (3, 2), "b": (3,), "A": (4, 2), "B": (4, 1), "y": (4,)}.items():
                file.create_dataset(f"clients/{name}/{field}", data=rng.random(shape), **stored)
    return _described(folder, _QUADRATIC)


def _example(name: str, file: str) -> Callable[[Path], Path]:
    """Make what the example of a data set names, and return one of its files."""

    def make(folder: Path) -> Path:
        shutil.copytree(examples.files("datasets", name), folder, dirs_exist_ok=True)
        section = examples.section("datasets", name)
        template = _TEXTS if section.get("unit") else _READER
        document = yaml.safe_load(template.replace("DATASET", "{}"))
        document["problem"]["dataset"] = {key: _plain(value) for key, value in section.items()}
        return _described(folder, yaml.safe_dump(document)).with_name(file)

    return make


def _parquet(folder: Path) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    words, labels = rng.choice(["clerk", "farmer"], 40), rng.integers(0, 3, 40)
    table = pa.table({"age": rng.random(40), "work": words, "label": labels})
    parquet.write_table(table, folder / "data.h5", compression="gzip")
    dataset = "{name: table, train: data.h5, label: label, categorical: [work], partition: {name: iid, clients: 3}}"
    return _described(folder, _READER.replace("DATASET", dataset))


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _bandwidths(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    with h5py.File(folder / "data.h5", "w") as file:
        file["up_bits_per_second"] = draw.uniform(1e4, 1e5, (4, 16))
    return _described(folder, _ARRIVALS + _LINKS)


def _weights(folder: Path) -> Path:
    ring = 0.5 * np.eye(4) + 0.25 * (np.eye(4)[[1, 2, 3, 0]] + np.eye(4)[[3, 0, 1, 2]])
    np.savetxt(folder / "graph.txt", ring, fmt="%.2f")
    return _described(folder, _NODES, "graph.txt")


def _recorded(text: str, network: str = "") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / _CONFIG).write_text(_ARRIVALS + _RECORDED + network)
        run(load(folder / _CONFIG), folder / "data.h5", Silent(), SoloCommunicator())
        return _described(folder, _ARRIVALS + text)

    return make


def _described(folder: Path, text: str, name: str = "data.h5") -> Path:
    """Write the configuration, and the digest that it has as long as nothing is damaged; return the data file."""
    (folder / _CONFIG).write_text(text)
    (folder / _DIGEST).write_text(load(folder / _CONFIG).digest)
    return folder / name


def _configuration(folder: Path) -> Path:
    return _federated("earliest")(folder).with_name(_CONFIG)


def _check_data(file: Path) -> str:
    return _outcome(file.parent, lambda config: build(config, SoloCommunicator()))


def _check_configuration(file: Path) -> str:
    return _outcome(file.parent, lambda config: config.to_yaml())


def _outcome(folder: Path, use: Callable[[Config], object]) -> str:
    """Read what `ppfl run` reads before its first round."""
    try:
        config = load(folder / _CONFIG)
        use(config)
    except UserError as error:
        return f"refused: {error.lines[0]}"
    return "equal" if config.digest == (folder / _DIGEST).read_text() else "other digest"


_DATA = ("refused", "other digest")

KINDS = (
    Kind("federated", _federated("earliest"), _check_data, _DATA),
    Kind("federated, chunks", _federated("latest", compression="gzip", fletcher32=True), _check_data, _DATA),
    Kind("federated, flat", _flat("earliest", h5py.string_dtype(length=3)), _check_data, _DATA),
    Kind("federated, flat, chunks", _flat("latest", h5py.string_dtype(), compression="gzip"), _check_data, _DATA),
    Kind("texts", _texts(h5py.string_dtype()), _check_data, _DATA),
    Kind("texts, chunks", _texts(h5py.string_dtype(), compression="gzip"), _check_data, _DATA),
    Kind("texts, latest", _texts(h5py.string_dtype(), "latest", chunks=(2,), shuffle=True), _check_data, _DATA),
    Kind("texts of fixed length", _texts(h5py.string_dtype(length=12), compression="gzip"), _check_data, _DATA),
    Kind("names of clients", _named, _check_data, _DATA),
    Kind("counts of words", _counted, _check_data, _DATA),
    # whatever reads samples, by its example: one kind for each file that it names
    *(
        Kind(f"{name}, {file.name}", _example(name, file.name), _check_data, _DATA)
        for name in examples.names("datasets")
        for file in sorted(examples.files("datasets", name).iterdir())
    ),
    *([Kind("table, Parquet", _parquet, _check_data, _DATA)] if find_spec("pyarrow") else []),
    Kind("quadratic", _quadratic, _check_data, _DATA),
    Kind("trace", _recorded(_TRACED), _check_data, _DATA),
    Kind("replay", _recorded(_REPLAYED), _check_data, _DATA),
    Kind("replay of losses", _recorded(_REPLAYED, _LOST), _check_data, _DATA),
    Kind("bandwidths", _bandwidths, _check_data, _DATA),
    Kind("weights of a graph", _weights, _check_data, _DATA),
    # a name or a comment may be any text
    Kind("configuration", _configuration, _check_configuration, (*_DATA, "equal")),
)

if __name__ == "__main__":
    main("tests.fuzz.data")
