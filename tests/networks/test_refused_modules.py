"""What torch modules may not be or do, each told in one line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from ppfl.core.errors import UserError
from ppfl.networks.module_checks import refuse_unvectorized
from ppfl.networks.modules import stages_of
from tests.networks.running import draw


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


def test_what_fails_in_training_is_told_in_one_line() -> None:
    stage = stages_of(lambda: Odd("size of batches"), (3,))[0]
    with pytest.raises(UserError, match=r"^problem\.model: module cannot be called with \(7, 3\): ValueError: seven$"):
        stage.apply(draw((stage,)), torch.zeros(7, 3, dtype=torch.float64))


def test_what_cannot_be_vectorized_is_refused_for_several_clients_at_once() -> None:
    stages = stages_of(lambda: Odd("branch"), (3,))
    with pytest.raises(UserError, match=r"^engine\.clients_per_chunk: the module cannot be vectorized.*allowed: 1$"):
        refuse_unvectorized(stages, (3,), "numbers")
