"""The table of kernels: which column is a processor's, which forms it names, and what a run keeps of the choice."""

from __future__ import annotations

import typing
from dataclasses import replace

import pytest

from ppfl.config.computing import Engine
from ppfl.core.errors import UserError
from ppfl.networks import kernels, processor
from ppfl.networks.convolution_forms import FORMS
from ppfl.networks.kernels import Forms, Measured, Shape, column, names, nearest_column
from ppfl.networks.processor import Processor, this_processor

FIRST, SECOND = Shape(32, 1, 32, 5, 576), Shape(32, 32, 64, 5, 64)


def test_configurations_name_the_columns_that_there_are() -> None:
    allowed = typing.get_args(typing.get_args(Engine.model_fields["kernels"].annotation)[0])
    assert sorted(allowed) == list(names()) == ["avx2", "avx512"]


def test_every_column_has_measured_every_form() -> None:
    for name in names():
        for row in column(name).rows:
            assert row.forward.keys() == row.weight_gradient.keys() == FORMS.keys()
            assert row.input_gradient.keys() in (FORMS.keys(), set())
            times = [row.blocked, row.pooling, *row.forward.values(), *row.weight_gradient.values()]
            assert all(0 < milliseconds < 1e3 for milliseconds in times)


def test_the_fastest_form_is_taken_of_each_part_and_of_both_layouts() -> None:
    forward, of_weight = {"channels_last": 2.0, "unfolded": 1.0}, {"channels_last": 1.0, "unfolded": 3.0}
    row = Measured(FIRST, 5.0, 1.0, forward, of_weight, {"unfolded": 1.5})
    assert row.forms(can_be_blocked=True) == Forms(False, "unfolded", "channels_last", "unfolded")
    assert replace(row, blocked=4.4).forms(can_be_blocked=True).is_blocked
    assert not replace(row, blocked=4.4).forms(can_be_blocked=False).is_blocked


def test_the_nearest_shape_decides() -> None:
    measured = {"channels_last": 1.0}
    rows = [Measured(shape, time, 0.0, measured, {}, {}) for shape, time in ((FIRST, 0.5), (SECOND, 2.0))]
    table = replace(column("avx2"), rows=tuple(rows))
    for near in (FIRST, replace(FIRST, images=10), replace(FIRST, images=0), replace(FIRST, out_channels=16)):
        assert table.forms(near, can_be_blocked=True).is_blocked
    assert not table.forms(replace(SECOND, kernel_size=3), can_be_blocked=True).is_blocked


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (Processor("AVX512", 2 << 20, 30 << 20), "avx512"),
        (Processor("AVX512"), "avx512"),
        (Processor("AVX2", 512 << 10, 8 << 20), "avx2"),
        (Processor("DEFAULT", 1 << 20, 32 << 20), "avx2"),
        (Processor("SVE256"), "avx2"),
    ],
)
def test_a_processor_that_is_not_in_the_table_takes_the_nearest(given: Processor, wanted: str) -> None:
    assert nearest_column(given) == wanted


def test_caches_decide_between_columns_of_equal_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(column("avx2"), processor=Processor("AVX2", 512 << 10, 8 << 20))
    large = replace(column("avx2"), processor=Processor("AVX2", 1 << 20, 32 << 20))
    monkeypatch.setattr(kernels, "names", lambda: ("large", "small"))
    monkeypatch.setattr(kernels, "column", {"large": large, "small": small}.get)
    assert nearest_column(Processor("AVX2", 512 << 10, 16 << 20)) == "small"
    assert nearest_column(Processor("AVX2", 2 << 20, 30 << 20)) == "large"


def test_what_is_no_column_is_refused() -> None:
    with pytest.raises(UserError, match=r"engine\.kernels: .*'vax'; there are avx2, avx512"):
        column("vax")


def test_caches_are_read_where_linux_tells_them(tmp_path: typing.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (level, kind, size) in enumerate(
        [("1", "Data", "32K"), ("2", "Unified", "512K"), ("3", "Unified", "8M"), ("4", "Unified", "?")]
    ):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    monkeypatch.setattr(processor, "_CACHES", tmp_path)
    found = this_processor()
    assert (found.l2_bytes, found.l3_bytes) == (512 << 10, 8 << 20)
    monkeypatch.setattr(processor, "_CACHES", tmp_path / "nothing")
    assert this_processor() == Processor(found.instruction_set)
