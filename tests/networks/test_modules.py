"""Stages of torch modules: torch's own values and gradients, alone and vectorized, their laws, and what is refused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from ppfl.core.errors import UserError
from ppfl.core.params import map_params
from ppfl.core.rng import generator
from ppfl.core.types import Params
from ppfl.networks.gradients import pullback
from ppfl.networks.model import LinearStage, Stage
from ppfl.networks.module_checks import refuse_unvectorized
from ppfl.networks.modules import stages_of

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


def draw(stages: tuple[Stage, ...], seed: int = 0) -> Params:
    params: Params = {}
    for stage in stages:
        params |= stage.init(lambda name: generator(seed, f"init {name}"))
    return params


def forward(stages: tuple[Stage, ...], params: Params, x: torch.Tensor) -> torch.Tensor:
    for stage in stages:
        x = stage.apply(params, x)
    return x


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


class Odd(nn.Module):
    """Does something that it should not."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.calls, self.seen = what, 0, None
        self.layer, self.drop, self.kept = nn.Linear(3, 2), nn.Dropout(0.5), [0]

    def forward(self, x: torch.Tensor) -> Any:
        y = self.layer(x)
        self.calls += self.what in ("shape", "state", "late")
        match self.what:
            case "shape":
                return y[:, : 1 + self.calls % 2]
            case "state":
                return y + self.calls
            case "noise":
                return y + torch.rand_like(y)
            case "batch":
                return y - y.mean(dim=0)
            case "before":
                return y.cumsum(dim=0)
            case "many":
                return y if len(x) < 3 else 2 * y
            case "few":
                return y.reshape(-1, 2) if len(x) < 3 else y.reshape(2, -1)
            case "training":
                return y if self.training else 2 * y
            case "functional":
                return nn.functional.dropout(y, 0.3, self.training)
            case "always":
                return nn.functional.dropout(y, 0.3)
            case "order":
                return self.drop(y.T).T
            case "half":
                return y.half()
            case "truth":
                return y > 0
            case "checkpoint":
                return torch.utils.checkpoint.checkpoint(self.layer, x, use_reentrant=False)
            case "size of batches" if len(x) == 7:
                raise ValueError("seven\nand more")
            case "exit":
                raise SystemExit("enough")
            case "tuple":
                return y, y
            case "rows":
                return y.sum(dim=0)
            case "raise":
                raise RuntimeError("no such thing")
            case _:
                return self.more(x, y)

    def more(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        match self.what:
            case "late":
                return y if self.calls < 100 else 2 * y
            case "first":
                self.seen = y.detach().mean() if self.seen is None else self.seen
                return y + self.seen
            case "list":
                self.kept.append(0)
            case "branch":
                return y if float(y.detach().sum()) < 1e9 else 2 * y
        return y


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return self.layer(x)


class Shortening(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(2, 3, max_norm=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table((x > 0).long()).mean(dim=1)


def not_a_number() -> nn.Module:
    layer = nn.Linear(3, 2)
    nn.init.constant_(layer.weight, torch.nan)
    return layer


def frozen() -> nn.Module:
    return nn.Linear(3, 2).requires_grad_(False)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Odd("shape"), "changes its shape between two calls"),
        (lambda: Odd("state"), "keeps hidden state"),
        (lambda: Odd("noise"), "random by nn.Dropout alone"),
        (lambda: Odd("batch"), "depends on the others of its batch"),
        (lambda: Odd("before"), "depends on the others of its batch"),
        (lambda: Odd("tuple"), "a tuple of 2 samples"),
        (lambda: Odd("rows"), r"a row for each|depends on the others"),
        (lambda: Odd("raise"), "RuntimeError: no such thing"),
        (lambda: Odd("late"), "a call changes its calls"),
        (lambda: Odd("first"), "a call changes its seen"),
        (lambda: Odd("list"), "a call changes its kept"),
        (lambda: Odd("many"), "depends on the others of its batch"),
        (lambda: Odd("few"), r"makes shape \(2, 5\) of 5 samples"),
        (lambda: Odd("training"), "does something else where `training` is true"),
        (lambda: Odd("functional"), "drops by itself; allowed: nn.Dropout"),
        (lambda: Odd("always"), "drops by itself; allowed: nn.Dropout"),
        (lambda: Odd("order"), "depends on the others of its batch|cannot be called with"),
        (lambda: Odd("half"), "makes torch.float16 of float64"),
        (lambda: Odd("truth"), "makes torch.bool of samples; allowed: floating numbers"),
        (lambda: Odd("checkpoint"), "cannot be differentiated"),
        (lambda: Odd("exit"), "SystemExit: enough"),
        (lambda: Shortening(), "writes into its parameter table.weight"),
        (not_a_number, "weight begins with NaN or inf"),
        (lambda: {"a": nn.Sequential(nn.Linear(3, 3)), "a.0": nn.Linear(3, 3)}, "called 'a.0'.*without dots"),
        (Counting, "seen is one"),
        (partial(nn.Sequential, nn.Linear(3, 3), nn.BatchNorm1d(3)), "1 is a BatchNorm1d.*nn.GroupNorm"),
        (lambda: nn.BatchNorm1d(3, track_running_stats=False), "mixes the samples of a batch"),
        (nn.Identity, "no parameters"),
        (lambda: nn.LazyLinear(3), "no shape yet"),
        (frozen, "requires_grad=False"),
        (lambda: nn.Sequential(nn.Dropout1d(0.5), nn.Linear(3, 2)), "drops 0.5 by itself"),
        (lambda: nn.TransformerEncoderLayer(4, 2), "drops 0.1 by itself"),
        (lambda: "text", "a str is no torch.nn.Module"),
        (lambda: {"a": nn.Linear(3, 2), "b": None}, "a NoneType is no torch.nn.Module"),
    ],
    ids=lambda value: value if isinstance(value, str) else "module",
)
def test_what_is_no_function_of_parameters_and_samples_is_refused(build: Callable[[], Any], said: str) -> None:
    with pytest.raises(UserError, match=rf"^problem\.model.*{said}"):
        stages_of(build, (3,))


def test_a_buffer_that_changes_is_no_constant() -> None:
    with pytest.raises(UserError, match="a call changes its buffers"):
        stages_of(Counting, (3,), buffers="shared")


def test_values_that_do_not_come_from_torch_are_refused() -> None:
    calls: list[int] = []

    def build() -> nn.Module:
        calls.append(1)
        layer = nn.Linear(3, 2)
        nn.init.constant_(layer.bias, float(len(calls)))
        return layer

    with pytest.raises(UserError, match="bias begins with other values each time"):
        stages_of(build, (3,))


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


def test_what_fails_in_training_is_told_in_one_line() -> None:
    stage = stages_of(lambda: Odd("size of batches"), (3,))[0]
    with pytest.raises(UserError, match=r"^problem\.model: module cannot be called with \(7, 3\): ValueError: seven$"):
        stage.apply(draw((stage,)), torch.zeros(7, 3, dtype=torch.float64))


def test_modules_of_layers_can_be_vectorized() -> None:
    refuse_unvectorized(stages_for(CASES["norms"]), IMAGES, "numbers")
    refuse_unvectorized(stages_of(lambda: nn.Linear(3, 2), (3,)), (3,), "numbers")
    refuse_unvectorized(stages_for(CASES["recurrent"]), TOKENS, "tokens")


def test_what_cannot_be_vectorized_is_refused_for_several_clients_at_once() -> None:
    stages = stages_of(lambda: Odd("branch"), (3,))
    with pytest.raises(UserError, match=r"^engine\.clients_per_chunk: the module cannot be vectorized.*allowed: 1$"):
        refuse_unvectorized(stages, (3,), "numbers")
