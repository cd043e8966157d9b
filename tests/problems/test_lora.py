"""LoRA: the same function at the start, gradients of W + (α/r) B A, parameters like others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ppfl.core.errors import UserError
from ppfl.core.types import Params
from ppfl.interfaces.split import LoRA, ModelSplit
from ppfl.networks.convolution import ConvolutionStage
from ppfl.networks.lora import adapted, merged
from ppfl.networks.model import Parameter, Stage
from tests.supervised_problems import CNN, CONFIG, close, make

LORA = {"layers": ["*"], "rank": 2, "alpha": 3.0}
PLAIN_CNN = {**CNN, "normalization": "none"}
MODELS = [
    (CONFIG["model"], ["*"]),
    (CONFIG["model"], ["head", "hidden1"]),
    (PLAIN_CNN, ["*"]),
    (CNN, ["conv*", "hidden.weight"]),
]


def lora(
    model: dict[str, Any], layers: list[str], local: list[str], dtype: torch.dtype = torch.float64, **keys: Any
) -> Any:
    return make({"model": model, "split": {"local": local, "lora": {**LORA, "layers": layers}, **keys}}, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("model", "layers"), MODELS, ids=str)
def test_begins_as_the_function_without(model: dict[str, Any], layers: list[str], dtype: torch.dtype) -> None:
    with_factors, without = lora(model, layers, ["*.lora_*"], dtype), make({"model": model}, dtype=dtype)
    losses = [
        one.objective.loss(one.objective.init_shared(), one.objective.init_local(0), one.client_data.data(0, 0))
        for one in (with_factors, without)
    ]
    assert torch.equal(*losses)
    factors = with_factors.objective.init_local(0)
    for name, value in factors.items():
        assert bool((value == 0).all()) == name.endswith("lora_B")


@pytest.mark.parametrize("local", [["*.lora_*"], ["head.*"], [], ["*"]], ids=str)
@pytest.mark.parametrize(("model", "layers"), MODELS, ids=str)
def test_is_the_model_with_merged_weights(model: dict[str, Any], layers: list[str], local: list[str]) -> None:
    problem, whole = lora(model, layers, local), make({"model": model, "split": {"local": []}})
    objective, data = problem.objective, problem.client_data.data(1, 0)
    draw = torch.Generator().manual_seed(0)

    def moved(params: Params) -> Params:
        return {
            name: value + 0.3 * torch.randn(value.shape, generator=draw, dtype=value.dtype)
            for name, value in params.items()
        }

    shared, w = moved(objective.init_shared()), moved(objective.init_local(1))
    weights = LoRA.model_validate({**LORA, "layers": layers}).weights(whole.objective.parameter_names)

    def loss(theta: Params, local: Params) -> torch.Tensor:
        params = merged({**theta, **local}, weights, 1.5)
        return whole.objective.loss({name: params[name] for name in whole.objective.parameter_names}, {}, data)

    wanted = torch.func.grad(loss, argnums=(0, 1))(shared, w)
    for found, right in zip(objective.gradients(shared, w, data), wanted, strict=True):
        assert found.keys() == right.keys()
        for name, value in right.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(objective.loss(shared, w, data), loss(shared, w), rtol=1e-12, atol=1e-13)
    three = [
        {name: torch.stack([value, 0.5 * value, -value]) for name, value in params.items()} for params in (shared, w)
    ]
    together = torch.func.vmap(lambda theta, own: objective.gradients(theta, own, data))(*three)
    alone = objective.gradients(*({name: value[1] for name, value in params.items()} for params in three), data)
    for found, right in zip(together, alone, strict=True):
        for name, value in right.items():
            torch.testing.assert_close(found[name][1], value, rtol=1e-10, atol=1e-12)


def test_factors_alone_need_no_gradient_as_large_as_the_weight() -> None:
    problem = lora(CONFIG["model"], ["hidden1"], ["hidden1.lora_*"], frozen=["hidden1.weight"])
    objective, data = problem.objective, problem.client_data.data(0, 0)
    shapes: list[torch.Size] = []

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor) and "mm" in str(function):
                shapes.append(found.shape)
            return found

    shared, w = objective.init_shared(), objective.init_local(0)
    with Seen():
        objective.local_gradient(shared, w, data)
    assert shapes
    assert not {(12, 64), (64, 12)} & {tuple(shape) for shape in shapes}


def test_convolutions_keep_their_forms() -> None:
    stages = lora(PLAIN_CNN, ["conv1"], ["*.lora_*"]).objective.stages
    assert isinstance(stages[0], ConvolutionStage)
    assert stages[0].kernel_shape == (2, 1, 3, 3)
    assert stages[0].parameters["conv1.lora_A"].shape == (2, 9)
    assert stages[0].parameters["conv1.lora_B"].shape == (2, 2)


def test_embeddings() -> None:
    stage = Stage("words", {"words.weight": Parameter((7, 3), 1.0)}, lambda params, x: params["words.weight"][x])
    (found,) = adapted((stage,), LoRA(layers=("words",), rank=1, alpha=2.0))
    params = {
        "words.weight": torch.zeros(7, 3), "words.lora_A": torch.ones(1, 3), "words.lora_B": torch.arange(7.0)[:, None],
    }  # fmt: skip
    assert found.apply(params, torch.tensor([3])).tolist() == [[6.0, 6.0, 6.0]]


def test_vectors_have_no_factors() -> None:
    with pytest.raises(
        UserError, match=r"problem.split.lora.layers: norm1.weight has shape \(2,\).*conv1.weight"
    ) as error:
        lora(CNN, ["*"], ["head.*"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (["head"], "problem.split.lora.layers: 'head' matches no layer with a weight; these are 0, 2; allowed"),
        (["0"], "0.weight would have a factor 0.lora_B, which the model has itself; allowed: other layers"),
    ],
)
def test_layers_of_a_model_whose_names_nobody_knows_before(layers: list[str], said: str) -> None:
    def linear(name: str, more: str) -> Stage:
        shapes = {f"{name}.weight": (3, 3), f"{name}.{more}": (3,)}
        return Stage(name, {full: Parameter(shape) for full, shape in shapes.items()}, lambda params, x: x)

    with pytest.raises(UserError, match=said):
        adapted((linear("0", "lora_B"), linear("2", "bias")), LoRA.model_validate({"layers": layers}))


def test_silent_where_nothing_is_said() -> None:
    assert ModelSplit(local=()).silent_keys() == {"frozen": True, "lora": True, "floral": True}
    assert lora(CONFIG["model"], ["*"], ["*.lora_*"]).local_names == tuple(
        f"{layer}.lora_{factor}" for layer in ("hidden1", "hidden2", "head") for factor in "AB"
    )


def test_a_linear_head_without_factors_keeps_its_closed_form() -> None:
    problem = lora(CONFIG["model"], ["hidden1"], ["head.*"])
    assert problem.objective._network.linear_parameters(problem.local_names) == ("head.weight", "head.bias")
    close(problem.objective.init_local(0), make().objective.init_local(0))
