"""What is known of quadratic losses: θ*, σ*² and the curvatures."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from ppfl.core.params import named_pieces
from ppfl.interfaces.theory import Constants, Theory
from ppfl.problems._largest_eigenvalue import largest_eigenvalue
from ppfl.problems._quadratic_gram import inverted
from ppfl.problems._quadratic_objective import column
from ppfl.rows.exact_sum import ExactSum

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ppfl.core.communicator import Communicator
    from ppfl.core.types import Data, Params
    from ppfl.interfaces.client_data import ClientData
    from ppfl.problems._quadratic_gram import Gram
    from ppfl.problems._quadratic_objective import Quadratic

_MATRICES = ("shared_curvature", "cross", "local_curvature", "local_inverse")


class QuadraticTheory(Theory):
    """Curvatures; θ*, the minimizer of the mean of F_m, of least norm; σ*² = (1/M) Σ_m ‖∇_1 f_m(θ*, w_m*(θ*))‖².

    S_m = Q_ss − Q_sl Q_ll⁺ Q_ls is the Hessian of F_m; with everything shared it is Q itself. Curvatures of an empty
    side are 0. Byzantine clients do not count in any of them. Building is collective.

    grams: of the clients of this rank; blocks: cut from them, in float64.
    """

    def __init__(
        self,
        objective: Quadratic,
        client_data: ClientData,
        grams: Mapping[int, Gram],
        blocks: Mapping[int, Data],
        byzantine: frozenset[int],
        communicator: Communicator,
    ) -> None:
        honest = [client for client in client_data.clients if client not in byzantine]
        num_honest = client_data.num_clients - len(byzantine)
        length = sum(objective.shared_lengths.values())
        hessian_sum, linear_sum = ExactSum(length * length), ExactSum(length)
        curvatures = []
        # clients after one another may have the very same matrices
        reduced = lru_cache(maxsize=1)(_reduced)
        for client in honest:
            of_client = blocks[client]
            hessian, projected, largest = reduced(grams[client].curvature, *(of_client[name] for name in _MATRICES))
            linear = of_client["shared_linear"] - projected @ of_client["local_linear"]
            hessian_sum.add(hessian.reshape(-1))
            linear_sum.add(linear)
            curvatures.append(largest)
        of_clients = communicator.allgather_rows(torch.stack(curvatures) if curvatures else torch.zeros(0, 4).double())
        smoothness, joint_smoothness, local_smoothness, whole_smoothness = of_clients.amax(dim=0).tolist()
        mean_hessian = hessian_sum.reduce(communicator).reshape(length, length) / num_honest
        values, vectors = torch.linalg.eigh(mean_hessian)
        # with everything local there are none
        strong_convexity, mean_smoothness = values.clamp_min(0.0)[[0, -1]].tolist() if length else (0.0, 0.0)
        self._constants = Constants(
            smoothness, joint_smoothness, mean_smoothness, strong_convexity, local_smoothness, whole_smoothness
        )
        # the mean of all clients may be singular where θ has directions that nobody's data see: then the one of least
        # norm
        theta_star = inverted(values, vectors) @ (linear_sum.reduce(communicator) / num_honest)
        self.theta_star = named_pieces(theta_star, objective.shared_lengths)
        gradients = [objective.shared_gradient_at_exact_local(self.theta_star, blocks[client]) for client in honest]
        # gathered, and summed by everybody in the order of clients: a reduction would depend on the number of ranks
        squares = communicator.allgather_rows(column([gradient @ gradient for gradient in gradients]))
        self.sigma_star_squared = float(squares.sum()) / num_honest

    def constants(self) -> Constants:
        """Return the curvatures, computed once when the problem was built."""
        return self._constants

    def solution(self) -> Params:
        """θ*, in float64."""
        return self.theta_star

    def facts(self) -> dict[str, float]:
        """L, μ, L_joint, L_local, L_mean as in Constants, and σ*²."""
        return {
            "L": self._constants.smoothness,
            "mu": self._constants.strong_convexity,
            "L_joint": self._constants.joint_smoothness,
            "L_local": self._constants.local_smoothness,
            "L_mean": self._constants.mean_smoothness,
            "sigma_star_squared": self.sigma_star_squared,
        }


def _reduced(
    curvature: torch.Tensor,
    shared_curvature: torch.Tensor,
    cross: torch.Tensor,
    local_curvature: torch.Tensor,
    local_inverse: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return S_m, Q_sl Q_ll⁺, and the largest eigenvalues of S_m, Q_ss, Q_ll and Q, (4,)."""
    projected = cross @ local_inverse
    hessian = shared_curvature - projected @ cross.T
    # symmetric but for rounding, which algorithms for eigenvalues would hide by reading one triangle alone
    hessian = (hessian + hessian.T) / 2
    own = (hessian, shared_curvature, local_curvature, curvature)
    return hessian, projected, torch.tensor([largest_eigenvalue(matrix) for matrix in own], dtype=torch.float64)
