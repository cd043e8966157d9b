"""Fine-tuning Followed by Global Gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.algorithms._fine_tuned import FineTunedGradient
from ppfl.core.transforms import for_all
from ppfl.interfaces.joint_method import JointAlgorithm, JointStep
from ppfl.interfaces.method import ClientStep, Report

if TYPE_CHECKING:
    import torch

    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.client_data import Joined
    from ppfl.interfaces.objective import JointObjective, Objective


class FFGG(FineTunedGradient, JointAlgorithm):
    """w_m ← tune(θ, w_m);  θ ← θ − γ · aggregate of ∇_1 f_m(θ, w_m) over the cohort.

    Source: Mishchenko, Islamov, Gorbunov, Horváth, TMLR 2025, Algorithm 1 (FFGG).
    """

    name: Literal["ffgg"]
    needs_rounds: ClassVar[str] = ""

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return ∇_1 f_m(θ, w_m) at the tuned w_m, and the tuned w_m."""
        once = objective.shared_pass(message, data)
        local, num_gradients = self.fine_tuner(objective, message, state["local"], once.data, draws)
        report = {"shared_gradients": 1.0, "local_gradients": num_gradients}
        return ClientStep(once.shared_gradient(local), {"local": local}, report)

    def client_sum(
        self, objective: JointObjective, message: Params, states: State, joined: Joined, draws: Draws,
        weights: torch.Tensor,
    ) -> JointStep:  # fmt: skip
        """Return Σ_k v_k ∇_1 f_k(θ, w_k) and the tuned w_k: the clients' samples share one way forth and one back."""
        once = objective.joint_pass(message, joined)

        def tune(local: Params, data: Data, draw: Draws) -> tuple[Params, Report]:
            tuned = self.fine_tuner(objective, message, local, data, draw)
            return tuned.local, {"shared_gradients": 1.0, "local_gradients": tuned.num_gradients}

        local, report = for_all(tune, states["local"], once.data, draws)
        return JointStep(once.shared_gradient(local, weights), {"local": local}, report)
