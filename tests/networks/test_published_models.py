"""Models of the literature: their published sizes, and torch modules of the same parameters by name."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch

from ppfl.core.errors import UserError
from ppfl.core.params import map_params
from ppfl.core.rng import generator
from ppfl.core.types import Params
from ppfl.interfaces.split import Split
from ppfl.networks.model import Stage
from tests import examples
from tests.networks import reference_modules

Published = list[tuple[list[str], int]]
FEMNIST = (1, 28, 28), 62
LANDMARKS = (3, 224, 224), 2028
WORDS = (20,), 10_004
ADAPTERS = ["*adapter*", "*bn1.*", "*bn2.*"]


def sizes(
    name: str, shape: tuple[int, ...], classes: int, globs: list[str] | None = None, **settings: Any
) -> dict[str, int]:
    """Return the numbers of parameters by name, as the split needs the model."""
    model = examples.kind("models", name).model_validate({"name": name, **settings})
    stages = model.for_split(Split(local=tuple(globs or ()))).stages(shape, classes)
    return {key: math.prod(law.shape) for stage in stages for key, law in stage.parameters.items()}


def matched(found: dict[str, int], globs: list[str]) -> int:
    return sum(size for name, size in found.items() if any(fnmatchcase(name, glob) for glob in globs))


@pytest.mark.parametrize(
    ("name", "of", "settings", "globs", "published"),
    [
        ("resnet18", FEMNIST, {}, ["*"], 11_199_486),
        ("resnet18", FEMNIST, {}, ["conv1.*", "bn1.*"], 704),
        ("resnet18", FEMNIST, {}, ["fc.*"], 31_806),
        ("resnet18", LANDMARKS, {"stem": "7x7"}, ["*"], 12_216_876),
        ("resnet18", LANDMARKS, {"stem": "7x7"}, ["conv1.*", "bn1.*"], 9_536),
        ("resnet18", LANDMARKS, {"stem": "7x7"}, ["fc.*"], 1_040_364),
        ("resnet18", FEMNIST, {"adapters": True}, ["*adapter?.conv.*"], 1_392_640),
        ("resnet18", FEMNIST, {"adapters": True}, ["*adapter?.norm.*"], 7_680),
        ("resnet18", FEMNIST, {"adapters": True}, ["*bn1.*", "*bn2.*"], 7_808),
        ("resnet18", FEMNIST, {"adapters": True}, ADAPTERS, 1_408_128),
        ("resnet18", LANDMARKS, {"stem": "7x7", "adapters": True}, ADAPTERS, 1_408_128),
        ("transformer", WORDS, {}, ["*"], 5_721_088),
        ("transformer", WORDS, {}, ["layers.2.*"], 788_736),
        ("transformer", WORDS, {"adapters": 16}, ["*adapter*", "*norm*"], 71_808),
        ("transformer", WORDS, {"adapters": 64}, ["*adapter*", "*norm*"], 268_800),
        ("emnist_cnn", FEMNIST, {}, ["*"], 1_206_590),
        ("cnn32", ((3, 32, 32), 10), {}, ["*"], 307_842),
    ],
    ids=str,
)  # fmt: skip
def test_sizes_are_the_published_ones(
    name: str, of: tuple[tuple[int, ...], int], settings: dict[str, Any], globs: list[str], published: int
) -> None:
    assert matched(sizes(name, *of, globs, **settings), globs) == published


def test_adapters_are_one_convolution_for_each_of_the_blocks() -> None:
    found = sizes("resnet18", *FEMNIST, adapters=True)
    names = [name for name in found if name.endswith(("adapter1.conv.weight", "adapter2.conv.weight"))]
    assert len(names) == 16
    assert sum(found.values()) == 11_199_486 + 1_392_640 + 7_680


SMALL_TRANSFORMER = {"width": 8, "layers": 2, "heads": 2, "feed_forward": 12, "positions": 7, "adapters": 3}
CASES: list[tuple[str, dict[str, Any], torch.nn.Module, tuple[int, ...]]] = [
    ("resnet18", {"width": 8}, reference_modules.resnet18(1, 4, width=8), (1, 13, 13)),
    ("resnet18", {"width": 8, "adapters": True}, reference_modules.resnet18(1, 4, width=8, adapters=True), (1, 13, 13)),
    ("resnet18", {"width": 8, "stem": "7x7"}, reference_modules.resnet18(3, 4, width=8, stem="7x7"), (3, 40, 32)),
    ("transformer", SMALL_TRANSFORMER, reference_modules.Transformer(4, **SMALL_TRANSFORMER, tied=True), (6,)),
    (
        "transformer", {**SMALL_TRANSFORMER, "adapters": 0, "tied": False},
        reference_modules.Transformer(4, **{**SMALL_TRANSFORMER, "adapters": 0}, tied=False), (7,),
    ),
    ("lstm", {"embedding": 3, "hidden": 5}, reference_modules.Recurrent(4, embedding=3, hidden=5), (6,)),
    ("emnist_cnn", {"channels": [3, 4], "hidden": 8}, reference_modules.emnist_cnn((3, 4), 8, 13, 4), (1, 13, 13)),
    (
        "cnn32", {"channels": [3, 4], "hidden": [6, 5]}, reference_modules.cnn32((3, 4), (6, 5), 19, 4), (1, 19, 19),
    ),
]  # fmt: skip


def forward(stages: tuple[Stage, ...], params: Params, x: torch.Tensor) -> torch.Tensor:
    for stage in stages:
        x = stage.apply(params, x)
    return x


def samples(shape: tuple[int, ...], client: int) -> torch.Tensor:
    random = generator(1, "test batch", client=client)
    if len(shape) == 1:
        return torch.from_numpy(random.integers(0, 4, (3, *shape)))
    return torch.from_numpy(random.random((3, *shape)))


@pytest.mark.parametrize(
    ("name", "settings", "module", "shape"),
    CASES,
    ids=lambda of: type(of).__name__ if isinstance(of, torch.nn.Module) else str(of),
)
def test_equal_to_a_module_with_the_same_parameters_alone_and_for_three_clients(
    name: str, settings: dict[str, Any], module: torch.nn.Module, shape: tuple[int, ...]
) -> None:
    """Logits and all gradients, of one client and vectorized, against autograd of torch's own modules."""
    model = examples.kind("models", name).model_validate({"name": name, **settings})
    stages = model.stages(shape, 4)
    module = module.double()

    def drawn(client: int) -> Params:
        return {
            key: value + 0.1 * torch.from_numpy(generator(client, key).standard_normal(value.shape))
            for stage in stages
            for key, value in stage.init(lambda key: generator(0, f"init {key}")).items()
        }

    def gradient(params: Params, x: torch.Tensor) -> tuple[torch.Tensor, Params]:
        logits = forward(stages, params, x)
        return logits, torch.func.grad(lambda p: forward(stages, p, x).sin().sum())(params)

    clients = [(drawn(client), samples(shape, client)) for client in range(3)]
    stacked = map_params(lambda *of: torch.stack(of), *(params for params, _ in clients))
    together = torch.func.vmap(gradient)(stacked, torch.stack([x for _, x in clients]))
    for number, (params, x) in enumerate(clients):
        module.load_state_dict(params)
        module.zero_grad()
        logits = module(x)
        logits.sin().sum().backward()
        alone = gradient(params, x)
        torch.testing.assert_close(alone[0], logits.detach(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(together[0][number], logits.detach(), rtol=1e-10, atol=1e-10)
        for key, parameter in module.named_parameters():
            torch.testing.assert_close(alone[1][key], parameter.grad, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(together[1][key][number], parameter.grad, rtol=1e-10, atol=1e-10)


def names(globs: list[str], **settings: Any) -> tuple[str, ...]:
    model = examples.make("models", "transformer", **settings)
    found: tuple[str, ...] = model.for_split(Split(local=tuple(globs))).parameter_names()
    return found


@pytest.mark.parametrize(
    ("globs", "settings", "untied"),
    [
        ([], {}, False),
        (["*"], {}, False),
        (["layers.1.*"], {}, False),
        (["decoder.*"], {}, True),
        (["*embedding*"], {}, True),
        (["*embedding*", "decoder.*"], {}, False),
        (["*embedding*"], {"tied": True}, False),
        ([], {"tied": False}, True),
    ],
    ids=str,
)
def test_the_output_is_untied_where_the_split_tells_it_from_the_embedding(
    globs: list[str], settings: dict[str, Any], untied: bool
) -> None:
    assert ("decoder.weight" in names(globs, **settings)) == untied


def test_an_untied_output_begins_as_the_embedding() -> None:
    stages = examples.make("models", "transformer", tied=False).stages((5,), 4)
    params: Params = {}
    for stage in stages:
        params |= stage.init(lambda name: generator(0, f"init {name}"))
    assert torch.equal(params["decoder.weight"], params["word_embedding.weight"])
    assert not torch.equal(params["decoder.weight"], torch.zeros(4, 8, dtype=torch.float64))


def test_no_position_sees_a_later_one() -> None:
    for name in ("transformer", "lstm"):
        stages = examples.make("models", name).stages((5,), 4)
        params: Params = {}
        for stage in stages:
            params |= stage.init(lambda key: generator(0, f"init {key}"))
        x = samples((5,), 0)
        other = x.clone()
        other[:, 3:] = (x[:, 3:] + 1) % 4
        one, two = forward(stages, params, x), forward(stages, params, other)
        torch.testing.assert_close(one[:, :3], two[:, :3], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(one[:, 3:], two[:, 3:])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (64,)), ("resnet18", (1, 7, 9)), ("emnist_cnn", (1, 5, 9)), ("cnn32", (3, 15, 40)),
        ("transformer", (1, 8, 8)), ("transformer", (21,)), ("lstm", (1, 8, 8)),
    ],
)  # fmt: skip
def test_samples_that_do_not_suit_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"^problem\.model"):
        examples.make("models", name).stages(shape, 4)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet18", {"width": 12}), ("transformer", {"heads": 3}), ("transformer", {"dropout": 1.0}),
        ("lstm", {"layers": 0}),
    ],
    ids=str,
)  # fmt: skip
def test_impossible_settings_are_refused(name: str, settings: dict[str, Any]) -> None:
    assert not examples.accepts("models", name, examples.section("models", name, **settings))


def test_rates_and_places_of_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each use has a place of its own, and stages that drop say so."""
    for name, settings, rates in (
        ("emnist_cnn", {"dropout": True}, [0.25, 0.5]),
        ("transformer", {"dropout": 0.1}, [0.1] * 5),
    ):
        told: list[tuple[float, str]] = []

        def note(x: torch.Tensor, rate: float, place: str, told: list[tuple[float, str]] = told) -> torch.Tensor:
            told.append((rate, place))
            return x

        monkeypatch.setattr("ppfl.models.transformer.dropout", note)
        monkeypatch.setattr("ppfl.networks.dropout.dropout", note)  # as `dropout_stage` finds it
        shape = (5,) if name == "transformer" else (1, 13, 13)
        x, params = samples(shape, 0), dict[str, torch.Tensor]()
        for stage in examples.make("models", name, **settings).stages(shape, 4):
            before = len(told)
            params |= stage.init(lambda key: generator(0, key))
            x = stage.apply(params, x)
            assert stage.is_random == (len(told) > before)
        assert [rate for rate, _ in told] == rates
        assert len({place for _, place in told}) == len(rates)
