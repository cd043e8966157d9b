"""The blocked layout: the values of the plain one, NaN and overflow as well, and only where it is faster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ppfl.core.types import Params
from ppfl.networks import blocked
from ppfl.networks.convolution import ConvolutionStage
from ppfl.networks.gradients import counted_bytes, pullback
from ppfl.networks.losses import CrossEntropy
from ppfl.networks.model import Stage
from ppfl.networks.network import Network
from tests.networks.kernel_columns import EVERY_FORM, taking
from tests.test_models import draw, make

torch.set_num_threads(1)

SHAPE = (2, 18, 18)
FITTING: dict[str, Any] = {"name": "cnn", "channels": [16, 32], "hidden": 24}
NAN, INF = float("nan"), float("inf")


def build(settings: dict[str, Any], body_dtype: torch.dtype | None = None) -> tuple[Network, Params]:
    """Return a network whose head is local, and its parameters in float32."""
    stages = make(settings).stages(SHAPE, 4)
    params = {name: value.float() for name, value in draw(stages).items()}
    local = frozenset({"head.weight", "head.bias"})
    return replace(Network.cut(stages, local, CrossEntropy(), body_dtype), kernels=taking("blocked")), params


def in_plain_layout(network: Network) -> Network:
    def plain(stage: Stage) -> Stage:
        return Stage(stage.name, stage.parameters, stage.apply)

    return replace(network, stages=tuple(map(plain, network.stages)))


def images(num_samples: int = 9) -> torch.Tensor:
    return torch.rand(num_samples, *SHAPE, generator=torch.Generator().manual_seed(1)) - 0.3


def features_and_gradients(network: Network, params: Params, x: torch.Tensor) -> Params:
    body = {name: value for name, value in params.items() if not name.startswith("head.")}
    features, pull = pullback(lambda theta: network.prefix(theta, x), body)
    return {"features": features, **pull(torch.ones_like(features))}


def takes(network: Network, params: Params, x: torch.Tensor) -> bool:
    """Say whether the first stage computes in the blocked layout."""
    stage = network.stages[0]
    assert isinstance(stage, ConvolutionStage)
    return isinstance(stage.run(params, x, network.kernels), blocked.Blocked)


@pytest.mark.parametrize("channels", [(16, 32), (4, 8), (3, 32), (16, 20)], ids=str)
@pytest.mark.parametrize("padding", [0, 2])
def test_values_and_gradients_are_those_of_the_plain_layout(channels: tuple[int, int], padding: int) -> None:
    network, params = build({**FITTING, "channels": list(channels), "padding": padding})
    exact = {name: value.double() for name, value in params.items()}
    assert takes(network, params, images())
    found = features_and_gradients(network, params, images())
    for name, value in features_and_gradients(network, exact, images().double()).items():
        assert (found[name] - value).norm() <= 2e-6 * value.norm(), name
        assert found[name].dtype == torch.float32


def test_it_is_taken_where_it_is_faster_and_possible() -> None:
    network, params = build(FITTING)
    x = images()
    assert takes(network, params, x)
    assert blocked.as_blocked(x.double()) is None
    assert not takes(*build({**FITTING, "channels": [20, 50]}), x)
    assert not takes(*build({**FITTING, "normalization": "group"}), x)
    seen = []

    def apply(one: torch.Tensor) -> torch.Tensor:
        seen.append(blocked.as_blocked(one))
        return one

    torch.func.vmap(apply)(x)
    assert seen == [None]


def test_processors_without_bfloat16_keep_the_plain_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False, raising=False)
    assert blocked.as_blocked(images().bfloat16()) is None
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert blocked.as_blocked(images()) is None


@pytest.mark.parametrize("bad", [NAN, INF, -INF, 1e30, -3e38], ids=str)
@pytest.mark.parametrize("where", ["x", "conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "hidden.weight"])
def test_nan_and_overflow_show_where_they_do_in_the_plain_layout(where: str, bad: float) -> None:
    """In gradients they may show in more places: oneDNN multiplies by the 0 of a ReLU that is off."""
    network, params = build(FITTING)
    x = images()
    (x if where == "x" else params[where]).view(-1)[3] = bad
    wanted = features_and_gradients(in_plain_layout(network), params, x)
    found = features_and_gradients(network, params, x)
    assert torch.equal(found["features"].isnan(), wanted["features"].isnan())
    assert torch.equal(found["features"].isinf(), wanted["features"].isinf())
    for name, value in wanted.items():
        assert not (found[name].isfinite() & ~value.isfinite()).any(), name


def test_sums_that_overflow_though_every_entry_is_finite() -> None:
    network, params = build(FITTING)
    params = {name: value * 1e25 if name.startswith("conv") else value for name, value in params.items()}
    assert takes(network, params, images())  # the second convolution is what overflows
    features = network.prefix(params, images())
    assert not features.isfinite().all()
    assert torch.equal(features.isnan(), in_plain_layout(network).prefix(params, images()).isnan())


def test_bodies_in_bfloat16() -> None:
    network, params = build(FITTING, torch.bfloat16)
    wanted = features_and_gradients(in_plain_layout(network), params, images())
    found = features_and_gradients(network, params, images())
    exact = features_and_gradients(build(FITTING)[0], params, images())
    for name, value in exact.items():
        assert found[name].dtype == torch.float32
        error, of_plain = ((one[name] - value).norm() / value.norm() for one in (found, wanted))
        assert error < 1.5 * of_plain + 1e-3, name
    assert (found["features"] - exact["features"]).norm() > 1e-3 * exact["features"].norm()


def test_bodies_in_bfloat16_on_processors_without_it() -> None:
    """Short numbers in and out of every stage, and wide ones inside, in any form and in every gradient."""
    short, params = build(FITTING, torch.bfloat16)
    wanted = features_and_gradients(in_plain_layout(short), params, images())
    exact = features_and_gradients(build(FITTING)[0], params, images())
    for form in EVERY_FORM:
        network = replace(short, kernels=taking(form, instruction_set="AVX2"))
        found = features_and_gradients(network, params, images())
        for name, value in exact.items():
            assert found[name].dtype == torch.float32
            error, of_plain = ((one[name] - value).norm() / value.norm() for one in (found, wanted))
            assert error < 1.5 * of_plain + 1e-3, name
        assert torch.equal(found["features"], found["features"].bfloat16().float())


def test_kept_bytes_are_counted() -> None:
    network, params = build(FITTING)
    body = {name: value for name, value in params.items() if not name.startswith("head.")}
    sizes = []
    for one in (network, in_plain_layout(network)):
        with counted_bytes() as num_bytes:
            pullback(lambda theta, one=one: one.prefix(theta, images()), body)
        sizes.append(num_bytes())
    of_first_convolution = 9 * 16 * 14 * 14 * 4
    assert of_first_convolution < sizes[0] < 2 * sizes[1]
