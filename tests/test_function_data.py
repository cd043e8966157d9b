"""`dataset: {name: function, from: …}`: what a function may return for clients, and what is refused, with its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.agree import SharedUserError
from ppfl.core.plugins import discover
from ppfl.datasets import _returned
from ppfl.interfaces.dataset import FederatedSamples
from ppfl.interfaces.placement import Placement
from tests.ranks import on_ranks
from tests.test_dataset_properties import bits, known_to_all

HERE = Placement(SoloCommunicator(), 3, 3, torch.float64, torch.device("cpu"))
START = "import numpy as np\n\n\ndef build():\n    "
Load = Callable[..., FederatedSamples]


Make = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return what makes the data set of a body of a function."""

    def made(body: str, **keys: Any) -> Any:
        (tmp_path / "my_data.py").write_text(START + body, encoding="utf-8")
        section = {"name": "function", "from": "my_data:build", **keys}
        return discover("ppfl.datasets")["function"].model_validate(section, context={"folder": tmp_path})

    return made


@pytest.fixture
def load(make: Make) -> Load:
    """Return what loads it."""

    def loaded(body: str, **keys: Any) -> FederatedSamples:
        found: FederatedSamples = make(body, **keys).load(HERE, 1)
        return found

    return loaded


def refusal(load: Load, body: str, **keys: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        load(body, **keys)
    (error,) = caught.value.errors()
    return f"{error['ctx']['where']}: {error['msg']}"


FROM_FILE = "from pathlib import Path; f = np.load(Path(__file__).with_name('a.npz')); names = 'b', 'a', 'c'; "
WHOLE = FROM_FILE + "return {n: (f[n + 'x'], f[n + 'y']) for n in names}"
TESTED = (
    FROM_FILE + "return {n: {'train': (f[n + 'x'], f[n + 'y']), 'test': (f[n + 'x'][:n < 'c'], f[n + 'y'][:n < 'c'])}"
    " for n in names}"
)


@pytest.mark.parametrize("clients_per_chunk", [1, 2])
@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize(
    ("shape", "dtype", "labels"),
    [
        ((6,), "f4", "i4"), ((6,), "<f8", "u1"), ((6,), ">f8", ">i2"), ((5, 4), "u1", "i8"), ((5, 4, 3), "u1", "i8"),
        ((5, 4, 3), "f4", "i8"), ((6,), "f4", "f4"), ((6,), "f2", "f8"),
    ],
)  # fmt: skip
def test_the_same_arrays_in_a_file_are_the_same_data(
    tmp_path: Path, make: Make, shape: tuple[int, ...], dtype: str, labels: str, num_ranks: int, clients_per_chunk: int
) -> None:
    draw, arrays = np.random.default_rng(0), {}
    for name, size in (("b", 11), ("a", 24), ("c", 17)):
        arrays[name + "x"] = (draw.random((size, *shape)) * 200).astype(dtype)
        arrays[name + "y"] = draw.integers(0, 9, size).astype(labels)
    np.savez(tmp_path / "a.npz", **arrays)
    for part in ("train", "test"):
        with h5py.File(tmp_path / f"{part}.h5", "w") as file:
            for name in ("a", "b", "c"):
                rows = slice(None if part == "train" else int(name < "c"))
                file[f"examples/{name}/pixels"], file[f"examples/{name}/label"] = (
                    arrays[name + field][rows] for field in "xy"
                )
    for body, keys in ((WHOLE, {"test": 0.3}), (TESTED, {"test": "test.h5"})):
        section = {"name": "federated_hdf5", "train": "train.h5", "validation": 0.2, **keys}
        file: Any = discover("ppfl.datasets")["federated_hdf5"].model_validate(section, context={"folder": tmp_path})
        function = make(body, validation=0.2, **{key: value for key, value in keys.items() if value != "test.h5"})

        def both(communicator: Any, function: Any = function, file: Any = file) -> Any:
            where = Placement(communicator, 3, 3, torch.float64, torch.device("cpu"))
            return [dataset.load(where, clients_per_chunk) for dataset in (function, file)]

        for of_function, of_file in on_ranks(num_ranks, both):
            assert of_function.clients == of_file.clients
            for one, other in zip(known_to_all(of_function)[:4], known_to_all(of_file)[:4], strict=True):
                assert one == other
            for client in of_file.clients:
                assert bits(of_function.samples[client]) == bits(of_file.samples[client])


def test_parts_that_are_not_returned_are_cut_from_the_training_samples(load: Load) -> None:
    sizes = {
        "(x, y)": (14, 2, 4),
        "{'train': (x, y)}": (14, 2, 4),
        "{'train': (x, y), 'test': (x[:3], y[:3])}": (18, 2, 3),
        "{'train': (x, y), 'validation': (x[:5], y[:5])}": (16, 5, 4),
        "{'test': (x[:3], y[:3]), 'validation': ([], []), 'train': (x, y)}": (20, 0, 3),
    }
    for client, expected in sizes.items():
        data = load(f"x, y = np.arange(40.0).reshape(20, 2), np.arange(20); return [{client}]")
        of_client = data.samples[0]
        assert tuple(len(part) for part in of_client) == expected
        assert (data.num_train_samples, data.num_validation_samples, data.num_test_samples) == tuple(
            (size,) for size in expected
        )
        for part in of_client:
            assert np.array_equal(part.x, np.stack([2 * part.y, 2 * part.y + 1], axis=1))
    assert load("return [(np.ones((9, 2)), np.zeros(9))]", test=0.5, validation=0.0).num_test_samples == (4,)


def test_clients_of_a_list_are_called_by_their_numbers(load: Load) -> None:
    data = load("return [([[c / 2]] * 2, [c, c]) for c in range(11)]")
    assert data.client_names == tuple(f"{client:02d}" for client in range(11))
    assert [data.samples[client].train.y[0] for client in data.clients] == [*range(11)]


def test_clients_of_a_mapping_come_in_the_order_of_their_names(load: Load) -> None:
    data = load("return {'z': ([[2.0]], [2]), 'é': ([[3.0]], [3]), 'a': ([[1.0]], [1])}")
    assert data.client_names == ("a", "z", "é")
    assert [data.samples[client].train.x.item() for client in data.clients] == [1, 2, 3]


def test_what_can_be_an_array_is_one(load: Load) -> None:
    body = "import torch; return {'a': (torch.ones(4, 3), torch.arange(4)), 'b': ([[1.0]] * 0, [])}"
    data = load(body, validation=0.0, test=0.0)
    assert data.samples[0].train.x.dtype == np.float32
    assert data.num_train_samples == (4, 0)
    assert data.samples[1].train.x.shape == (0, 3)


def test_what_is_kept_is_a_copy(load: Load, tmp_path: Path) -> None:
    body = "build.x = np.ones((4, 2)); return [(build.x, np.zeros(4, int))]\n\n\ndef later():\n    build.x[:] = 7\n"
    load(body)
    from ppfl.core.source_function import SourceFunction

    SourceFunction.find("my_data:later", tmp_path).load()()
    assert (load(body).samples[0].train.x == 1).all()


def test_uint8_stays_uint8_and_is_divided_when_it_is_used(load: Load) -> None:
    data = load("return [(np.full((4, 5, 6, 3), 255, np.uint8), np.zeros(4, int))]")
    assert data.samples[0].train.x.dtype == np.uint8
    assert (data.divisor, data.input_shape) == (255.0, (3, 5, 6))


def test_labels_may_be_numbers(load: Load) -> None:
    data = load("return [(np.ones((4, 2)), np.full((4, 3), 0.5, np.float32))]")
    assert data.label_shape == (3,)
    assert data.samples[0].train.y.dtype == np.float64


@pytest.mark.parametrize("labels", ["x[:, 1:]", "x[:, 1:, None][..., 0]", "x[:, 0]"])
def test_samples_may_be_tokens(load: Load, labels: str) -> None:
    data = load(f"x = np.arange(12, dtype=np.uint8).reshape(4, 3); return [(x[:, :2], {labels})]", vocabulary=12)
    assert (data.vocabulary_size, data.input_shape, data.divisor) == (12, (2,), 1.0)
    assert data.label_shape == (() if labels == "x[:, 0]" else (2,))


OK = "(np.ones((3, 2)), [0, 1, 2])"
WRONG: dict[str, tuple[str, str]] = {
    "nothing": ("return None", "returned a NoneType; allowed: {name: client}, or a list of clients"),
    "no client": ("return {}", "returned no client"),
    "no client in a list": ("return []", "returned no client"),
    "one client alone": (
        "return np.ones((3, 2)), np.zeros(3)", "client '0': is a ndarray; allowed: (x, y), or {train: (x, y), test"
    ),
    "numbers as names": (f"return {{3: {OK}}}", "a client is called 3; allowed: a printable text that is not empty"),
    "no name": (f"return {{'': {OK}}}", "a client is called ''"),
    "a name with a zero": (f"return {{'a\\0': {OK}}}", "a client is called 'a\\x00'"),
    "a name that is no text": (f"return {{'a\\udcff': {OK}}}", "a client is called 'a\\udcff'"),
    "no pair": ("return {'a': (np.ones((3, 2)),)}", "client 'a': is a tuple of 1; allowed: (x, y)"),
    "no training part": (f"return {{'a': {{'test': {OK}}}}}", "client 'a': has no train; allowed: (x, y), or {train"),
    "another part": (f"return {{'a': {{'train': {OK}, 'val': {OK}}}}}", "client 'a': has 'val'; allowed: "),
    "a part that is no pair": ("return {'a': {'train': 3}}", "client 'a', train: is a int; allowed: (x, y)"),
    "parts of some clients": (
        f"return {{'a': {{'train': {OK}, 'test': {OK}}}, 'b': {OK}}}",
        "client 'b': has train, client 'a' train, test; allowed: the same parts of all clients",
    ),
    "no sample": ("return {'a': ([], []), 'b': ([], [])}", "no client has a sample"),
    "other numbers": ("return {'a': (np.ones((3, 2)), [0, 1])}", "client 'a': 3 x but 2 labels"),
    "no samples axis": ("return {'a': (np.ones(3), [0, 1, 2])}", "client 'a', train: x have shape (3,); allowed: "),
    "a number": ("return {'a': (3.0, [0])}", "client 'a': x is float64 of shape (); allowed: integers or floating"),
    "empty samples": ("return {'a': (np.ones((3, 0)), [0, 1, 2])}", "client 'a', train: x have shape (3, 0)"),
    "too many axes": ("return {'a': (np.ones((3, 2, 2, 2, 2)), [0, 1, 2])}", "x have shape (3, 2, 2, 2, 2); allowed"),
    "texts": ("return {'a': (np.ones((1, 2)), ['cat'])}", "client 'a': label is <U3 of shape (1,); allowed: "),
    "objects": ("return {'a': ([[1.0, None]], [1])}", "client 'a': x is object of shape (1, 2)"),
    "ragged rows": ("return {'a': ([[1.0], [1.0, 2.0]], [1, 2])}", "client 'a': x cannot be made an array: ValueError"),
    "booleans": ("return {'a': (np.ones((1, 2), bool), [1])}", "client 'a': x is bool"),
    "missing values": (
        "return {'a': (np.ma.masked_equal([[1.0, 2.0]], 2), [1])}", "client 'a': x has missing values"
    ),
    "integers": ("return {'a': (np.ones((1, 2), int), [1])}", "x are int64; allowed are uint8 and floating point"),
    "labels of two axes": ("return {'a': (np.ones((1, 2)), [[1, 2]])}", "label is int64 of shape (1, 2); it must hold"),
    "other shapes": (
        f"return {{'a': {OK}, 'b': (np.ones((1, 3)), [0])}}",
        "client 'b', train: x are float64 of shape (3,) a sample, elsewhere float64 of shape (2,); they must agree",
    ),
    "other numbers of bytes": (
        f"return {{'a': {OK}, 'b': (np.ones((1, 2), np.float32), [0])}}", "client 'b', train: x are float32 of shape"
    ),
    "other labels": (
        f"return {{'a': {OK}, 'b': (np.ones((1, 2)), [0.5])}}", "client 'b', train: labels are floating point of shape"
    ),
    "another test part": (
        f"return {{'a': {{'train': {OK}, 'test': (np.ones((1, 5)), [0])}}}}", "client 'a', test: x are float64 of"
    ),
    "a negative label": (
        f"return {{'a': {OK}, 'b': ([], []), 'c': (np.ones((2, 2)), [0, -1])}}",
        "client 'c', train: a label is -1; allowed are 0 to 65535",
    ),
    "a label that is none": (
        "return {'b': (np.ones((2, 2)), [0, 2**40]), 'c': ([], [])}",
        "client 'b', train: a label is 1099511627776; allowed are 0 to 65535",
    ),
    "a failure": ("return 1 / 0", "my_data.py: line 5: ZeroDivisionError: division by zero"),
    "an end": ("raise SystemExit('enough')", "my_data.py: line 5: SystemExit: enough"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_samples_of_clients_is_refused_with_its_place(load: Load, case: str) -> None:
    body, expected = WRONG[case]
    said = refusal(load, body)
    assert said.startswith("from: a function that returns samples of clients; ")
    assert expected in said
    assert "\n" not in said
    assert case in ("a failure", "an end") or "my_data.py, build" in said


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ("np.ones((2, 3)), [0, 1]", "x are float64 of shape (3,) a sample; with `vocabulary` they are integers"),
        ("np.ones((2, 3, 1), int), [0, 1]", "x are int64 of shape (3, 1) a sample"),
        (
            "np.ones((2, 3), int), np.ones((2, 2), int)",
            "label is int64 of shape (2,) a sample; with `vocabulary` it",
        ),
        (
            "np.ones((2, 3), int), [0.5, 1.0]",
            "label is float64 of shape () a sample; with `vocabulary` it",
        ),
        ("[[0, 1], [2, 5]], [0, 1]", "client '0', train: a token is 5; allowed are 0 to 4"),
        ("[[0, 1], [2, -1]], [0, 1]", "client '0', train: a token is -1; allowed are 0 to 4"),
        ("[[0, 1], [2, 4]], [[0, 1], [2, 7]]", "client '0', train: a label is 7; allowed are 0 to 4"),
    ],
)
def test_tokens_that_are_none(load: Load, arrays: str, expected: str) -> None:
    assert expected in refusal(load, f"return [({arrays})]", vocabulary=5)


@pytest.mark.parametrize("bad", ["np.nan", "-np.inf", "1e39"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_numbers_that_no_run_can_use(make: Make, bad: str, part: str) -> None:
    body = (
        f"good, x = np.ones((4, 2)), np.ones((4, 2)); x[2, 1] = {bad}; y = [0, 1, 0, 1]\n"
        f"    return {{n: {{'train': (x if n + '{part}' == 'btrain' else good, y), "
        f"'test': (x if n + '{part}' == 'btest' else good, y)}} for n in 'abc'}}"
    )

    dataset = make(body)

    def refused(communicator: Any) -> str:
        where = Placement(communicator, 0, 0, torch.float32, torch.device("cpu"))
        with pytest.raises(SharedUserError) as caught:
            dataset.load(where, 1)
        return str(caught.value)

    for said in on_ranks(2, refused):
        assert said.startswith("problem.dataset.from: ")
        assert f"client 'b': 1 of its 4 {part} samples have NaN, inf or a number beyond" in said
    if bad == "1e39":
        assert dataset.load(HERE, 1).num_train_samples == (4, 4, 4)


def test_memory_is_asked_for_before_it_is_taken(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "return {'a': (np.broadcast_to(1.0, (10**12, 100)), np.broadcast_to(np.int8(1), 10**12))}"
    monkeypatch.setattr(_returned, "free_host_bytes", lambda: 2.0**30)
    assert "train samples take 752508.6 GiB; 1.0 GiB are free" in refusal(load, body)


def test_settings_that_say_another_thing_than_the_function(load: Load) -> None:
    tested = f"return [{{'train': {OK}, 'test': {OK}}}]"
    assert refusal(load, tested, test=0.5) == "test: null, since build returns test samples"
    assert refusal(load, f"return [{OK}]", test=0.5, validation=0.5) == "validation: less than 1 − test = 0.5"
    assert load(tested, validation=0.9).num_test_samples == (3,)
    assert "build: got an unexpected keyword argument 'size'" in refusal(load, tested, arguments={"size": 3})
    with pytest.raises(ValidationError, match="Extra inputs"):
        load(tested, returned="of another function")


def test_a_process_that_the_function_forks_is_no_second_run(load: Load) -> None:
    found = load(
        "import os, warnings\n"
        "    warnings.simplefilter('ignore')  # of forks beside threads\n"
        "    child = os.fork()\n"
        "    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 0\n"
        "    return {'a': (np.full((9, 2), float(code)), [0, 1, 1] * 3)}"
    )
    assert (found.samples[0].train.x == 2).all()  # the child came back, and was ended


def test_whatever_the_function_raises_is_told_with_its_line(load: Load) -> None:
    body = "class Odd(BaseException):\n        pass\n    raise Odd('so')"
    assert "line 7: Odd: so" in refusal(load, body)


@pytest.mark.parametrize(
    "body",
    [
        "class Odd(dict):\n        def __getitem__(self, name): raise OSError('so')\n    return Odd(a=1)",
        "class Odd:\n        def __array__(self, *a, **k): raise SystemExit('so')\n    return [(Odd(), [0])]",
    ],
)
def test_what_is_read_only_when_it_is_looked_at_fails_with_its_line(body: str, load: Load) -> None:
    assert "my_data.py: line 6: " in (told := refusal(load, body))
    assert told.endswith("so")


def test_a_function_leaves_the_process_as_it_was(load: Load) -> None:
    folder = Path.cwd()
    load(
        "import os, torch\n"
        "    os.chdir('/')\n"
        "    torch.set_default_dtype(torch.float16)\n"
        "    return [(np.ones((9, 2)), [0, 1, 1] * 3)]"
    )
    assert (Path.cwd(), torch.get_default_dtype()) == (folder, torch.float32)
