"""Quadratic losses in Gram form: the sample size drops out of every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.core.exact_sum import ExactSum
from ppfl.core.params import flatten, subtract
from ppfl.core.problem import Constants, Problem, PureScores
from ppfl.core.rng import generator
from ppfl.core.split import EVERYTHING, Split
from ppfl.problems._quadratic_gram import Gram, blocks_of, gram_of, pseudo_inverse
from ppfl.problems._quadratic_operator import PersonalizedOperator

if TYPE_CHECKING:
    from ppfl.core.problem import Placement
    from ppfl.core.types import Data, Params
    from ppfl.problems._quadratic_file import Layout

PARAMETER_NAMES = ("theta", "w")


class Quadratic(Problem):
    """f_m(θ, w) = ½‖H_m θ − b_m‖² + ½‖A_m θ + B_m w − y_m‖², in Gram form, for any split of (θ, w).

    Everything below is for shared coordinates s and local ones l, whichever of θ and w they are: Q_ss, Q_sl, Q_ll are
    blocks of Q, and c_s, c_l those of c. S_m = Q_ss − Q_sl Q_ll⁺ Q_ls is the Hessian of F_m; with everything shared it
    is Q itself. Pseudo-inverses are cut at RANK_CUTOFF. Known constants: `theta_star` (the minimizer of the mean of
    F_m, of least norm), `sigma_star_squared` = (1/M) Σ_m ‖∇_1 f_m(θ*, w_m*(θ*))‖², and `constants()`; curvatures of an
    empty side are 0. Byzantine clients do not count in any of them. Building is collective.
    """

    fixed_data = True
    has_samples = False

    def __init__(
        self, placement: Placement, split: Split, layout: Layout, clients: range, grams: dict[int, Gram]
    ) -> None:
        self.client_names = layout.client_names
        self.num_train_samples = layout.num_rows
        self.clients = clients
        self.byzantine = placement.byzantine_clients(layout.client_names, layout.num_rows)
        self.seed = placement.seed
        self._placement = placement
        self._layout = layout
        local_names = split.local_names(PARAMETER_NAMES)
        lengths = dict(zip(PARAMETER_NAMES, (layout.shared_dimension, layout.local_dimension), strict=True))
        self._shared_lengths = {name: length for name, length in lengths.items() if name not in local_names}
        self._local_lengths = {name: lengths[name] for name in local_names}
        self._is_local = torch.cat([torch.full((length,), name in local_names) for name, length in lengths.items()])
        self._blocks = {client: blocks_of(gram, self._is_local) for client, gram in grams.items()}
        self._data = {
            client: {key: value.to(placement.device, placement.dtype) for key, value in blocks.items()}
            for client, blocks in self._blocks.items()
        }
        self._find_constants()
        systems = ((grams[client].curvature, grams[client].linear) for client in self.honest_clients)
        length = layout.shared_dimension
        self._operator = None if local_names else PersonalizedOperator(systems, length, placement.communicator)

    def init_shared(self) -> Params:
        """0."""
        return self._zeros(self._shared_lengths)

    def init_local(self, client: int) -> Params:
        """0."""
        return self._zeros(self._local_lengths)

    def redraw_local(self, client: int, round: int) -> Params:
        """Draw w ~ N(0, I)."""
        draw = generator(self.seed, "redraw", round=round, client=client)
        return {
            name: torch.tensor(draw.standard_normal(length), dtype=self._placement.dtype, device=self._placement.device)
            for name, length in self._local_lengths.items()
        }

    def parameter_names(self) -> tuple[str, ...]:
        """θ, then w: f_m is a linear map of θ followed by what w makes of the rest."""
        return PARAMETER_NAMES

    @property
    def local_names(self) -> tuple[str, ...]:
        """Which of θ and w are local."""
        return tuple(self._local_lengths)

    def all_local(self) -> Quadratic:
        """Return the same f_m with θ and w local. Collective."""
        grams = {client: gram_of(blocks, self._is_local) for client, blocks in self._blocks.items()}
        return Quadratic(self._placement, Split(local=(EVERYTHING,)), self._layout, self.clients, grams)

    def data(self, client: int, round: int) -> Data:
        """Return the blocks of Q and c, ½(‖b‖² + ‖y‖²), and Q_ll⁺."""
        return self._data[client]

    def training_epoch(self, client: int, epoch: int) -> list[Data]:
        """Return the data, whole: there are no samples to cut."""
        return [self._data[client]]

    def advance(self, shared: Params, data: Data) -> Data:
        """Add t = c_l − Q_ls s (Bᵀy − BᵀAθ): a gradient in w then costs one product with Q_ll."""
        if "target" in data:
            return data
        return {**data, "target": data["local_linear"] - data["cross"].T @ _join(shared, data["shared_linear"])}

    def loss(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        """½ sᵀQ_ss s − c_sᵀs + ½ lᵀQ_ll l − tᵀl + ½(‖b‖² + ‖y‖²); near 0 it loses digits to cancellation."""
        data = self.advance(shared, data)
        s, l = _join(shared, data["shared_linear"]), _join(local, data["local_linear"])  # noqa: E741
        of_shared = s @ (data["shared_curvature"] @ s / 2 - data["shared_linear"])
        return of_shared + l @ (data["local_curvature"] @ l / 2 - data["target"]) + data["constant"]

    def local_gradient(self, shared: Params, local: Params, data: Data) -> Params:
        """Q_ll l − t."""
        data = self.advance(shared, data)
        product = data["local_curvature"] @ _join(local, data["local_linear"])
        return _cut(product - data["target"], self._local_lengths)

    def local_hessian_product(self, shared: Params, local: Params, direction: Params, data: Data) -> Params:
        """Q_ll · direction."""
        return _cut(data["local_curvature"] @ _join(direction, data["local_linear"]), self._local_lengths)

    def shared_gradient(self, shared: Params, local: Params, data: Data) -> Params:
        """Q_ss s + Q_sl l − c_s."""
        s, l = _join(shared, data["shared_linear"]), _join(local, data["local_linear"])  # noqa: E741
        gradient = data["shared_curvature"] @ s + data["cross"] @ l - data["shared_linear"]
        return _cut(gradient, self._shared_lengths)

    def gradients(self, shared: Params, local: Params, data: Data) -> tuple[Params, Params]:
        """(Q_ss s + Q_sl l − c_s, Q_ll l − t)."""
        return self.shared_gradient(shared, local, data), self.local_gradient(shared, local, data)

    @property
    def needs_iterations(self) -> str:
        """Nothing does: w*(θ) is known."""
        return ""

    def exact_local(self, shared: Params, data: Data) -> Params:
        """Q_ll⁺ t, the minimizer of least norm; (BᵀB)⁺ Bᵀ(y − Aθ) with w local."""
        data = self.advance(shared, data)
        return _cut(data["local_inverse"] @ data["target"], self._local_lengths)

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

    def client_metrics(self, shared: Params, local: Params, client: int) -> dict[str, float]:
        """f_m(θ, w), in float64."""
        return {name: float(score) for name, score in self._scores(shared, local, self._blocks[client]).items()}

    def pure_scores(self) -> PureScores | None:
        """Return loss, gradient and what is made of them; None where θ is scored with clients that tune their own w."""
        if self._operator is not None or self.byzantine:
            return None
        return PureScores(self._blocks.__getitem__, self._scores, self._gradient_at_exact_local, self._shared_scores)

    def shared_metrics(self, shared: Params) -> dict[str, torch.Tensor]:
        """‖F(θ)‖, ‖θ − θ*‖ and, (M,), ‖∇_1 f_m(θ, w_m*(θ))‖, all at w_m*(θ) and in float64. Collective."""
        theta = _exactly(shared)
        total = ExactSum(sum(self._shared_lengths.values()))
        norms = []
        for client in self.clients:
            gradient = self._gradient_at_exact_local(theta, self._blocks[client])
            if client not in self.byzantine:
                total.add(gradient)
            norms.append(torch.linalg.vector_norm(gradient))
        operator = total.reduce(self._placement.communicator) / self.num_honest
        # where w is shared too: what θ alone is worth to clients that tune a w of their own
        own_w = {} if self._operator is None else {"personalized_operator_norm": self._operator.norm(theta["theta"])}
        return {
            **own_w,
            **self._shared_scores(theta, operator, self._placement.communicator.allgather_rows(_column(norms))),
        }

    def _scores(self, shared: Params, local: Params, blocks: Data) -> Params:
        return {"loss": self.loss(_exactly(shared), _exactly(local), blocks)}

    def _shared_scores(self, theta: Params, operator: torch.Tensor, norms: torch.Tensor) -> dict[str, torch.Tensor]:
        difference = _join(subtract(_exactly(theta), self.theta_star), operator)
        return {
            "operator_norm": torch.linalg.vector_norm(operator),
            "distance": torch.linalg.vector_norm(difference),
            "client_gradient_norm": norms,
        }

    def _gradient_at_exact_local(self, theta: Params, blocks: Data) -> torch.Tensor:
        """∇_1 f_m(θ, w_m*(θ))."""
        theta = _exactly(theta)
        gradient = self.shared_gradient(theta, self.exact_local(theta, blocks), blocks)
        return _join(gradient, blocks["shared_linear"])

    def _zeros(self, lengths: dict[str, int]) -> Params:
        dtype, device = self._placement.dtype, self._placement.device
        return {name: torch.zeros(length, dtype=dtype, device=device) for name, length in lengths.items()}

    def _find_constants(self) -> None:
        """Set θ*, σ*² and the curvatures. Collective."""
        communicator, length = self._placement.communicator, sum(self._shared_lengths.values())
        hessian_sum, linear_sum = ExactSum(length * length), ExactSum(length)
        curvatures = []
        for client in self.honest_clients:
            blocks = self._blocks[client]
            projected = blocks["cross"] @ blocks["local_inverse"]
            hessian = blocks["shared_curvature"] - projected @ blocks["cross"].T
            # symmetric but for rounding, which `eigvalsh` would hide by reading one triangle alone
            hessian = (hessian + hessian.T) / 2
            hessian_sum.add(hessian.reshape(-1))
            linear_sum.add(blocks["shared_linear"] - projected @ blocks["local_linear"])
            whole = gram_of(blocks, self._is_local).curvature
            own = (hessian, blocks["shared_curvature"], blocks["local_curvature"], whole)
            curvatures.append(torch.tensor([_extreme_eigenvalues(matrix)[1] for matrix in own], dtype=torch.float64))
        of_clients = communicator.allgather_rows(torch.stack(curvatures) if curvatures else torch.zeros(0, 4).double())
        smoothness, joint_smoothness, local_smoothness, whole_smoothness = of_clients.amax(dim=0).tolist()
        mean_hessian = hessian_sum.reduce(communicator).reshape(length, length) / self.num_honest
        strong_convexity, mean_smoothness = _extreme_eigenvalues(mean_hessian)
        self._constants = Constants(
            smoothness, joint_smoothness, mean_smoothness, strong_convexity, local_smoothness, whole_smoothness
        )
        # the mean of all clients may be singular where θ has directions that nobody's data see: then the one of least
        # norm
        theta_star = pseudo_inverse(mean_hessian) @ (linear_sum.reduce(communicator) / self.num_honest)
        self.theta_star = _cut(theta_star, self._shared_lengths)
        gradients = [
            self._gradient_at_exact_local(self.theta_star, self._blocks[client]) for client in self.honest_clients
        ]
        # gathered, and summed by everybody in the order of clients: a reduction would depend on the number of ranks
        squares = communicator.allgather_rows(_column([gradient @ gradient for gradient in gradients]))
        self.sigma_star_squared = float(squares.sum()) / self.num_honest


def _extreme_eigenvalues(matrix: torch.Tensor) -> tuple[float, float]:
    """Return (λ_min, λ_max) of a positive semi-definite matrix; (0, 0) of an empty one."""
    # with everything local, or everything shared, one side is empty
    if not matrix.numel():
        return 0.0, 0.0
    values = torch.linalg.eigvalsh(matrix).clamp_min(0.0)
    return float(values[0]), float(values[-1])


def _join(params: Params, like: torch.Tensor) -> torch.Tensor:
    """Return the values as one vector, also when there are none."""
    return flatten(params) if params else torch.zeros_like(like)


def _cut(vector: torch.Tensor, lengths: dict[str, int]) -> Params:
    """Return named pieces of a vector that nobody else keeps; they own their memory."""
    # the vector itself: nobody else has it
    if len(lengths) < 2:
        return dict.fromkeys(lengths, vector)
    pieces = torch.split(vector, list(lengths.values()))
    return {name: piece.clone() for name, piece in zip(lengths, pieces, strict=True)}


def _exactly(params: Params) -> Params:
    return {name: value.to("cpu", torch.float64) for name, value in params.items()}


def _column(scalars: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(scalars) if scalars else torch.zeros(0, dtype=torch.float64)
