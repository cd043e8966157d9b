"""Measure the forms of convolution stages on this processor: `python -m benchmarks.calibrate NAME`.

Prints a column of the table that `ppfl.networks.kernels` reads, to be kept as `ppfl/networks/kernel_tables/NAME.yaml`.
Processor time of one thread and the least of many repetitions, in turn, so that a busy machine costs time, not truth.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, astuple
from typing import Any

import torch
import yaml

from benchmarks.machine import describe
from ppfl.networks.convolution_forms import FORMS, channels_last
from ppfl.networks.dense_convolution import SLICE_ROWS
from ppfl.networks.kernels import Shape
from ppfl.networks.processor import this_processor
from ppfl.runs.device import keep_freed_memory

STAGES = ((1, 32, 5, 576), (32, 64, 5, 64), (1, 32, 5, 784), (32, 64, 5, 196), (3, 32, 5, 784), (16, 32, 3, 144))
"""Both convolutions of the CNN on 28×28 images without padding and with 2, one on colour images, a smaller one."""
SHAPES = [Shape(images, *stage) for images in (10, 32, 128) for stage in STAGES]
IMAGE_CHANNELS = 3
"""Stages of up to this many channels come first, and nobody asks for the gradient of their input."""
ONES, NONE = [1, 1], [0, 0]

Action = Callable[[], Any]


def main() -> None:
    """Print the column."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibrate", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the column, which engine.kernels takes")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each shape (default: 2)")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(as_yaml(arguments.name, [measure(shape, arguments.seconds) for shape in SHAPES[: arguments.shapes]]), end="")


def as_yaml(name: str, rows: list[dict[str, Any]]) -> str:
    """Return the column as a document."""
    machine = describe()
    head = {
        "processor": asdict(this_processor()),
        "measured": {
            "on": machine["hardware"]["processor"],
            "date": machine["date"][:10],
            "commit": machine["commit"],
            "torch": machine["versions"]["torch"],
        },
    }
    comment = f"# Milliseconds of processor time of one core; written by python -m benchmarks.calibrate {name}\n"
    return comment + yaml.safe_dump({**head, "milliseconds": rows}, sort_keys=False, default_flow_style=None, width=160)


def measure(shape: Shape, seconds: float) -> dict[str, Any]:
    """Return the milliseconds of all forms of a stage."""
    torch.manual_seed(0)
    side = round(shape.pixels**0.5)
    x = torch.rand(shape.images, shape.in_channels, side + shape.kernel_size - 1, side + shape.kernel_size - 1)
    weight = torch.rand(shape.out_channels, shape.in_channels, shape.kernel_size, shape.kernel_size)
    actions = {**_blocked(x, weight), **_dense(x, weight)}
    if shape.in_channels <= IMAGE_CHANNELS:
        actions = {key: action for key, action in actions.items() if key[1] != "input_gradient"}
    found = least_milliseconds(actions, seconds)
    row: dict[str, Any] = {"shape": asdict(shape), "blocked": {}, "dense": {}}
    row["dense"] = {"pooling": 0.0, "forward": {}, "weight_gradient": {}, "input_gradient": {}}
    for (layout, part, form), milliseconds in found.items():
        if form:
            row[layout][part][form] = milliseconds
        else:
            row[layout][part] = milliseconds
    assert astuple(shape) == tuple(row["shape"].values())
    return row


def least_milliseconds(actions: dict[Any, Action], seconds: float) -> dict[Any, float]:
    """Do all actions in turn, again and again; return the least processor time of each."""
    for action in actions.values():
        action()
    least = dict.fromkeys(actions, float("inf"))
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for key, action in actions.items():
            action()  # what the one before has left in the cache is not this one's
            started = time.thread_time()
            action()
            least[key] = min(least[key], time.thread_time() - started)
    return {key: round(1e3 * value, 4) for key, value in least.items()}


def _blocked(x: torch.Tensor, weight: torch.Tensor) -> dict[tuple[str, str, str], Action]:
    bias, images = torch.rand(len(weight)), x.to_mkldnn()

    def convolve() -> torch.Tensor:
        return torch.convolution(images, weight, bias, ONES, NONE, ONES, False, NONE, 1)

    def gradient(*wanted: bool) -> Any:
        return torch.ops.aten.convolution_backward(
            y, images, weight, [len(weight)], ONES, NONE, ONES, False, NONE, 1, wanted
        )

    def pool() -> None:
        leaf = y.detach().requires_grad_()
        pooled = torch.nn.functional.relu(torch.nn.functional.max_pool2d(leaf, 2, 2))
        torch.autograd.grad(pooled, leaf, pooled.detach())

    y = convolve()
    return {
        ("blocked", "forward", ""): convolve,
        ("blocked", "pooling", ""): pool,
        ("blocked", "weight_gradient", ""): lambda: gradient(False, True, True),
        ("blocked", "input_gradient", ""): lambda: gradient(True, False, False),
    }


def _dense(x: torch.Tensor, weight: torch.Tensor) -> dict[tuple[str, str, str], Action]:
    bias, size = torch.rand(len(weight)), weight.shape[2]
    slices = [channels_last(images) for images in torch.split(x, SLICE_ROWS)]
    made = [channels_last(FORMS["channels_last"].forward(images, weight, bias, 0)) for images in slices]

    def pool() -> None:
        for y in made:
            pooled, places = torch.ops.aten.max_pool2d_with_indices(y, [2, 2], [2, 2])
            of_pooled = torch.ops.aten.threshold_backward(pooled, pooled.relu_(), 0)
            torch.ops.aten.max_pool2d_with_indices_backward(of_pooled, y, [2, 2], [2, 2], NONE, ONES, False, places)

    actions: dict[tuple[str, str, str], Action] = {("dense", "pooling", ""): pool}
    for name, form in FORMS.items():
        actions |= {
            ("dense", "forward", name): lambda form=form: [form.forward(x, weight, bias, 0) for x in slices],
            ("dense", "weight_gradient", name): lambda form=form: [
                form.weight_gradient(x, y, size, 0) for x, y in zip(slices, made, strict=True)
            ],
            ("dense", "input_gradient", name): lambda form=form: [form.input_gradient(y, weight, 0) for y in made],
        }
    return actions


if __name__ == "__main__":
    main()
