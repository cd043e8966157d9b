"""What a rank of a run needs in memory, estimated from the configuration before anything is computed.

The parts are those of benchmarks/rank_memory.md, where estimates stand beside measured peaks: a process with Python,
torch and MPI; the data of a rank; the states of its clients where they are kept; θ and what is made of it in a round.
What saving needs is a bounded buffer, and within the margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from ppfl.config.scope import origins_in
from ppfl.core.errors import UserError
from ppfl.interfaces.byzantine import adds_up
from ppfl.interfaces.centralized import FilesDataset
from ppfl.interfaces.cohort_size import cohort_size
from ppfl.interfaces.method import Algorithm
from ppfl.interfaces.personal_aggregates import PersonalAggregates
from ppfl.networks.pieces import CPU
from ppfl.runs.needs import VECTORS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ppfl.config.run import Config
    from ppfl.interfaces.data_hdf5 import DataArray, DataGroup

Found = TypeVar("Found")

MIB = 1 << 20
_PROCESS_BYTES = 320 * MIB
"""Python, torch, MPI, and the light process beside a rank."""
_COMPILER_BYTES = 120 * MIB
"""Numba and LLVM, which multiply quadratics (`ppfl.core.matvec`)."""
_SCIKIT_BYTES = 90 * MIB
"""scikit-learn, which brings the digits."""
_GPU_BYTES = 3072 * MIB
"""What CUDA may take of the host: on the safe side, not measured."""
_STATES = 2
"""How often the states of all clients of a rank are there: kept, and as much again of memory around them."""
_VECTORS_LOOKED_AT = 2
"""How often those that a rule or attackers look at are there: as sent, and as attackers have changed them."""
_BODY_BYTES = 64 * MIB
"""What images are turned into on their way through the body, a piece at a time."""
_LOGITS, _LOGITS_SCORED = 5, 3
"""How often the logits of tokens are there while training, as they are, in the loss, and on the way back; and while
scoring, a piece at a time."""
_MARGIN = 1.25
_ROUND_UP = 50
_LOOK_AT = 100
"""Clients of a file whose data are looked at; the others are taken to be alike."""
_LOOK_AT_LABELS = 1 << 16
"""Samples of a flat file of which the same is true."""


def memory_mb(configs: Sequence[Config], ranks: int, *, gpus: bool) -> int | None:
    """Return the MiB that each rank needs for any of these runs; None where neither a data file nor ppfl tells."""
    try:
        most = max(_rank_bytes(config, ranks) for config in configs)
    except (OSError, UserError, KeyError, ValueError, IndexError):
        return None  # what is wrong with the file is told by the run, which reads it whole
    return _ROUND_UP * math.ceil((_MARGIN * most + gpus * _GPU_BYTES) / MIB / _ROUND_UP)


def _rank_bytes(config: Config, ranks: int) -> float:
    if config.problem.name == "quadratic":
        return _PROCESS_BYTES + _COMPILER_BYTES + _quadratic_bytes(config.problem, ranks)
    return _PROCESS_BYTES + _supervised_bytes(config, ranks)


def _quadratic_bytes(problem: Any, ranks: int) -> float:
    """Matrices are drawn or read client by client; what is kept has the size of the model, squared."""
    if problem.file is not None:
        # on the safe side: one rank may get all clients that are large, read, copied and as Gram matrices
        return 3.0 * float(problem.file.path.stat().st_size)
    # H and A have the width of θ, B that of w
    width = 2 * problem.shared_dimension + problem.local_dimension
    one = 8 * problem.rows * width
    kept = 8 * (problem.shared_dimension + problem.local_dimension) ** 2
    clients = math.ceil(problem.clients / ranks)
    return float(3 * one + 8 * clients * kept)


def _supervised_bytes(config: Config, ranks: int) -> float:
    problem: Any = config.problem
    if any(key.startswith(("problems/", "datasets/")) for key in origins_in(problem)):
        raise KeyError  # only its author could tell
    if problem.model.parameter_names() is None or problem.dataset.name == "function":
        raise KeyError  # nor what a function takes that somebody wrote
    if isinstance(problem.dataset, FilesDataset):
        raise KeyError  # nor are tables and archives read twice
    sizes = _SIZES[problem.dataset.name](problem.dataset)
    number = 8 if config.precision == "float64" else 4
    stages = problem.stages(sizes.input_shape, sizes.num_classes)
    parameters = {name: math.prod(parameter.shape) for stage in stages for name, parameter in stage.parameters.items()}
    total, parts = sum(parameters.values()), problem.parts_of(stages)
    local, frozen = (sum(parameters[name] for name in names) for names in parts)
    trained = total - frozen
    # a method with a state of its own may keep a vector as long as all that is trained for every client
    keeps_more = type(config.algorithm).init_client is not Algorithm.init_client
    of_client = 0 if config.engine.client_state == "file" else trained if keeps_more else local
    kept = _STATES if config.evaluate.best_round is None else _STATES + 1
    states = kept * math.ceil(sizes.clients / ranks) * of_client * number
    # what a client trains on in every round is kept as it is computed with, else as it is stored
    data = sizes.numbers * (sizes.bytes_a_number + (number if problem.batch_size == "all" else 0))
    rows = max(_LOGITS_SCORED * CPU.rows, _LOGITS * _most_rows(config, sizes))
    body = max(_BODY_BYTES, rows * sizes.logits * number)
    looked_at = _VECTORS_LOOKED_AT * _vectors_looked_at(config, sizes.clients) * (trained - local) / ranks
    vectors = VECTORS * trained + frozen + looked_at
    return float(sizes.library_bytes + body + data / ranks + states + vectors * number)


def _vectors_looked_at(config: Config, num_clients: int) -> int:
    """Return how many vectors the server has at a time, of which each rank keeps its columns: a cohort's, or those of a
    buffer, and of attackers beside them; 0 where their sum is enough."""
    byzantine, rules = config.byzantine, config.asynchronous
    if adds_up(config.aggregator, byzantine) and not isinstance(config.algorithm, PersonalAggregates):
        return 0
    of_clients = cohort_size(config.cohort, num_clients) if rules is None else rules.buffer
    return of_clients + (0 if byzantine is None else byzantine.num_beside)


def _most_rows(config: Config, sizes: _Sizes) -> int:
    """Return how many samples are trained on at a time, at the most."""
    of: list[Any] = [config.problem, config.algorithm]
    tuned, newcomers = config.evaluate.tuned, config.evaluate.newcomers
    of += [getattr(one, "fine_tuner", None) for one in (config.algorithm, tuned, newcomers)]
    batches = [getattr(one, "batch_size", None) or 1 for one in of]
    return max(sizes.most_to_train_on if batch == "all" else batch for batch in batches)


@dataclass(frozen=True)
class _Sizes:
    """What a data set has."""

    clients: int
    input_shape: tuple[int, ...]
    num_classes: int
    """Of tokens how many ids there are."""
    numbers: float
    """Numbers in all samples together."""
    bytes_a_number: int
    library_bytes: int = 0
    logits: int = 0
    """Logits of a sample, where they are many: of each of its tokens, all ids."""
    most_to_train_on: int = 0
    """Samples of the largest client; not asked of images."""


def _digits(dataset: Any) -> _Sizes:
    from ppfl.datasets.digits import Digits

    return _Sizes(dataset.partition.clients, (1, 8, 8), 10, Digits.num_samples * 64, 8, _SCIKIT_BYTES)


def _texts(dataset: Any) -> _Sizes:
    found = dataset.outline(_LOOK_AT)
    # x is int32 and y int64: as much as three numbers of 4 bytes
    numbers = 3 * found.length * found.num_samples
    logits = found.length * found.num_ids
    return _Sizes(found.num_clients, (found.length,), found.num_ids, numbers, 4, 0, logits, found.most_to_train_on)


def _file(dataset: Any) -> _Sizes:
    train = _look_at(dataset.train.path, dataset.label)
    test = None if isinstance(dataset.test, float) else _look_at(dataset.test.path, dataset.label)
    numbers, clients = train.numbers + (test.numbers if test else 0), train.clients
    if (chosen := dataset.clients) is not None:
        clients = chosen.at_most(train.clients)
        numbers *= clients / train.clients
        if chosen.max_samples is not None:
            of_client = (2 if test else 1) * chosen.max_samples * math.prod(train.input_shape)
            numbers = min(numbers, clients * of_client)
    return _Sizes(clients, train.input_shape, train.num_classes, numbers, train.bytes_a_number)


_SIZES = {"digits": _digits, "federated_hdf5": _file, "text_hdf5": _texts}
"""What a data set has, by its name; of others nothing is known."""


@cache
def _look_at(path: Path, label: str) -> _Sizes:
    from ppfl.interfaces.data_hdf5 import open_data

    where = str(path)
    with open_data(path, where) as file:
        if (clients := file.group("examples", where)) is None:
            return _flat(file, label, where)
        names = clients.names()
        # an estimate must not take as long as the job: a file may have a million clients
        seen = [_there(clients.group(name, where)) for name in names[:_LOOK_AT]]
        samples = [_there(client.array("pixels", where) or client.array("image", where)) for client in seen]
        labels = [_there(client.array(label, where)).read() for client in seen]
    numbers = sum(math.prod(one.shape) for one in samples) * len(names) / len(seen)
    classes = 1 + max(int(of_client.max()) for of_client in labels if of_client.size)
    return _sizes(len(names), samples[0], numbers, classes)


def _flat(file: DataGroup, label: str, where: str) -> _Sizes:
    """Return the sizes of a file in the flat layout."""
    samples, labels = _there(file.array("samples", where) or file.array("pixels", where)), file.array(label, where)
    seen = _there(labels).read_rows(0, min(_LOOK_AT_LABELS, samples.shape[0]))
    clients = _there(file.array("client", where)).shape[0]
    return _sizes(clients, samples, math.prod(samples.shape), 1 + int(seen.max()))


def _sizes(clients: int, samples: DataArray, numbers: float, classes: int) -> _Sizes:
    shape = samples.shape[1:]
    channels_first = (shape[2], *shape[:2]) if len(shape) == 3 else (1, *shape) if len(shape) == 2 else shape
    return _Sizes(clients, channels_first, classes, numbers, samples.dtype.itemsize)


def _there(found: Found | None) -> Found:
    """Return what was looked for; its absence is told by the run."""
    if found is None:
        raise KeyError
    return found
