"""Each client trains the part of the model that it can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from pydantic import Field

from ppfl.core.params import add_scaled, map_params, subtract
from ppfl.core.plugins import Resolved
from ppfl.interfaces.local_training import LocalTraining
from ppfl.interfaces.method import ClientStep
from ppfl.interfaces.step_sizes import step_size

from ._windows import placed, window

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.method import ServerOptimizer
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem


class PartialTraining(LocalTraining):
    """θ_m ← θ_m − η ∇f_B(θ_m) on the coordinates of client m, H times from θ there and 0 elsewhere;  θ_j ← θ_j − the
    mean of (θ − θ_m)_j over the clients that have coordinate j.

    Source: Diao et al., ICLR 2021 (HeteroFL); with coordinates that roll: Alam et al., NeurIPS 2022 (FedRolex).
    """

    name: Literal["partial_training"]
    needs_rounds: ClassVar[str] = "a coordinate is averaged over those of a cohort that have it"
    needs_mean: ClassVar[str] = "other rules cannot tell coordinates that were not trained"
    example: ClassVar[Example] = {"lr": 0.1, "local_steps": 2, "shares": [0.5, 1.0]}

    shares: list[float]
    """Shares of θ that clients can hold, client after client in turn."""
    shapes: Resolved[dict[str, tuple[int, ...]]] = Field(default_factory=dict)

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory` and the shapes of θ."""
        shapes = {name: tuple(value.shape) for name, value in problem.objective.init_shared().items()}
        return super().resolve(problem, participation, optimizer).model_copy(update={"shapes": shapes})

    def downlink(self, server: State, round: int, client: int | None = None) -> Params | None:
        """θ at the coordinates of a client, (n,) of each tensor."""
        if client is None:
            return None
        return {name: server["shared"][name].reshape(-1)[where] for name, where in self.windows(client, round).items()}

    def coordinate_weights(self, server: State, round: int, client: int) -> Params | None:
        """1 at the coordinates of a client, 0 elsewhere."""
        return self._masks(server["shared"], self.windows(client, round))

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return the coordinates, too."""
        return {**super().draws(objective, client, round, num_samples), **self.windows(client, round)}

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (θ − θ_m, nothing local)."""
        zeros = {name: torch.zeros(shape, dtype=message[name].dtype) for name, shape in self.shapes.items()}
        start = {name: placed(message[name], draws[name], zero) for name, zero in zeros.items()}
        masks = self._masks(zeros, {name: draws[name] for name in zeros})

        def step(shared: Params, batch: Data) -> Params:
            gradient = map_params(torch.mul, objective.shared_gradient(shared, state["local"], batch), masks)
            return add_scaled(shared, gradient, -step_size(self.lr))

        shared = self.iterate(step, start, data, draws)
        return ClientStep(subtract(start, shared), state, self.report(draws, of_shared=1))

    def windows(self, client: int, round: int) -> dict[str, torch.Tensor]:
        """Return the coordinates of a client in each tensor."""
        share = self.shares[client % len(self.shares)]
        return {name: window(torch.Size(shape).numel(), share, round) for name, shape in self.shapes.items()}

    def _masks(self, like: Params, windows: dict[str, torch.Tensor]) -> Params:
        return {
            name: placed(torch.ones(len(windows[name]), dtype=value.dtype), windows[name], torch.zeros_like(value))
            for name, value in like.items()
        }
