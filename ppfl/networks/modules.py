"""Stages of torch modules: pure functions by `torch.func.functional_call`, our rules in the place of torch's layers.

Import it inside of functions: its classes are made of torch's, which configurations are read without.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ppfl.core.errors import UserError
from ppfl.core.transforms import is_vectorized
from ppfl.networks import layers
from ppfl.networks.dropout import dropout
from ppfl.networks.model import LinearStage, Parameter, Stage
from ppfl.networks.module_checks import Buffers, checked, example_of, refuse_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from ppfl.core.types import Params
    from ppfl.networks.model import Takes

Built: TypeAlias = "nn.Module | Mapping[str, nn.Module]"
_SEEDED = RLock()
"""Torch has one generator a process, and threads may build at once."""


def stages_of(
    build: Callable[[], Built], input_shape: tuple[int, ...], takes: Takes = "numbers", buffers: Buffers = "refused"
) -> tuple[Stage, ...]:
    """Return the stages of what `build` makes: the parts of an nn.Sequential or of a mapping, or one module as a whole.

    Parameters are called as in the module, "0.weight" or "head.weight", and begin with what `build` draws for them, in
    float32, torch being seeded for each stage: the values are the same on every rank, and those of a stage do not
    depend on what comes behind it. Tied parameters count where they are first. Raises UserError for what is no function
    of its parameters and of each sample by itself.

    >>> from torch import nn
    >>> from ppfl.networks.modules import stages_of
    >>> stages = stages_of(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), input_shape=(4,))
    >>> [(stage.name, list(stage.parameters)) for stage in stages]
    [('0', ['0.weight', '0.bias']), ('1', []), ('2', ['2.weight', '2.bias'])]
    """
    law = _Law(build)
    parts = law.parts(0)
    refuse_modules(parts, buffers)
    if (other := law.differs()) is not None:
        raise UserError(
            f"problem.model: {other} begins with other values each time although torch is seeded; allowed: initial "
            "values that are constant or drawn by torch"
        )
    x, params = example_of(input_shape, takes), law.values(0)
    owners: dict[int, str] = {}
    stages: list[Stage] = []
    for name, part in parts.items():
        stage = _stage(name, part, law, owners)
        is_layer = type(part) is nn.Linear and part.bias is not None and not stage.shares
        if is_layer and x.ndim == 2:
            stage = LinearStage(stage.name, stage.parameters, stage.apply)
        x = checked(stage, {full: params[full].double() for full in stage.reads}, x)
        stages.append(stage)
    if not owners:
        raise UserError("problem.model: the module has no parameters; allowed: one with something to train")
    if not x.is_floating_point():
        raise UserError(f"problem.model: the module makes {x.dtype} of samples; allowed: floating numbers")
    return tuple(stages)


def _stage(name: str, part: nn.Module, law: _Law, owners: dict[int, str]) -> Stage:
    """Return one stage; `owners` is told the full names of the parameters that no stage had before."""
    prefix = f"{name}." if name else ""
    names: dict[str, str] = {}
    laws: dict[str, Parameter] = {}
    for local, value in part.named_parameters(remove_duplicate=False):
        names[local] = full = owners.setdefault(id(value), f"{prefix}{local}")
        if full == f"{prefix}{local}":
            # one generator for all of a stage: what it draws for one tensor depends on those before
            laws[full] = Parameter(tuple(value.shape), own=partial(law, full), drawn_as=next(iter(laws), full))
    shares = tuple(dict.fromkeys(full for full in names.values() if full not in laws))
    is_random = any(type(one) is nn.Dropout and one.p > 0 for one in part.modules())
    apply = OfModule(name or "module", part, names)
    return Stage(apply.name, laws, apply, is_random=is_random, shares=shares)


class _Law:
    """The module's own: what `build` draws for each parameter, by full name, when torch is seeded by a generator."""

    def __init__(self, build: Callable[[], Built]) -> None:
        self._build = build
        self._seed, self._values = -1, dict[str, torch.Tensor]()

    def __call__(self, name: str, random: np.random.Generator) -> torch.Tensor:
        return self._drawn(int(random.integers(1 << 63)))[name].clone()

    def _drawn(self, seed: int) -> dict[str, torch.Tensor]:
        # all parameters of a stage ask with the same seed, one after another
        if seed != self._seed:
            self._seed, self._values = seed, self.values(seed)
        return self._values

    def values(self, seed: int) -> dict[str, torch.Tensor]:
        """Build, and return the values of all parameters; tied ones by each of their names."""
        return {
            f"{name}.{local}" if name else local: value.detach()
            for name, part in self.parts(seed).items()
            for local, value in part.named_parameters(remove_duplicate=False)
        }

    def differs(self) -> str | None:
        """Return a parameter that has other values when it is drawn again."""
        one, two = self.values(0), self.values(0)
        # first, since NaN is not even equal to itself
        for name, value in one.items():
            if not value.isfinite().all():
                raise UserError(f"problem.model: {name} begins with NaN or inf; allowed: finite numbers")
        return next((name for name, value in one.items() if not torch.equal(value, two[name])), None)

    def parts(self, seed: int) -> dict[str, nn.Module]:
        """Build, and return what becomes a stage each, by name."""
        with _SEEDED, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            built = self._build()
        if isinstance(built, nn.Sequential) and len(built) > 1:
            found: Mapping[Any, Any] = built._modules  # children would leave out those that are there twice
        else:
            found = built if isinstance(built, Mapping) else {"": built}
        for name, part in found.items():
            if not isinstance(name, str) or not isinstance(part, nn.Module):
                raise UserError(
                    f"problem.model: a {type(part).__name__} is no torch.nn.Module; allowed: a module, an "
                    "nn.Sequential, or a dict of modules by name"
                )
            if "." in name:  # `a.b` beside an `a` with a part `b`: two parameters would have one name
                raise UserError(f"problem.model: a module is called {name!r}; allowed: names without dots, as in torch")
        return dict(found)


class OfModule:
    """(params, x) -> module(x) with these parameters."""

    def __init__(self, name: str, module: nn.Module, names: Mapping[str, str]) -> None:
        self.name = name
        # gradients are of what is put into its place, and no graph is to hold the module's own values
        self.module = module.eval().requires_grad_(False)
        self._set_training(of_dropout=True)
        self._names = names
        self._buffers = dict(module.named_buffers())
        self.writes = False
        """Whether it writes into the samples that it is given; then it is given copies."""

    def __call__(self, params: Params, x: torch.Tensor) -> torch.Tensor:
        """Return what the module makes of x (S, …) with parameters by full name."""
        return self._call(params, x, self._buffers_like(params, x))

    def changes_buffers(self, params: Params, x: torch.Tensor) -> bool:
        """Say whether a call does, of copies that it is given."""
        before = self._buffers_like(params, x)
        given = {name: value.clone() for name, value in before.items()}
        self._call(params, x, given)
        return any(not torch.equal(value, given[name]) for name, value in before.items())

    def _buffers_like(self, params: Params, x: torch.Tensor) -> Params:
        """Return the buffers where the parameters are, floating ones in their precision."""
        like = next((params[full] for full in self._names.values()), x)
        return {
            name: value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)
            for name, value in self._buffers.items()
        }

    def attributes(self) -> dict[str, Any]:
        """Return what modules that are not torch's own hold beside parameters, buffers and modules, and its size."""
        return {
            f"{place}.{name}" if place else name: (value, len(value) if isinstance(value, list | dict | set) else 0)
            for place, one in self.module.named_modules()
            if not type(one).__module__.startswith("torch.")
            for name, value in vars(one).items()
            if name not in ("_parameters", "_buffers", "_modules")
        }

    def in_training(self, params: Params, x: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """Return what it would make of x if `training` were true for all but nn.Dropout, and whether it drops then."""
        our_layers = _OurLayers(self.name)
        self._set_training(of_dropout=False)
        try:
            return self._call(params, x, self._buffers_like(params, x), our_layers), our_layers.num_dropped > 0
        finally:
            self._set_training(of_dropout=True)

    def _set_training(self, *, of_dropout: bool) -> None:
        for one in self.module.modules():
            # eval for all that has two ways, but dropout is to call the function that we put into its place
            one.training = of_dropout == (type(one) is nn.Dropout)

    def _call(
        self, params: Params, x: torch.Tensor, buffers: Params, our_layers: _OurLayers | None = None
    ) -> torch.Tensor:
        tensors = {local: params[full] for local, full in self._names.items()}
        x = x.clone() if self.writes else x
        try:
            with our_layers or _OurLayers(self.name):
                found: torch.Tensor = torch.func.functional_call(self.module, {**tensors, **buffers}, (x,))
        except torch.OutOfMemoryError:  # of the device, on which fewer clients at a time may fit
            raise
        except (Exception, SystemExit) as error:
            why = next(iter(str(error).strip().splitlines()), "no reason given")
            raise UserError(
                f"problem.model: {self.name} cannot be called with {tuple(x.shape)}: {type(error).__name__}: {why}"
            ) from error
        return found


class _OurLayers(TorchFunctionMode):
    """Sends the functions that torch's modules call to `ppfl.networks.layers` where that can do them."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place
        self.num_dropped = 0

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        functional = torch.nn.functional
        if func is functional.linear:
            return layers.linear(*args, **kwargs)
        if func is functional.conv2d:
            return _conv2d(*args, **kwargs)
        if func is functional.group_norm or func is torch.group_norm:
            return _group_norm(*args, **kwargs)
        if func is torch.lstm and is_vectorized():
            return _lstm(*args, **kwargs)
        if func is functional.scaled_dot_product_attention and is_vectorized():
            return _attention(*args, **kwargs)
        if func is functional.multi_head_attention_forward and is_vectorized():
            # with weights it is made of products, without them it calls torch's own kernel, from inside of torch
            found, weights = func(*args, **{**kwargs, "need_weights": True})
            return found, weights if kwargs.get("need_weights", True) else None
        if func is functional.dropout:
            return self._dropout(*args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(self, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if not training:
            return input
        # each use within a stage has a place of its own
        self.num_dropped += 1
        return dropout(input, p, f"{self._place}.dropout{self.num_dropped}")


def _conv2d(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> torch.Tensor:  # fmt: skip
    if _is_plain(weight, stride, padding) and input.ndim == 4 and groups == 1 and _pair(dilation) == (1, 1):
        return layers.conv2d(input, weight, bias, stride=_pair(stride)[0], padding=_pair(padding)[0])
    return torch.nn.functional.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _is_plain(weight: torch.Tensor, stride: Any, padding: Any) -> bool:
    """Say whether it is the same in both directions, by numbers."""
    pairs = (tuple(weight.shape[2:]), _pair(stride), _pair(padding))
    return not isinstance(padding, str) and all(one == other for one, other in pairs)


def _pair(value: Any) -> tuple[Any, Any]:
    return (value, value) if isinstance(value, int | str) else (value[0], value[-1])


def _group_norm(
    input: torch.Tensor, num_groups: int, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None,
    eps: float = 1e-5, cudnn_enabled: bool = True,
) -> torch.Tensor:  # fmt: skip
    if input.ndim == 4 and weight is not None and bias is not None and eps == 1e-5:
        return layers.group_norm(input, num_groups, weight, bias)
    # images as rows of numbers: torch's kernel of the layout of convolutions writes the gradient of samples to where
    # there is no memory (`layers.group_norm`), and asks for that layout in a way that cannot be vectorized
    rows = (input.flatten(2) if input.ndim > 3 else input).contiguous()
    return torch.nn.functional.group_norm(rows, num_groups, weight, bias, eps).reshape(input.shape)


def _lstm(
    input: torch.Tensor, hx: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], has_biases: bool,
    num_layers: int, dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    each = 4 if has_biases else 2
    if bidirectional or len(weights) != each * num_layers or input.ndim != 3:
        raise NotImplementedError("nn.LSTM in both directions, with projections, or of packed sequences")
    x = input if batch_first else input.transpose(0, 1)
    last = []
    for number, start in enumerate(zip(*hx, strict=True)):
        x, *states = layers.lstm_layer(x, *weights[each * number : each * (number + 1)], start=start)
        last.append(states)
    state, memory = (torch.stack(of) for of in zip(*last, strict=True))
    return x if batch_first else x.transpose(0, 1), state, memory


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    if dropout_p or enable_gqa:
        raise NotImplementedError("attention with dropout of its own, or with fewer heads of keys")
    return layers.attention(query, key, value, attn_mask, is_causal=is_causal, scale=scale)
