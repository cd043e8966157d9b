"""Mixtures of adaptors: the same function at the start, B(x) + Σ_c π_c A_c(x) afterwards, parameters like others."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ppfl.core.errors import UserError
from ppfl.core.types import Params
from ppfl.interfaces.mixture import ROUTER, MixtureOfAdaptors
from ppfl.interfaces.split import ModelSplit
from ppfl.networks.convolution import ConvolutionStage
from ppfl.networks.mixture import mixed
from ppfl.networks.model import Parameter, Stage, linear_stage
from tests.supervised_problems import CNN, CONFIG, make

FLORAL: dict[str, Any] = {"adaptors": 3, "layers": ["*"], "rank": 2, "temperature": 0.7}
PLAIN_CNN = {**CNN, "normalization": "none"}
MODELS = [
    (CONFIG["model"], ["*"]),
    (CONFIG["model"], ["hidden2", "head"]),
    (PLAIN_CNN, ["*"]),
    (CNN, ["conv*", "head"]),
]


def mixture(model: dict[str, Any], layers: list[str], dtype: torch.dtype = torch.float64, **keys: Any) -> Any:
    floral = {**FLORAL, "layers": layers}
    return make({"model": model, "split": {"local": [ROUTER], "floral": floral}, **keys}, dtype=dtype)


def moved(params: Params, draw: torch.Generator) -> Params:
    return {
        name: value + 0.3 * torch.randn(value.shape, generator=draw, dtype=value.dtype)
        for name, value in params.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("model", "layers"), MODELS, ids=str)
def test_begins_as_the_function_without(model: dict[str, Any], layers: list[str], dtype: torch.dtype) -> None:
    with_adaptors, without = mixture(model, layers, dtype), make({"model": model}, dtype=dtype)
    losses = [
        one.objective.loss(one.objective.init_shared(), one.objective.init_local(0), one.client_data.data(0, 0))
        for one in (with_adaptors, without)
    ]
    assert torch.equal(*losses)
    assert with_adaptors.local_names == (ROUTER,)
    assert with_adaptors.objective.init_local(0)[ROUTER].tolist() == [0.0] * 3
    for name, value in with_adaptors.objective.init_shared().items():
        if name.endswith("floral_V"):
            largest = math.sqrt(6.0 / math.prod(value.shape[2:]))
            assert 0.8 * largest < float(value.abs().max()) <= largest
            assert not torch.equal(value[0], value[1])
        elif "floral" in name:
            assert bool((value == 0).all())


def by_hand(params: Params, x: torch.Tensor, names: list[str]) -> torch.Tensor:
    """Logits of an MLP or of a CNN without norms, each adaptor by itself: two products, or two convolutions."""
    pi = torch.clamp(torch.softmax(params[ROUTER] / FLORAL["temperature"], 0), min=0.01)
    for layer in names:
        weight, bias = params[f"{layer}.weight"], params[f"{layer}.bias"]
        is_image = weight.ndim == 4
        x = x if is_image else x.flatten(1)
        y = torch.nn.functional.conv2d(x, weight, bias, padding=1) if is_image else x @ weight.T + bias
        for c in range(FLORAL["adaptors"] if f"{layer}.floral_U" in params else 0):
            u, v = params[f"{layer}.floral_U"][c], params[f"{layer}.floral_V"][c]
            if is_image:
                tall = torch.nn.functional.conv2d(x, v[:, :, :, None], padding=(1, 0))
                own = torch.nn.functional.conv2d(tall, u[:, :, None, :], padding=(0, 1))
                y = y + pi[c] * (own + params[f"{layer}.floral_bias"][c][:, None, None])
            else:
                y = y + pi[c] * (x @ v.T @ u.T + params[f"{layer}.floral_bias"][c])
        if is_image:
            y = torch.nn.functional.max_pool2d(y, 2)
        x = y if layer == "head" else torch.relu(y)
    return x


@pytest.mark.parametrize(("model", "layers"), MODELS[:3], ids=str)
def test_is_the_layer_and_its_adaptors(model: dict[str, Any], layers: list[str]) -> None:
    """To 1e-12, gradients too, and for clients side by side."""
    problem = mixture(model, layers)
    objective, data = problem.objective, problem.client_data.data(1, 0)
    draw = torch.Generator().manual_seed(0)
    shared, local = moved(objective.init_shared(), draw), moved(objective.init_local(1), draw)
    local[ROUTER] = local[ROUTER] + torch.tensor([0.0, 1.0, -4.0])
    # the least weight holds for the last one
    assert float(torch.softmax(local[ROUTER] / FLORAL["temperature"], 0)[2]) < 0.01
    names = ["conv1", "conv2", "hidden", "head"] if model["name"] == "cnn" else ["hidden1", "hidden2", "head"]

    def loss(theta: Params, w: Params) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(by_hand({**theta, **w}, data["x"], names), data["y"])

    torch.testing.assert_close(objective.loss(shared, local, data), loss(shared, local), rtol=1e-12, atol=1e-13)
    wanted = torch.func.grad(loss, argnums=(0, 1))(shared, local)
    for found, right in zip(objective.gradients(shared, local, data), wanted, strict=True):
        assert found.keys() == right.keys()
        for name, value in right.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)
    three = [{name: torch.stack([v, 0.5 * v, -v]) for name, v in params.items()} for params in (shared, local)]
    together = torch.func.vmap(lambda theta, w: objective.gradients(theta, w, data))(*three)
    alone = objective.gradients(*({name: value[1] for name, value in params.items()} for params in three), data)
    for found, right in zip(together, alone, strict=True):
        for name, value in right.items():
            torch.testing.assert_close(found[name][1], value, rtol=1e-10, atol=1e-12)


def test_no_adaptors_are_the_model_without() -> None:
    floral = {**FLORAL, "adaptors": 0}
    problem = make({"split": {"local": ["head.*"], "floral": floral}})
    assert problem.objective.mixture is None
    assert problem.objective.parameter_names == make().objective.parameter_names
    assert [type(stage) for stage in problem.objective.stages] == [type(stage) for stage in make().objective.stages]


def test_other_parts_may_be_local_or_frozen() -> None:
    floral = {**FLORAL, "layers": ["hidden*"]}
    problem = make({"split": {"local": [ROUTER, "head.*"], "frozen": ["hidden1.weight"], "floral": floral}})
    assert problem.local_names == (ROUTER, "head.weight", "head.bias")
    assert "hidden1.weight" not in problem.objective.parameter_names
    assert problem.objective.mixture is not None
    assert problem.objective.mixture.names[:3] == ("hidden1.floral_U", "hidden1.floral_V", "hidden1.floral_bias")


def test_names_are_those_of_the_stages() -> None:
    problem = mixture(CONFIG["model"], ["hidden2", "head"])
    own = make().objective.parameter_names
    assert ModelSplit.model_validate(
        {"local": [ROUTER], "floral": {**FLORAL, "layers": ["hidden2", "head"]}}
    ).names(own) == problem.objective.parameter_names  # fmt: skip


def test_convolutions_keep_their_forms() -> None:
    stages = mixture(PLAIN_CNN, ["conv2"]).objective.stages
    stage = next(stage for stage in stages if stage.name == "conv2")
    assert isinstance(stage, ConvolutionStage)
    assert stage.parameters["conv2.floral_U"].shape == (3, 4, 2, 3)
    assert stage.parameters["conv2.floral_V"].shape == (3, 2, 2, 3)


@pytest.mark.parametrize(
    ("shape", "budget", "rank"), [((10, 64), 0.01, 1), ((200, 784), 0.1, 15), ((200, 784), 0.01, 1), ((8, 8), 1.0, 4)]
)
def test_rank_of_a_budget(shape: tuple[int, int], budget: float, rank: int) -> None:
    """max(1, ⌊ρ·in·out/(in + out)⌋)."""
    assert MixtureOfAdaptors(adaptors=1, layers=("*",), budget=budget).rank_of(*shape) == rank


def test_a_router_is_in_no_term_beside_the_loss() -> None:
    """Neither weight decay nor the proximal term moves it."""
    training = {"weight_decay": 0.5, "proximal": 0.25}
    plain, decayed = (mixture(CONFIG["model"], ["*"], **keys) for keys in ({}, {"training": training}))
    data, draw = plain.client_data.data(0, 0), torch.Generator().manual_seed(1)
    shared, local = moved(plain.objective.init_shared(), draw), moved(plain.objective.init_local(0), draw)
    one, other = (problem.objective.gradients(shared, local, data) for problem in (plain, decayed))
    assert torch.equal(one[1][ROUTER], other[1][ROUTER])
    assert not torch.equal(one[0]["head.weight"], other[0]["head.weight"])
    of_loss = torch.func.grad(lambda w: decayed.objective.loss(shared, w, data))(local)
    torch.testing.assert_close(of_loss[ROUTER], one[1][ROUTER], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"adaptors": -1}, "adaptors"), ({"temperature": 0.0}, "temperature"), ({"temperature": -1.0}, "temperature"),
        ({"rank": None}, "exactly one of the two"), ({"budget": 0.1}, "exactly one of the two"),
        ({"rank": None, "budget": 0.0}, "budget"), ({"rank": 0}, "rank"), ({"layers": []}, "layers"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MixtureOfAdaptors.model_validate({**FLORAL, **keys})


@pytest.mark.parametrize(
    ("model", "keys", "said"),
    [
        (CONFIG["model"], {"rank": 8},
         r"floral.rank: is 8, and hidden2.weight of shape \(7, 12\) has no more than 7; allowed: at most 7"),
        (CNN, {}, r"problem.split.floral.layers: norm1.weight has shape \(2,\), and no adaptor; allowed: layers with"),
    ],
)  # fmt: skip
def test_what_does_not_suit_a_layer(model: dict[str, Any], keys: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        make({"model": model, "split": {"local": [ROUTER], "floral": {**FLORAL, **keys}}})
    assert "\n" not in str(error.value)


def test_layers_of_a_model_whose_names_nobody_knew() -> None:
    stage = linear_stage("0", 3, 3, relu=False)
    floral = MixtureOfAdaptors.model_validate(FLORAL)
    with pytest.raises(
        UserError, match=r"problem.split.floral.layers: 'body' matches no layer with a weight; these are 0"
    ):
        mixed((stage,), floral.model_copy(update={"layers": ("body",)}))
    named = Stage("0", {**stage.parameters, "0.floral_U": Parameter((3,))}, stage.apply)
    with pytest.raises(UserError, match=r"the model has a 0.floral_U itself; allowed: other layers"):
        mixed((named,), floral)


def test_factors_of_one_kind() -> None:
    lora = {"layers": ["*"]}
    with pytest.raises(ValidationError, match="null beside `lora`"):
        ModelSplit.model_validate({"local": [ROUTER], "lora": lora, "floral": FLORAL})
