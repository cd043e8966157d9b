"""Stages of torch modules: torch's own values and gradients, alone and vectorized, and their laws."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from ppfl.core.params import map_params
from ppfl.core.rng import generator
from ppfl.core.types import Params
from ppfl.networks.gradients import pullback
from ppfl.networks.model import LinearStage, Stage
from ppfl.networks.module_checks import refuse_unvectorized
from ppfl.networks.modules import stages_of
from tests.networks.running import draw, forward

IMAGES, TOKENS = (2, 9, 9), (5,)


def convolutions() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            first=nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2)),
            strided=nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
            grouped=nn.Conv2d(6, 6, (1, 2), groups=3, padding=0),
            flatten=nn.Flatten(),
            norm=nn.LayerNorm(6 * 2),
            drop=nn.Dropout(0.5),
            act=nn.GELU(),
            head=nn.Linear(12, 4),
        )
    )


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 6)
        layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.layers = nn.ModuleList([layer])
        self.decoder = nn.Linear(6, 4, bias=False)
        self.decoder.weight = self.embedding.weight
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.embedding(x)
        for layer in self.layers:
            y = layer(y, src_mask=self.mask)
        return self.decoder(y)


class Norms(nn.Module):
    """Normalizes samples first, whose gradient nobody wants, in the layout that convolutions leave behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.no_affine = nn.GroupNorm(2, 2, eps=1e-3), nn.GroupNorm(1, 2, affine=False)
        self.weight = nn.Parameter(torch.rand(2))
        self.head = nn.Linear(162, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        y = self.no_affine(self.first(x)) + torch.group_norm(x, 1, self.weight)
        return self.head(y.flatten(1))


def writing() -> nn.Module:
    block = nn.Sequential(nn.SiLU(inplace=True), nn.Linear(162, 4))
    return nn.Sequential(nn.Flatten(), nn.SiLU(inplace=True), nn.Linear(162, 162), block)


class Unread(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.cut, self.unread = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.cut(x).detach()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, num_layers=2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


def tied_parts() -> dict[str, nn.Module]:
    embedding, decoder = nn.Embedding(4, 6), nn.Linear(6, 4, bias=False)
    decoder.weight = embedding.weight
    return {"embedding": embedding, "layer": nn.Linear(6, 6), "decoder": decoder}


def recurrent() -> nn.Module:
    return nn.Sequential(nn.Embedding(4, 3), Recurrent(), nn.Linear(5, 4))


Case = tuple[Callable[[], Any], tuple[int, ...], str]
CASES: dict[str, Case] = {
    "convolutions": (convolutions, IMAGES, "refused"),
    "one module with tied weights and a buffer": (Tied, TOKENS, "shared"),
    "parts with tied weights": (tied_parts, TOKENS, "refused"),
    "recurrent": (recurrent, TOKENS, "refused"),
    "linear": (lambda: nn.Linear(3, 4), (3,), "refused"),
    "norms": (Norms, IMAGES, "refused"),
    "writes into what it is given": (writing, IMAGES, "refused"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def stages_for(case: Case) -> tuple[Stage, ...]:
    build, shape, buffers = case
    return stages_of(build, shape, "tokens" if shape == TOKENS else "numbers", buffers)  # type: ignore[arg-type]


def samples(shape: tuple[int, ...], client: int = 0) -> torch.Tensor:
    random = generator(1, "test batch", client=client)
    if shape == TOKENS:
        return torch.from_numpy(random.integers(0, 4, (3, *shape)))
    return torch.from_numpy(random.random((3, *shape)))


def whole(build: Callable[[], Any]) -> nn.Module:
    built = build()
    return nn.Sequential(OrderedDict(built)) if isinstance(built, dict) else built


def test_values_and_gradients_are_torchs_alone_and_for_three_clients(case: Case) -> None:
    stages, module = stages_for(case), whole(case[0]).double().eval()

    def gradient(params: Params, x: torch.Tensor) -> tuple[torch.Tensor, Params]:
        return forward(stages, params, x), torch.func.grad(lambda p: forward(stages, p, x).sin().sum())(params)

    clients = [(draw(stages, client), samples(case[1], client)) for client in range(3)]
    stacked = map_params(lambda *of: torch.stack(of), *(params for params, _ in clients))
    together = torch.func.vmap(gradient)(stacked, torch.stack([x for _, x in clients]))
    for number, (params, x) in enumerate(clients):
        assert list(params) == [name for name, _ in module.named_parameters()]
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(params[name])
        module.zero_grad()
        # a copy, since some write into it; that asks for a gradient, without which torch's GroupNorm ends the process
        logits = module(x.clone().requires_grad_(x.is_floating_point()).clone())
        logits.sin().sum().backward()
        alone = gradient(params, x)
        for found in (alone[0], together[0][number]):
            torch.testing.assert_close(found, logits.detach(), rtol=1e-10, atol=1e-10)
        for name, parameter in module.named_parameters():
            for found in (alone[1][name], together[1][name][number]):
                torch.testing.assert_close(found, parameter.grad, rtol=1e-10, atol=1e-10)


def test_parts_are_stages_and_a_module_is_one() -> None:
    parts = stages_for(CASES["convolutions"])
    assert [stage.name for stage in parts][:2] == ["first", "strided"]
    assert isinstance(parts[-1], LinearStage)
    assert [stage.name for stage in stages_for(CASES["one module with tied weights and a buffer"])] == ["module"]
    tied = stages_for(CASES["parts with tied weights"])
    assert tied[-1].shares == ("embedding.weight",)
    assert not tied[-1].parameters
    # of sequences a linear layer is none on flattened samples
    assert not any(isinstance(stage, LinearStage) for stage in stages_for(CASES["recurrent"]))


def test_initial_values_are_the_modules_own_reproducible_and_of_each_stage_alone() -> None:
    def build(*, more: bool) -> nn.Module:
        head = nn.Linear(3, 2)
        nn.init.constant_(head.bias, 0.25)
        return nn.Sequential(nn.Linear(2000, 3), head, *([nn.Linear(2, 2)] if more else []))

    few, many = (stages_of(partial(build, more=more), (2000,)) for more in (False, True))
    params, state = draw(few), torch.get_rng_state()
    again = draw(many)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, again[name]) for name, value in params.items())
    assert not torch.equal(draw(few, seed=1)["0.weight"], params["0.weight"])
    assert params["0.weight"].dtype == torch.float64
    assert torch.equal(params["0.weight"], params["0.weight"].float().double())
    assert float(params["0.weight"].abs().max()) == pytest.approx(2000**-0.5, rel=0.01)
    assert params["1.bias"].tolist() == [0.25, 0.25]


def test_dropout_is_sent_to_the_packages_own(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[float, str]] = []

    def note(x: torch.Tensor, rate: float, place: str) -> torch.Tensor:
        told.append((rate, place))
        return x

    stages = stages_of(lambda: nn.Sequential(nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.3)), nn.Linear(3, 2)), (3,))
    monkeypatch.setattr("ppfl.networks.modules.dropout", note)
    forward(stages, draw(stages), samples((3,)))
    assert told == [(0.1, "0.dropout1"), (0.3, "0.dropout2")]
    assert [stage.is_random for stage in stages] == [True, False]


def test_parameters_that_nothing_reads_have_a_gradient_of_zero() -> None:
    stages = stages_of(Unread, (3,))
    params, x = draw(stages), samples((3,))
    for names in (["unread.weight", "unread.bias"], ["cut.weight", "cut.bias"]):
        chosen = {name: params[name] for name in names}
        value, pull = pullback(lambda some: forward(stages, {**params, **some}, x), chosen)
        found = pull(torch.ones_like(value))
        assert {name: of.shape for name, of in found.items()} == {name: of.shape for name, of in chosen.items()}
        assert not any(of.any() for of in found.values())


def test_samples_that_a_module_writes_into_stay_as_they_were() -> None:
    stages = stages_of(writing, IMAGES)
    x = samples(IMAGES).flatten(1)
    before = x.clone()
    stages[1].apply(draw(stages), x)
    assert torch.equal(x, before)


def test_modules_of_layers_can_be_vectorized() -> None:
    refuse_unvectorized(stages_for(CASES["norms"]), IMAGES, "numbers")
    refuse_unvectorized(stages_of(lambda: nn.Linear(3, 2), (3,)), (3,), "numbers")
    refuse_unvectorized(stages_for(CASES["recurrent"]), TOKENS, "tokens")
