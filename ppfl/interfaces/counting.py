"""What a method computes, found by playing one client on an objective that only counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ppfl.interfaces.objective import Objective, SharedPass

if TYPE_CHECKING:
    from ppfl.core.types import Data, Params
    from ppfl.interfaces.method import Algorithm, Report, ServerOptimizer


@dataclass(frozen=True)
class SampleFlops:
    """Floating-point operations of one sample, a multiply-add being two; the prefix is what depends on θ alone."""

    prefix_forward: int
    prefix_backward: int
    """To the parameters of the prefix, given the gradient of its features."""
    suffix_forward: int
    suffix_to_local: int
    """Backward to w."""
    suffix_to_shared: int
    """Backward to what of θ is in the suffix, and to the features."""
    suffix_to_all: int

    @property
    def forward(self) -> int:
        """The whole model, once."""
        return self.prefix_forward + self.suffix_forward


class Counting(Objective):
    """Stands in for an objective: one number for θ, one for w, gradients 0, and every sample's operations counted.

    Methods have no control flow on values, so that they do the same as with the objective it stands for.
    """

    parameter_names = ("theta", "w")
    seed = 0

    def __init__(self, of_sample: SampleFlops) -> None:
        self._of_sample = of_sample
        self.num_flops = 0.0

    @property
    def needs_iterations(self) -> str:
        """As if there were a closed form: a method that needs none has been refused before."""
        return ""

    def init_shared(self) -> Params:
        """0."""
        return {"theta": torch.zeros(1)}

    def init_local(self, client: int) -> Params:
        """0."""
        return {"w": torch.zeros(1)}

    def redraw_local(self, client: int, round: int) -> Params:
        """0."""
        return self.init_local(client)

    def advance(self, shared: Params, data: Data) -> Data:
        """Count the prefix, forward."""
        if "features" in data:
            return data
        self._count(self._of_sample.prefix_forward, data)
        return {"features": data["x"]}

    def loss(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        """Count a way forth."""
        self._count(self._of_sample.suffix_forward, self.advance(shared, data))
        return torch.zeros(())

    def local_gradient(self, shared: Params, local: Params, data: Data) -> Params:
        """Count the suffix forth and back."""
        of = self._of_sample
        self._count(of.suffix_forward + of.suffix_to_local, self.advance(shared, data))
        return _zeros(local)

    def shared_gradient(self, shared: Params, local: Params, data: Data) -> Params:
        """Count all of the model forth and back, w left out; of data that were advanced, the way forth of the rest."""
        of = self._of_sample
        advanced = self.advance(shared, data)
        self._count(of.suffix_forward + of.suffix_to_shared + of.prefix_backward, advanced)
        return _zeros(shared)

    def shared_pass(self, shared: Params, data: Data) -> SharedPass:
        """Count the prefix forth, for the fine-tuner and for θ's gradient."""
        return _Once(self, shared, data)

    def gradients(self, shared: Params, local: Params, data: Data) -> tuple[Params, Params]:
        """Count all of the model forth and back."""
        of = self._of_sample
        self._count(of.suffix_forward + of.suffix_to_all + of.prefix_backward, self.advance(shared, data))
        return _zeros(shared), _zeros(local)

    def local_hessian_product(self, shared: Params, local: Params, direction: Params, data: Data) -> Params:
        """Count a gradient of w and the way back through it."""
        of = self._of_sample
        self._count(2 * (of.suffix_forward + of.suffix_to_local), self.advance(shared, data))
        return _zeros(direction)

    def exact_local(self, shared: Params, data: Data) -> Params:
        """Count the prefix; what solves the system depends on its size and not on the network."""
        self.advance(shared, data)
        return self.init_local(0)

    def _count(self, of_sample: int, data: Data) -> None:
        self.num_flops += of_sample * len(next(iter(data.values())))


class _Once(SharedPass):
    """Has the prefix counted once, for w and for θ."""

    def shared_gradient(self, local: Params) -> Params:
        """Count the suffix forth and back, and the prefix back."""
        return self._objective.shared_gradient(self._shared, local, self.data)


def count_flops(
    algorithm: Algorithm, optimizer: ServerOptimizer, of_sample: SampleFlops, num_samples: int
) -> tuple[float, Report]:
    """Return the operations of one client with S samples in a round, and what it would tell of itself."""
    counting = Counting(of_sample)
    shared, local = counting.init_shared(), counting.init_local(0)
    server = algorithm.init_server(shared, optimizer)
    # a method that sends each client its own message has none for all
    message = algorithm.downlink(server, 0) or algorithm.downlink(server, 0, 0)
    assert message is not None
    draws = algorithm.draws(counting, 0, 0, num_samples)
    data = {"x": torch.zeros(num_samples)}
    step = algorithm.client(counting, message, algorithm.init_client(shared, local), data, draws)
    return counting.num_flops, step.report


def _zeros(params: Params) -> Params:
    return {name: torch.zeros_like(value) for name, value in params.items()}
