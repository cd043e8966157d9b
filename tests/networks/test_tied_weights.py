"""Tied weights: a parameter that is read before and behind the cut gets the gradients of both sides."""

from __future__ import annotations

import pytest
import torch

from ppfl.algorithms.fedavg import FedAvg
from ppfl.algorithms.ffgg import FFGG
from ppfl.comm.solo import SoloCommunicator
from ppfl.core.params import add_scaled, subtract
from ppfl.core.rng import generator
from ppfl.core.types import Data, Params
from ppfl.interfaces.client_data import Joined
from ppfl.interfaces.counting import SampleFlops
from ppfl.interfaces.placement import Placement
from ppfl.interfaces.split import LoRA, Parts, matched
from ppfl.networks import pieces
from ppfl.networks.lora import adapted
from ppfl.networks.model import Parameter, Stage, linear_stage
from ppfl.networks.pieces import Pieces
from ppfl.problems._supervised_objective import Made, Supervised
from tests.supervised_problems import close

WORDS, LENGTH, WIDTH = 7, 5, 4
LAYER, HEAD = 2 * LENGTH * WIDTH * WIDTH, 2 * WIDTH * WORDS
"""Operations of a product."""
SPLITS = [[], ["layer.weight"], ["head.bias"], ["embedding.weight"], ["embedding.weight", "layer.weight", "head.bias"]]


def stages() -> tuple[Stage, ...]:
    functional = torch.nn.functional
    return (
        Stage(
            "embedding",
            {"embedding.weight": Parameter((WORDS, WIDTH), deviation=1.0)},
            lambda params, x: functional.embedding(x, params["embedding.weight"]),
        ),
        Stage(
            "layer",
            {"layer.weight": Parameter((WIDTH, WIDTH), half_width=1.0)},
            lambda params, x: torch.tanh(x @ params["layer.weight"]).mean(dim=1),
        ),
        Stage(
            "head",
            {"head.bias": Parameter((WORDS,), deviation=0.5)},
            lambda params, x: x @ params["embedding.weight"].T + params["head.bias"],
            shares=("embedding.weight",),
        ),
    )


def objective(
    local: list[str], of: tuple[Stage, ...] | None = None, body_dtype: torch.dtype | None = None
) -> Supervised:
    of = of or stages()
    names = tuple(name for stage in of for name in stage.parameters)
    placement = Placement(SoloCommunicator(), 0, 0, torch.float64, torch.device("cpu"), None, body_dtype)
    return Supervised(Made(of, Parts(matched(tuple(local), names), ()), WORDS), placement)


def batch(client: int, size: int = 6) -> Data:
    random = generator(1, "test batch", client=client)
    tokens, labels = random.integers(0, WORDS, (size, LENGTH)), random.integers(0, WORDS, size)
    return {"x": torch.from_numpy(tokens), "y": torch.from_numpy(labels)}


def reference(problem: Supervised, shared: Params, local: Params, data: Data) -> tuple[Params, Params]:
    """Differentiate the loss of the whole model by autograd."""
    leaves = {name: value.clone().requires_grad_() for name, value in {**shared, **local}.items()}
    loss = problem.loss({name: leaves[name] for name in shared}, {name: leaves[name] for name in local}, data)
    found = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    return {name: found[name] for name in shared}, {name: found[name] for name in local}


@pytest.mark.parametrize("rows", [128, 4])
@pytest.mark.parametrize("local", SPLITS, ids=str)
def test_gradients_are_those_of_the_loss(local: list[str], rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "CPU", Pieces(rows, 1 << 30))
    problem, data = objective(local), batch(0)
    shared, w = problem.init_shared(), problem.init_local(0)
    of_shared, of_local = reference(problem, shared, w, data)
    found = problem.gradients(shared, w, data)
    close(found[0], of_shared)
    close(found[1], of_local)
    close(problem.shared_gradient(shared, w, data), of_shared)
    close(problem.local_gradient(shared, w, data), of_local)


@pytest.mark.parametrize("local", SPLITS, ids=str)
def test_clients_together_have_the_gradients_that_they_have_alone(local: list[str]) -> None:
    problem, clients = objective(local), [batch(k) for k in range(3)]
    shared, w = problem.init_shared(), [problem.redraw_local(k, 0) for k in range(3)]
    alone = [reference(problem, shared, w[k], clients[k]) for k in range(3)]
    tuned = {name: torch.stack([of[name] for of in w]) for name in w[0]}
    data = {name: torch.stack([of[name] for of in clients]) for name in clients[0]}
    both = torch.func.vmap(lambda local, one: problem.gradients(shared, local, one))(tuned, data)
    for k in range(3):
        for together, one in zip(both, alone[k], strict=True):
            close({name: value[k] for name, value in together.items()}, one)

    joined = Joined({name: value.flatten(0, 1) for name, value in data.items()}, [6, 6, 6])
    weights = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    wanted: Params = {name: torch.zeros_like(value) for name, value in shared.items()}
    for weight, (of_shared, _) in zip(weights.tolist(), alone, strict=True):
        wanted = add_scaled(wanted, of_shared, weight)
    close(problem.joint_pass(shared, joined).shared_gradient(tuned, weights), wanted)


def descended(problem: Supervised, shared: Params, local: Params, data: Data, lr: float, steps: int) -> Params:
    """Descend on what is local by autograd, or on θ where everything is shared."""
    for _ in range(steps):
        of_shared, of_local = reference(problem, shared, local, data)
        local, shared = add_scaled(local, of_local, -lr), shared if local else add_scaled(shared, of_shared, -lr)
    return local or shared


@pytest.mark.parametrize("local", [["head.bias"], ["layer.weight"], ["embedding.weight"]], ids=str)
def test_clients_of_ffgg_alone_and_together(local: list[str]) -> None:
    problem, clients = objective(local), [batch(k) for k in range(3)]
    tuner = {"name": "gradient_descent", "steps": 3, "lr": 0.1}
    ffgg = FFGG.model_validate({"name": "ffgg", "lr": 0.1, "fine_tuner": tuner})
    shared, w = problem.init_shared(), [problem.redraw_local(k, 0) for k in range(3)]

    def uplink(local: Params, data: Data) -> Params:
        return ffgg.client(problem, shared, {"local": local}, data, ffgg.draws(problem, 1, 0, 6)).uplink

    tuned = {name: torch.stack([of[name] for of in w]) for name in w[0]}
    together = torch.func.vmap(uplink)(tuned, {name: torch.stack([of[name] for of in clients]) for name in clients[0]})
    for k, data in enumerate(clients):
        wanted = reference(problem, shared, descended(problem, shared, w[k], data, 0.1, 3), data)[0]
        close(uplink(w[k], data), wanted)
        close({name: value[k] for name, value in together.items()}, wanted)


def test_clients_of_fedavg_alone_and_together() -> None:
    problem, clients = objective([]), [batch(k) for k in range(3)]
    fedavg = FedAvg.model_validate({"name": "fedavg", "lr": 0.1, "local_steps": 3})
    shared = problem.init_shared()

    def moved(data: Data) -> Params:
        return fedavg.client(problem, shared, {"local": {}}, data, fedavg.draws(problem, 1, 0, 6)).uplink

    together = torch.func.vmap(moved)({name: torch.stack([of[name] for of in clients]) for name in clients[0]})
    for k, data in enumerate(clients):
        wanted = subtract(shared, descended(problem, shared, {}, data, 0.1, 3))
        close(moved(data), wanted)
        close({name: value[k] for name, value in together.items()}, wanted)


def test_the_cut_is_before_the_first_stage_that_reads_a_local_parameter() -> None:
    problem = objective(["embedding.weight"])
    assert problem.prefix_of(problem.init_shared()) == {}
    tied = objective(["head.bias"])
    assert list(tied.prefix_of(tied.init_shared())) == ["embedding.weight", "layer.weight"]


@pytest.mark.parametrize(
    ("local", "wanted"),
    [
        # a product takes as much for its input, and as much for its weight; to look up a row takes nothing
        ([], SampleFlops(LAYER + HEAD, 2 * LAYER + 2 * HEAD, 0, 0, 0, 0)),
        (["layer.weight"], SampleFlops(0, 0, LAYER + HEAD, LAYER + HEAD, LAYER + 2 * HEAD, 2 * LAYER + 2 * HEAD)),
        (["head.bias"], SampleFlops(LAYER, 2 * LAYER, HEAD, 0, 2 * HEAD, 2 * HEAD)),
        (["embedding.weight"], SampleFlops(0, 0, LAYER + HEAD, LAYER + 2 * HEAD, LAYER + HEAD, 2 * LAYER + 2 * HEAD)),
    ],
    ids=str,
)
def test_operations_are_counted_on_both_sides(local: list[str], wanted: SampleFlops) -> None:
    assert objective(local).flops_of_sample(batch(0)) == wanted


LORA = LoRA(layers=("embedding", "layer"), rank=2)
FACTORS = ["embedding.lora_A", "embedding.lora_B"]


@pytest.mark.parametrize("local", [[], ["layer.lora_*"], ["head.bias"], FACTORS, ["embedding.lora_A"]], ids=str)
def test_factors_of_tied_weights_get_the_gradients_of_both_sides(local: list[str]) -> None:
    problem = objective(local, adapted(stages(), LORA))
    shared, w, data = problem.init_shared(), problem.redraw_local(1, 2), batch(1)
    for params in (shared, w):
        # unlike ones: what is added to all words alike, the loss does not see
        for name in (name for name in params if name.endswith("lora_B")):
            params[name] = torch.sin(torch.arange(params[name].numel()).double()).reshape(params[name].shape)
    wanted = reference(problem, shared, w, data)
    for found, right in zip(problem.gradients(shared, w, data), wanted, strict=True):
        close(found, right)
    close(problem.local_gradient(shared, w, data), wanted[1])
    close(problem.shared_gradient(shared, w, data), wanted[0])
    # both stages read the weight with its factors
    params, plain = {**shared, **w}, objective([])
    merged = {
        f"{layer}.weight": params[f"{layer}.weight"]
        + LORA.alpha / LORA.rank * params[f"{layer}.lora_B"] @ params[f"{layer}.lora_A"]
        for layer in LORA.layers
    }
    whole = plain.loss({**{name: params[name] for name in plain.parameter_names}, **merged}, {}, data)
    torch.testing.assert_close(problem.loss(shared, w, data), whole, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("lora", [None, LORA], ids=["plain", "LoRA"])
def test_short_numbers(lora: LoRA | None) -> None:
    """The stage that reads another one's weight computes in bfloat16, as the last one does not."""
    last = linear_stage("last", WORDS, WORDS, relu=False)
    found = [objective([], adapted((*stages(), last), lora), dtype) for dtype in (None, torch.bfloat16)]
    theta, data = {name: value.float() for name, value in found[0].init_shared().items()}, batch(1)
    long, short = (one.gradients(theta, {}, data)[0] for one in found)
    for name, value in long.items():
        assert short[name].dtype == torch.float32
        assert (short[name] - value).norm() <= 0.05 * value.norm()
    assert not torch.equal(long["embedding.weight"], short["embedding.weight"])


def test_laws_of_parameters() -> None:
    random = generator(0, "law")
    normal = Parameter((200, 50), centre=3.0, deviation=0.5).draw(random)
    assert normal.dtype == torch.float64
    assert abs(float(normal.mean()) - 3.0) < 0.02
    assert abs(float(normal.std()) - 0.5) < 0.02
    assert torch.equal(Parameter((3,), centre=1.0).draw(random), torch.ones(3, dtype=torch.float64))
    own = Parameter((2,), own=lambda found: torch.from_numpy(found.random(2)).float())
    assert own.draw(generator(0, "x")).dtype == torch.float64


def test_one_parameter_may_begin_as_another() -> None:
    law = {"a": Parameter((3,), deviation=1.0), "b": Parameter((3,), deviation=1.0, drawn_as="a")}
    drawn = Stage("stage", law, lambda _, x: x).init(lambda name: generator(0, f"init {name}"))
    assert torch.equal(drawn["a"], drawn["b"])
