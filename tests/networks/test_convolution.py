"""Forms of convolution stages: every one of them equals torch's own convolution and its gradients, by autograd."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from ppfl.core.types import Params
from ppfl.networks.convolution_forms import FORMS, channels_last
from ppfl.networks.dense_convolution import SLICE_ROWS
from ppfl.networks.gradients import counted_bytes, pullback
from ppfl.networks.kernels import Kernels
from ppfl.networks.losses import CrossEntropy
from ppfl.networks.network import Network
from tests.networks.kernel_columns import EVERY_FORM, taking
from tests.test_models import draw, make

torch.set_num_threads(1)

NAN, INF = float("nan"), float("inf")
SHAPE = (2, 15, 17)
CNN: dict[str, Any] = {"name": "cnn", "channels": [8, 16], "kernel_size": 3, "hidden": 12}
VARIANTS = [CNN, {**CNN, "padding": 2}, {**CNN, "channels": [3, 5]}, {**CNN, "normalization": "group", "groups": 4}]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("images", "channels", "size", "kernel_size", "padding"),
    [
        (3, (1, 4), (9, 11), 5, 0), (2, (3, 5), (8, 7), 3, 2), (1, (2, 2), (5, 5), 5, 0), (4, (6, 3), (6, 9), 1, 0),
        (2, (4, 4), (3, 3), 3, 1), (0, (2, 3), (6, 6), 3, 0),
    ],
)  # fmt: skip
def test_each_form_is_the_convolution(
    name: str, images: int, channels: tuple[int, int], size: tuple[int, int], kernel_size: int, padding: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(images, channels[0], *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(channels[1], channels[0], kernel_size, kernel_size, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(channels[1], dtype=torch.float64)
    y = torch.conv2d(x, weight, bias, padding=padding)
    g = torch.randn_like(y)
    of_x, of_weight = torch.autograd.grad(y, [x, weight], g)
    form, own_x, own_g, own_weight = FORMS[name], channels_last(x.detach()), channels_last(g), weight.detach()
    found = (
        (form.forward(own_x, own_weight, bias, padding), y),
        (form.weight_gradient(own_x, own_g, kernel_size, padding), of_weight),
        (form.input_gradient(own_g, own_weight, padding), of_x),
    )
    for value, wanted in found:
        torch.testing.assert_close(value, wanted, rtol=0, atol=1e-12)
    for value, _ in (found[0], found[2]):
        assert value.permute(0, 2, 3, 1).is_contiguous()


def build(settings: dict[str, Any], kernels: Kernels, dtype: torch.dtype = torch.float64) -> tuple[Network, Params]:
    stages = make(settings).stages(SHAPE, 4)
    params = {name: value.to(dtype) for name, value in draw(stages).items()}
    local = frozenset({"head.weight", "head.bias"})
    return replace(Network.cut(stages, local, CrossEntropy()), kernels=kernels), params


def images(num_samples: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(num_samples, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def run(network: Network, params: Params, x: torch.Tensor) -> Params:
    """Return features and gradients of the shared stages; of x as well where it asks for one."""
    body = {name: value for name, value in params.items() if not name.startswith("head.")}
    features, pull = pullback(lambda theta: network.prefix({**params, **theta}, theta["x"]), {**body, "x": x})
    return {"features": features, **pull(torch.sin(torch.arange(features.numel())).view_as(features).to(x.dtype))}


def by_autograd(network: Network, params: Params, x: torch.Tensor) -> Params:
    """Return the same of the stages as they are vectorized, which know no forms."""
    body = {name: value for name, value in params.items() if not name.startswith("head.")}
    features, pull = torch.func.vjp(lambda theta: network.prefix({**params, **theta}, theta["x"]), {**body, "x": x})
    return {
        "features": features, **pull(torch.sin(torch.arange(features.numel())).view_as(features).to(x.dtype))[0],
    }  # fmt: skip


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
@pytest.mark.parametrize("forms", [("blocked",), *product(FORMS, repeat=3)], ids=str)
def test_networks_in_every_form_have_the_gradients_of_autograd(settings: dict[str, Any], forms: tuple[str]) -> None:
    network, params = build(settings, taking(*forms))
    x = images(3)
    found = run(network, params, x)
    for name, value in by_autograd(network, params, x).items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("name", EVERY_FORM)
@pytest.mark.parametrize("num_samples", [1, SLICE_ROWS, 2 * SLICE_ROWS + 5])
def test_any_number_of_slices_in_float32(name: str, num_samples: int) -> None:
    network, params = build(CNN, taking(name), torch.float32)
    exact, exact_params = build(CNN, taking("channels_last"))
    x = images(num_samples)
    found = run(network, params, x.float())
    for key, value in by_autograd(exact, {k: v.double() for k, v in params.items()}, x.float().double()).items():
        assert found[key].dtype == torch.float32
        assert (found[key] - value).norm() <= 5e-6 * value.norm(), key
    assert exact_params.keys() == params.keys()


@pytest.mark.parametrize("name", EVERY_FORM)
@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("where", ["x", "conv1.weight", "conv2.bias"])
def test_what_is_not_finite_shows(name: str, bad: float, where: str) -> None:
    network, params = build(CNN, taking(name), torch.float32)
    plain, _ = build(CNN, taking("channels_last"), torch.float32)
    x = images(3, torch.float32)
    (x if where == "x" else params[where]).view(-1)[3] = bad
    found, wanted = (one.prefix(params, x).isfinite() for one in (network, plain))
    assert not wanted.all()
    assert torch.equal(found, wanted)


def test_the_memory_of_dense_forms_is_counted() -> None:
    network, params = build(CNN, taking("unfolded"))
    with counted_bytes() as num_bytes:
        pullback(lambda theta: network.prefix(theta, images(9)), params)
    of_first_convolution = 9 * 8 * 13 * 15 * 8
    assert of_first_convolution < num_bytes() < 4 * of_first_convolution
