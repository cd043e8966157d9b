"""What theory predicts on quadratics with exact w: every method below is a linear recursion in θ.

Notation: F_m(θ) = min_w f_m(θ, w) has the gradient S_m θ − r_m; S̄ and r̄ are means over the M honest clients;
F(θ) = S̄θ − r̄; θ starts at 0. Everything is float64 and computed apart from the engines.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ppfl.config.run import validate
from ppfl.jobs.launcher import open_communicator
from ppfl.runs.assemble import build

if TYPE_CHECKING:
    from ppfl.config.run import Config
    from ppfl.engine.setup import Setup

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """θ ← Mθ + b."""

    matrix: Floats
    offset: Floats

    def iterates(self, rounds: Sequence[int]) -> list[Floats]:
        """Return θ after so many rounds, in ascending order of rounds."""
        theta: Floats = np.zeros(len(self.offset))
        done = 0
        found: list[Floats] = []
        for round in rounds:
            for _ in range(round - done):
                theta = np.asarray(self.matrix @ theta + self.offset, dtype=np.float64)
            done = round
            found.append(theta)
        return found

    @property
    def fixed_point(self) -> Floats:
        """Return θ = Mθ + b."""
        return np.asarray(np.linalg.solve(np.eye(len(self.offset)) - self.matrix, self.offset), dtype=np.float64)


@dataclass(frozen=True)
class Clients:
    """Gradients S_m x − r_m of M clients: S_m (M, D, D), r_m (M, D)."""

    hessians: Floats
    linears: Floats

    @property
    def number(self) -> int:
        """M."""
        return len(self.hessians)

    @cached_property
    def mean_hessian(self) -> Floats:
        """S̄."""
        return np.asarray(self.hessians.mean(axis=0))

    @cached_property
    def mean_linear(self) -> Floats:
        """r̄."""
        return np.asarray(self.linears.mean(axis=0))

    @cached_property
    def smoothness(self) -> float:
        """L = max_m λ_max(S_m)."""
        return float(np.linalg.eigvalsh(self.hessians)[:, -1].max())

    @cached_property
    def solution(self) -> Floats:
        """S̄⁻¹ r̄."""
        return np.asarray(np.linalg.solve(self.mean_hessian, self.mean_linear))

    def norm(self, x: Floats) -> float:
        """‖F(θ)‖; what follows the first D coordinates of x does not count."""
        return float(np.linalg.norm(self.mean_hessian @ x[: len(self.mean_linear)] - self.mean_linear))

    def norms(self, recursion: Affine, rounds: Sequence[int]) -> Floats:
        """‖F(θ_k)‖ at some rounds."""
        return np.array([self.norm(theta) for theta in recursion.iterates(rounds)])

    def gradient_descent(self, lr: float, weights: Floats | None = None) -> Affine:
        """θ ← θ − γ Σ_m p_m (S_m θ − r_m): FFGG with all clients; weights p, default 1/M each.

        p_m < 0 is a client whose gradient is flipped; p_m proportional to its arrivals is a client of an asynchronous
        run in the limit of small steps.
        """
        p = np.full(self.number, 1.0 / self.number) if weights is None else weights
        matrix = np.eye(len(self.mean_linear)) - lr * np.tensordot(p, self.hessians, axes=1)
        return Affine(matrix, lr * p @ self.linears)

    def local_steps(self, lr: float, steps: int, num_shared: int | None = None) -> Affine:
        """x_m ← x_m − γ(S_m x_m − r_m), `steps` times; then the first `num_shared` coordinates are averaged.

        State: the shared coordinates, then those that every client keeps to itself. Default: all are shared, which on
        S_m of F_m is Local FFGG and on those of f_m Local GD; with θ shared and w kept it is FedSim.
        """
        D = len(self.mean_linear)
        d = D if num_shared is None else num_shared
        offset = np.zeros(d + self.number * (D - d))
        matrix = np.zeros((len(offset), len(offset)))
        for m, (hessian, linear) in enumerate(zip(self.hessians, self.linears, strict=True)):
            one, power, moved = np.eye(D) - lr * hessian, np.eye(D), np.zeros(D)
            for _ in range(steps):
                power, moved = one @ power, one @ moved + lr * linear
            own = np.arange(d + m * (D - d), d + (m + 1) * (D - d))
            reads = np.concatenate([np.arange(d), own])
            matrix[:d, reads] += power[:d] / self.number
            offset[:d] += moved[:d] / self.number
            matrix[np.ix_(own, reads)] = power[d:]
            offset[own] = moved[d:]
        return Affine(matrix, offset)

    def cyclic_arrivals(self, step: float) -> Affine:
        """θ ← the proximal steps (I + sS_m)⁻¹(θ + s r_m), m = 1 … M in turn; s the step of one arrival.

        Its fixed point is the one of asynchronous FFGG with equal compute times, seen after all M have arrived: client
        m, whose θ is M − 1 updates old when it arrives, was sent the θ that its own last arrival made.
        """
        matrix, offset = np.eye(len(self.mean_linear)), np.zeros_like(self.mean_linear)
        for hessian, linear in zip(self.hessians, self.linears, strict=True):
            inverse = np.linalg.inv(np.eye(len(linear)) + step * hessian)
            matrix, offset = inverse @ matrix, inverse @ (offset + step * linear)
        return Affine(matrix, offset)

    def penalized_mean(self, penalty: float) -> Floats:
        """x̄ of min (1/M) Σ f_m(x_m) + λ/(2M) Σ ‖x_m − x̄‖², which L2GD approaches."""
        eye = np.eye(len(self.mean_linear))
        inverses = np.linalg.inv(self.hessians + penalty * eye)
        offset = np.einsum("mij,mj->i", inverses, self.linears) / self.number
        return np.asarray(np.linalg.solve(eye - penalty * inverses.mean(axis=0), offset))

    def sampling_floor(self, lr: float, cohort: int) -> float:
        """sqrt(E‖F(θ)‖²) at which FFGG with n = `cohort` clients a round comes to rest.

        E‖F‖² = γ (M − n)/(n(M − 1)) Σ_i λ_i c_i/(2 − γλ_i), λ_i the eigenvalues of S̄ and c_i the variance over clients
        of ∇F_m(θ*) along its eigenvectors. Exact when all S_m agree; what differs between them adds to it.
        """
        values, vectors = np.linalg.eigh(self.mean_hessian)
        variances = np.mean(((self.hessians @ self.solution - self.linears) @ vectors) ** 2, axis=0)
        share = (self.number - cohort) / (cohort * (self.number - 1))
        return float(np.sqrt(lr * share * np.sum(values * variances / (2.0 - lr * values))))


@dataclass(frozen=True)
class System:
    """A quadratic problem in two forms: of F_m in θ, and of f_m in (θ, w)."""

    personalized: Clients
    whole: Clients

    @classmethod
    def of(cls, setup: Setup) -> System:
        """Take the honest clients of a run that was built on one rank, with θ shared and w local."""
        hessians, linears, whole_hessians, whole_linears = [], [], [], []
        for client in setup.roles.honest:
            data = {name: value.numpy() for name, value in setup.problem.client_data.data(client, 0).items()}
            cross, linear, of_w = data["cross"], data["shared_linear"], data["local_linear"]
            projected = cross @ data["local_inverse"]
            hessians.append(data["shared_curvature"] - projected @ cross.T)
            linears.append(linear - projected @ of_w)
            whole_hessians.append(np.block([[data["shared_curvature"], cross], [cross.T, data["local_curvature"]]]))
            whole_linears.append(np.concatenate([linear, of_w]))
        of_theta = Clients(np.stack(hessians), np.stack(linears))
        return cls(of_theta, Clients(np.stack(whole_hessians), np.stack(whole_linears)))


def system_of(config: Config) -> System:
    """Build the clients of a run's problem, θ shared and w local whatever the run shares; the last four are kept."""
    problem = config.problem.model_dump(mode="json") | {"split": {"local": ["w"]}}
    byzantine = None if config.byzantine is None else config.byzantine.model_dump(mode="json")
    return _system(json.dumps({"seed": config.seed, "problem": problem, "byzantine": byzantine}))


@lru_cache(maxsize=4)
def _system(sections: str) -> System:
    algorithm = {"name": "ffgg", "lr": 1e-9, "fine_tuner": {"name": "exact"}}
    document = {**json.loads(sections), "name": "theory", "rounds": 1, "precision": "float64", "algorithm": algorithm}
    return System.of(build(validate(document, Path(), "theory"), open_communicator()))
