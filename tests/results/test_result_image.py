"""Files of one structure begin as a copy of one skeleton: each says what a file that was built by itself says."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppfl.results import result_image as module
from ppfl.results.result_image import Group, Variable, image_of
from ppfl.results.seal import CHECKSUM, HEAD_BYTES, blank, matches, seal_in
from tests.results.test_recorder import finish, new_recorder

NAMES = np.array(["anna", "björn", "çelik"], dtype=object)


def built_by_itself(groups: list[Group]) -> bytes:
    """Write a file with the calls of h5py that are meant for it, and numbers and texts right away."""
    with h5py.File("image", "w", driver="core", backing_store=False) as file:
        file.attrs[CHECKSUM] = np.bytes_(blank("ppfl result"))
        file.attrs["kind"] = "ppfl result"
        for group in groups:
            opened = file.require_group(group.name)
            opened.attrs.update({**group.constants, **group.attributes})
            for name, values, dimensions in group.variables:
                data = opened.create_dataset(name, data=values, dtype=h5py.string_dtype() if is_text(values) else None)
                if dimensions == (name,):
                    data.make_scale(name)
                else:
                    for axis, dimension in enumerate(dimensions):
                        data.dims[axis].attach_scale(opened[dimension])
        file.flush()
        return bytes(file.id.get_file_image())


def is_text(values: np.ndarray) -> bool:
    return values.dtype.kind == "O"


def said_by(content: bytes) -> dict[str, Any]:
    """Return all that readers can see in a file; the checksum is that of its bytes, and looked at elsewhere."""
    with h5py.File(BytesIO(content)) as file:
        found = {"/": (sorted(file), attributes(file))}
        file.visititems(lambda name, item: found.update({name: describe(item)}))
        del found["/"][1][CHECKSUM]
        return found


def describe(item: h5py.Group | h5py.Dataset) -> tuple[Any, ...]:
    if isinstance(item, h5py.Group):
        return (sorted(item), attributes(item))
    dims = [(dim.label, [scale.name for scale in dim.values()]) for dim in item.dims]
    layout = (item.id.get_type().encode(), item.maxshape, item.chunks, item.compression, item.fillvalue)
    return (item.shape, layout, dims, exact(item[()]), attributes(item))


def attributes(item: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    found = {}
    for name, value in item.attrs.items():
        of_value = item.attrs.get_id(name)
        # references are places in the file: what they lead to is compared as dimensions
        what = exact(value) if name not in ("DIMENSION_LIST", "REFERENCE_LIST") else len(value)
        found[name] = (of_value.shape, of_value.get_type().encode(), what)
    return found


def exact(value: Any) -> Any:
    array = np.asarray(value)
    return array.tolist() if array.dtype.kind in "OUS" else (array.dtype.str, array.shape, array.tobytes())


def some_groups(length: int = 3, text: str = "a text", host: str = "h", number: int = 1, **more: Any) -> list[Group]:
    """A small result: `length` rounds, of which every number depends on `text`."""
    first = float(len(text))
    rounds = [
        Variable("round", np.arange(length) + len(text), ("round",)),
        Variable("loss", np.linspace(first, 2 * first, length), ("round",)),
        Variable("client", NAMES, ("client",)),
        Variable("norms", np.full((length, 3), first, np.float32), ("round", "client")),
    ]
    root = Group("/", {"host": host, "number": number}, {"config": text, "size": len(text), **more})
    return [root, Group("seconds", {}, {"rounds": first}), Group("rounds", {}, {}, rounds)]


def without(groups: list[Group], variable: str) -> list[Group]:
    return [group._replace(variables=[v for v in group.variables if v.name != variable]) for group in groups]


def cases() -> Iterator[tuple[str, list[Group]]]:
    yield "as it is", some_groups()
    yield "other numbers and a longer text", some_groups(text="another text, é, " * 400)
    yield "an empty text", some_groups(text="")
    yield "more attributes", some_groups(more="x", flag=True, several=np.arange(4.0))
    yield "other constants", some_groups(host="another host")
    yield "a constant of another type", some_groups(number=True)
    yield "more rounds", some_groups(length=7)
    yield "no rounds", some_groups(length=0)
    yield "a variable less", without(some_groups(), "loss")
    yield (
        "other numbers of clients",
        [
            Group(
                "clients", {}, {}, [Variable("client", NAMES[:2], ("client",)), Variable("n", np.ones(2), ("client",))]
            )
        ],
    )
    yield "other names", [Group("clients", {}, {}, [Variable("client", NAMES[::-1], ("client",))])]
    yield (
        "scalars and other types",
        [
            Group(
                "x", {}, {"f": np.float32(1.5)}, [Variable("none", np.array(2.5), ()), Variable("yes", NAMES > "b", ())]
            )
        ],
    )


@pytest.fixture(autouse=True)
def _no_skeletons() -> None:
    module._kept_skeleton.cache_clear()
    module._kept_frame.cache_clear()


def test_every_file_says_what_one_says_that_was_built_by_itself() -> None:
    # twice, so that each follows each: what one has left in a skeleton would be seen in another
    for what, groups in [*cases(), *reversed(list(cases()))]:
        assert said_by(image_of(groups)) == said_by(built_by_itself(groups)), what


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3000), st.integers(0, 2))
def test_texts_of_any_length(text: str, length: int) -> None:
    groups = some_groups(length, text)
    assert said_by(image_of(groups)) == said_by(built_by_itself(groups))


def test_nothing_of_one_run_is_in_the_file_of_another() -> None:
    assert b"SECRET" in image_of(some_groups(text="SECRET" * 3))
    assert b"SECRET" not in image_of(some_groups(text="public" * 3))
    assert module._kept_skeleton.cache_info()[:2] == (1, 1), "the second began as a copy of the skeleton of the first"


def test_equal_contents_give_equal_bytes() -> None:
    first = image_of(some_groups())
    image_of(some_groups(text="something else"))
    assert image_of(some_groups()) == first


def test_a_file_whose_attributes_were_put_in_without_hdf5_has_the_bytes_of_one_that_hdf5_wrote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def some(text: str, value: float) -> list[Group]:
        attributes = {"config": text, "L": value, "seeds": np.arange(3) + int(value), "yes": np.float64(len(text))}
        return [Group("/", {"host": "h"}, attributes), Group("seconds", {}, {"rounds": -value})]

    runs = [some(text, value) for value in (0.0, 1.5) for text in ("a text of any length", "é" * 10, "another\n" * 700)]
    quickly = [image_of(groups) for groups in runs * 2]
    assert module._kept_frame.cache_info().hits >= len(runs)
    monkeypatch.setattr(module, "_framed", lambda *_: None)
    assert quickly == [image_of(groups) for groups in runs * 2]


@pytest.mark.parametrize("odd", ["short", True, np.float32(1.5), np.array(["a", "b"], dtype=object), np.arange(0.0)])
def test_what_is_too_short_to_be_found_again_is_written_by_hdf5(odd: Any) -> None:
    groups = [Group("/", {}, {"config": "a text of some length", "odd": odd})]
    assert said_by(image_of(groups)) == said_by(built_by_itself(groups))
    assert module._framed(module._kept_skeleton(structure_of(groups)), structure_of(groups), groups) is None


def structure_of(groups: list[Group]) -> Any:
    return tuple(module._kind_of_group(group) for group in groups)


def test_files_of_several_heaps_and_no_larger_than_others() -> None:
    for groups in (some_groups(), some_groups(text="a text " * 500), some_groups(text="a text " * 5000)):
        assert len(image_of(groups)) <= 1.05 * len(built_by_itself(groups))


def test_the_checksum_is_that_of_the_file() -> None:
    content = image_of(some_groups())
    seal = seal_in(content[:HEAD_BYTES])
    assert seal is not None
    assert matches(content, seal)


def test_skeletons_of_large_results_are_not_kept() -> None:
    large = [Group("x", {}, {}, [Variable("n", np.arange(2**17 + 1), ("n",))])]
    assert said_by(image_of(large)) == said_by(built_by_itself(large))
    assert module._kept_skeleton.cache_info().currsize == 0


def test_a_result_that_grows(tmp_path: Path) -> None:
    """What a single run writes again and again is, each time, what it would write at once."""
    recorder = new_recorder(tmp_path / "r.h5")
    for number in range(4):
        recorder.append(number, {"loss": 1.0 / (number + 1), "norms": np.arange(3.0) + number})
        recorder.write()
        assert said_by((tmp_path / "r.h5").read_bytes()) == said_by(built_by_itself(list(recorder._content())))
    finish(recorder)
    assert said_by((tmp_path / "r.h5").read_bytes()) == said_by(built_by_itself(list(recorder._content())))
