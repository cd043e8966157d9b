"""Quadratic losses in Gram form: the sample size drops out of every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.core.matvec import matvec, plus_product, residual
from ppfl.core.params import as_vector, named_pieces
from ppfl.core.rng import Streams
from ppfl.interfaces.objective import Objective

if TYPE_CHECKING:
    from ppfl.core.types import Data, Params
    from ppfl.interfaces.placement import Placement
    from ppfl.interfaces.split import Split
    from ppfl.problems._quadratic_file import Layout

PARAMETER_NAMES = ("theta", "w")


class Quadratic(Objective):
    """f_m(θ, w) = ½‖H_m θ − b_m‖² + ½‖A_m θ + B_m w − y_m‖², in Gram form, for any split of (θ, w).

    Everything below is for shared coordinates s and local ones l, whichever of θ and w they are: Q_ss, Q_sl, Q_ll are
    blocks of Q, and c_s, c_l those of c; data are these blocks, ½(‖b‖² + ‖y‖²), and Q_ll⁺, cut at RANK_CUTOFF. Names go
    from θ to w: f_m is a linear map of θ followed by what w makes of the rest. All numbers of a problem are data, and
    objectives of different problems can be equal.
    """

    parameter_names = PARAMETER_NAMES

    def __init__(self, placement: Placement, split: Split, layout: Layout) -> None:
        self.seed = placement.seed
        self._dtype, self._device = placement.dtype, placement.device
        local_names = split.local_names(PARAMETER_NAMES)
        lengths = dict(zip(PARAMETER_NAMES, (layout.shared_dimension, layout.local_dimension), strict=True))
        self.shared_lengths = {name: length for name, length in lengths.items() if name not in local_names}
        self.local_lengths = {name: lengths[name] for name in local_names}
        self.is_local = torch.cat([torch.full((length,), name in local_names) for name, length in lengths.items()])
        self._redraws = Streams(self.seed, "redraw")
        self._holds = (self.seed, self._dtype, self._device, tuple(lengths.items()), local_names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quadratic) and type(other) is type(self) and other._holds == self._holds

    def __hash__(self) -> int:
        return hash(self._holds)

    def init_shared(self) -> Params:
        """0."""
        return self._zeros(self.shared_lengths)

    def init_local(self, client: int) -> Params:
        """0."""
        return self._zeros(self.local_lengths)

    def redraw_local(self, client: int, round: int) -> Params:
        """Draw w ~ N(0, I)."""
        draw = self._redraws.at(round, client)
        return {
            name: torch.from_numpy(draw.standard_normal(length)).to(self._device, self._dtype)
            for name, length in self.local_lengths.items()
        }

    def advance(self, shared: Params, data: Data) -> Data:
        """Add t = c_l − Q_ls s (Bᵀy − BᵀAθ): a gradient in w then costs one product with Q_ll."""
        if "target" in data:
            return data
        s = join(shared, data["shared_linear"])
        return {**data, "target": residual(data["local_linear"], data["cross"].T, s)}

    def at(self, shared: Params, data: Data) -> Data:
        """Add t and Q_ss s: losses and gradients at one s then cost no product with s."""
        return {
            **self.advance(shared, data),
            "shared_product": _shared_product(join(shared, data["shared_linear"]), data),
        }

    def loss(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        """½ sᵀQ_ss s − c_sᵀs + ½ lᵀQ_ll l − tᵀl + ½(‖b‖² + ‖y‖²); near 0 it loses digits to cancellation."""
        data = self.advance(shared, data)
        s, l = join(shared, data["shared_linear"]), join(local, data["local_linear"])  # noqa: E741
        of_shared = (s * (_shared_product(s, data) / 2 - data["shared_linear"])).sum()
        of_local = (l * (matvec(data["local_curvature"], l) / 2 - data["target"])).sum()
        return of_shared + of_local + data["constant"]

    def local_gradient(self, shared: Params, local: Params, data: Data) -> Params:
        """Q_ll l − t."""
        data = self.advance(shared, data)
        product = matvec(data["local_curvature"], join(local, data["local_linear"]))
        return named_pieces(product - data["target"], self.local_lengths)

    def local_hessian_product(self, shared: Params, local: Params, direction: Params, data: Data) -> Params:
        """Q_ll · direction."""
        return named_pieces(matvec(data["local_curvature"], join(direction, data["local_linear"])), self.local_lengths)

    def local_system(self, shared: Params, data: Data) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Q_ll and t."""
        return data["local_curvature"], self.advance(shared, data)["target"]

    def shared_gradient(self, shared: Params, local: Params, data: Data) -> Params:
        """Q_ss s + Q_sl l − c_s."""
        s, l = join(shared, data["shared_linear"]), join(local, data["local_linear"])  # noqa: E741
        gradient = plus_product(_shared_product(s, data), data["cross"], l, minus=data["shared_linear"])
        return named_pieces(gradient, self.shared_lengths)

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
        return named_pieces(matvec(data["local_inverse"], data["target"]), self.local_lengths)

    def shared_gradient_at_exact_local(self, theta: Params, blocks: Data) -> torch.Tensor:
        """∇_1 f_m(θ, w_m*(θ)), (D,), in float64 as the blocks are."""
        theta = exactly(theta)
        gradient = self.shared_gradient(theta, self.exact_local(theta, blocks), blocks)
        return join(gradient, blocks["shared_linear"])

    def _zeros(self, lengths: dict[str, int]) -> Params:
        return {name: torch.zeros(length, dtype=self._dtype, device=self._device) for name, length in lengths.items()}


def _shared_product(s: torch.Tensor, data: Data) -> torch.Tensor:
    """Q_ss s."""
    return data["shared_product"] if "shared_product" in data else matvec(data["shared_curvature"], s)


def join(params: Params, like: torch.Tensor) -> torch.Tensor:
    """Return the values as one vector, also when there are none; not to be written to, it may be one of them."""
    return as_vector(params) if params else torch.zeros_like(like)


def exactly(params: Params) -> Params:
    """Return the values in float64 on the CPU."""
    return {name: value.to("cpu", torch.float64) for name, value in params.items()}


def column(scalars: list[torch.Tensor]) -> torch.Tensor:
    """Return scalars as one vector, also when there are none."""
    return torch.stack(scalars) if scalars else torch.zeros(0, dtype=torch.float64)
