"""Models: sizes, values, gradients, initial law, and what makes them vectorizable."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from ppfl.core.errors import UserError
from ppfl.core.plugins import discover
from ppfl.core.rng import generator
from ppfl.core.types import Params
from ppfl.networks.model import Model
from tests import examples
from tests.networks.running import draw, forward

torch.set_num_threads(1)

SMALL = (1, 18, 18)
TOKENS = (5,)
GROUP_NORM = {"name": "cnn", "channels": [4, 8], "hidden": 16, "normalization": "group", "groups": 2}
VARIANTS = [examples.section("models", name) for name in examples.names("models")] + [
    GROUP_NORM,
    {"name": "cnn", "channels": [3, 5], "kernel_size": 3, "padding": 1, "hidden": 7},
    {"name": "mlp", "hidden": [9, 6]},
    {"name": "resnet18", "width": 8},
    {"name": "transformer", "width": 8, "layers": 1, "heads": 2, "feed_forward": 12, "positions": 7, "tied": False},
    {"name": "lstm", "layers": 1, "hidden": 3},
]


def make(settings: dict[str, object]) -> Model:
    name = str(settings["name"])
    return TypeAdapter(discover("ppfl.models")[name]).validate_python(
        settings, context={"folder": examples.files("models", name)}
    )


def batch(num_samples: int, shape: tuple[int, ...] = SMALL, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels, or sequences of tokens with the next ones."""
    random = generator(seed, "test batch")
    if shape == TOKENS:
        return tuple(torch.from_numpy(random.integers(0, 4, (num_samples, *shape))) for _ in range(2))  # type: ignore[return-value]
    return torch.from_numpy(random.random((num_samples, *shape))), torch.from_numpy(random.integers(0, 4, num_samples))


def shape_for(settings: dict[str, object]) -> tuple[int, ...]:
    return TOKENS if make(settings).takes == "tokens" else SMALL


def loss_of(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), y.flatten())


def perturbed(params: Params) -> Params:
    """Leave the special values of the initial law, e.g. a norm's zeros."""
    return {
        name: value + 0.1 * torch.sin(torch.arange(value.numel()) + 1.0).reshape(value.shape).double()
        for name, value in params.items()
    }


def count(settings: dict[str, object], shape: tuple[int, ...], num_classes: int) -> int:
    stages = make(settings).stages(shape, num_classes)
    return sum(math.prod(parameter.shape) for stage in stages for parameter in stage.parameters.values())


def test_parameter_counts() -> None:
    assert count({"name": "cnn"}, (1, 28, 28), 10) == 582_026
    assert count({"name": "cnn", "normalization": "group"}, (1, 28, 28), 10) == 582_026 + 2 * (32 + 64)
    assert count({"name": "cnn", "padding": 2}, (1, 28, 28), 10) == 1_663_370  # the published number
    assert count({"name": "logistic_regression"}, (1, 28, 28), 10) == 7_850
    assert count({"name": "mlp", "hidden": [200, 200]}, (1, 28, 28), 10) == 199_210  # the published number


def test_stage_names_are_those_that_splits_speak_of() -> None:
    assert [stage.name for stage in make({"name": "cnn"}).stages(SMALL, 4)] == ["conv1", "conv2", "hidden", "head"]
    normalized = [stage.name for stage in make(GROUP_NORM).stages(SMALL, 4)]
    assert normalized == ["conv1", "norm1", "conv2", "norm2", "hidden", "head"]
    assert [stage.name for stage in make({"name": "mlp", "hidden": [9, 6]}).stages(SMALL, 4)] == [
        "hidden1",
        "hidden2",
        "head",
    ]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_names_known_without_data_are_those_of_the_stages(settings: dict[str, object]) -> None:
    model = make(settings)
    shape = shape_for(settings)
    stages = model.stages(shape, 4)
    names = tuple(name for stage in stages for name in stage.parameters)
    assert model.parameter_names() in (names, None)
    assert all(name.startswith(stage.name + ".") for stage in stages for name in stage.parameters)
    params = draw(stages)
    for stage in stages:
        for name, parameter in stage.parameters.items():
            assert params[name].shape == parameter.shape
    x, y = batch(3, shape)
    assert forward(stages, params, x).shape == (*y.shape, 4)


def reference(settings: dict[str, object]) -> torch.nn.Module:
    """Build the same network from torch's own modules, ReLU before pooling as it is published."""
    nn = torch.nn
    if settings["name"] == "logistic_regression":
        return nn.Sequential(nn.Flatten(), nn.Linear(324, 4))
    if settings["name"] == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(324, 9), nn.ReLU(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 4))
    layers: list[torch.nn.Module] = []
    for fan_in, width in ((1, 4), (4, 8)):
        layers.append(nn.Conv2d(fan_in, width, 5))
        if settings["normalization"] == "group":
            layers.append(nn.GroupNorm(2, width))
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "logistic_regression"},
        {"name": "mlp", "hidden": [9, 6]},
        GROUP_NORM,
        {**GROUP_NORM, "normalization": "none"},
    ],
    ids=str,
)
def test_equal_to_torch_modules_with_the_same_weights(settings: dict[str, object]) -> None:
    stages = make(settings).stages(SMALL, 4)
    params = perturbed(draw(stages))
    module = reference(settings).double()
    module.load_state_dict(dict(zip(module.state_dict(), params.values(), strict=True)))
    x, _ = batch(5)
    torch.testing.assert_close(forward(stages, params, x), module(x).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_gradient_agrees_with_finite_differences(settings: dict[str, object]) -> None:
    stages = make(settings).stages(shape_for(settings), 4)
    params = perturbed(draw(stages))
    x, y = batch(3, shape_for(settings))

    def loss(p: Params) -> torch.Tensor:
        return loss_of(forward(stages, p, x), y)

    gradient = torch.func.grad(loss)(params)
    for name, value in params.items():
        direction = torch.from_numpy(generator(2, name).standard_normal(value.shape))
        direction /= direction.norm()
        forth, back = (loss({**params, name: value + sign * 1e-6 * direction}) for sign in (1, -1))
        slope = float((gradient[name] * direction).sum())
        assert float(forth - back) / 2e-6 == pytest.approx(slope, rel=1e-5, abs=1e-8), name


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_vectorized_over_clients_equals_a_loop(settings: dict[str, object]) -> None:
    stages = make(settings).stages(shape_for(settings), 4)
    clients = [(perturbed(draw(stages, seed)), *batch(4, shape_for(settings), seed)) for seed in range(3)]

    def gradient(params: Params, x: torch.Tensor, y: torch.Tensor) -> Params:
        return torch.func.grad(lambda p: loss_of(forward(stages, p, x), y))(params)

    stacked = {name: torch.stack([params[name] for params, _, _ in clients]) for name in clients[0][0]}
    xs, ys = torch.stack([x for _, x, _ in clients]), torch.stack([y for _, _, y in clients])
    logits = torch.func.vmap(lambda params, x: forward(stages, params, x))(stacked, xs)
    together = torch.func.vmap(gradient)(stacked, xs, ys)
    for row, (params, x, y) in enumerate(clients):
        torch.testing.assert_close(logits[row], forward(stages, params, x), rtol=1e-10, atol=1e-10)
        for name, alone in gradient(params, x, y).items():
            torch.testing.assert_close(together[name][row], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_no_sample_sees_another(settings: dict[str, object]) -> None:
    """Those of several clients may be sent through together, and those of one in pieces."""
    stages = make(settings).stages(shape_for(settings), 4)
    params, x = perturbed(draw(stages)), batch(5, shape_for(settings))[0]
    torch.testing.assert_close(forward(stages, params, x)[:2], forward(stages, params, x[:2]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_strides_do_not_change_a_bit(settings: dict[str, object]) -> None:
    shape = TOKENS if make(settings).takes == "tokens" else (3, 18, 18)
    stages = make(settings).stages(shape, 4)
    params = {name: value.float() for name, value in draw(stages).items()}
    x = batch(4, shape)[0]
    x = x.float() if x.is_floating_point() else x

    def other_strides(value: torch.Tensor) -> torch.Tensor:
        reverse = tuple(reversed(range(value.ndim)))
        return value.permute(reverse).contiguous().permute(reverse)

    other = {name: other_strides(value) for name, value in params.items()}
    assert torch.equal(forward(stages, params, x), forward(stages, other, other_strides(x)))


def test_one_channel_has_two_kinds_of_strides_and_one_result() -> None:
    stages = make({"name": "cnn"}).stages((1, 28, 28), 10)
    params = {name: value.float() for name, value in draw(stages).items()}
    x = batch(64, (1, 28, 28))[0].float()
    relabelled = x.as_strided(x.shape, (784, 1, 28, 1))
    assert relabelled.stride() != x.stride()
    assert torch.equal(forward(stages, params, x), forward(stages, params, relabelled))


@pytest.mark.parametrize("settings", [{"name": "cnn", "normalization": "group"}, {"name": "mlp"}], ids=str)
def test_initial_law_is_uniform_in_the_inverse_root_of_fan_in(settings: dict[str, object]) -> None:
    stages = make(settings).stages((1, 28, 28), 10)
    params = draw(stages)
    for stage in stages:
        if stage.name.startswith("norm"):
            assert torch.all(params[f"{stage.name}.weight"] == 1)
            assert torch.all(params[f"{stage.name}.bias"] == 0)
            continue
        bound = 1 / math.sqrt(params[f"{stage.name}.weight"][0].numel())
        weight = params[f"{stage.name}.weight"]
        assert 0.98 * bound < float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert float(params[f"{stage.name}.bias"].abs().max()) <= bound
        assert not torch.equal(weight[0].flatten()[:2], weight[1].flatten()[:2])


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 15), (64,)])
def test_cnn_refuses_samples_that_do_not_suit_it(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=rf"problem\.model: .*{shape}".replace("(", r"\(").replace(")", r"\)")):
        make({"name": "cnn"}).stages(shape, 10)


def test_smallest_image_that_cnn_takes() -> None:
    stages = make({"name": "cnn"}).stages((1, 16, 16), 10)
    assert forward(stages, draw(stages), batch(2, (1, 16, 16))[0]).shape == (2, 10)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "cnn", "normalization": "group", "groups": 5},
        {"name": "cnn", "channels": [32]},
        {"name": "cnn", "kernel_size": 0},
        {"name": "mlp", "hidden": []},
        {"name": "mlp", "hidden": [0]},
        {"name": "mlp", "hidden": [1.5]},
        {"name": "logistic_regression", "hidden": 3},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        make(settings)
