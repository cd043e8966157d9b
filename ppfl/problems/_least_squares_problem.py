"""The least-squares problem at run time: what differs from cross-entropy, and w*(θ)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from ppfl.core.params import ratio
from ppfl.networks.class_task import ClassTask
from ppfl.networks.losses import SquaredError
from ppfl.problems._supervised_objective import Supervised
from ppfl.problems._supervised_problem import SupervisedProblem, build_supervised
from ppfl.problems._supervised_scores import SupervisedScores

if TYPE_CHECKING:
    from ppfl.core.types import Data, Params
    from ppfl.interfaces.loss import Loss
    from ppfl.interfaces.placement import Placement
    from ppfl.interfaces.task import Task
    from ppfl.networks.model_problem import ModelProblemSettings
    from ppfl.problems._supervised_objective import Made


def build_least_squares(
    settings: ModelProblemSettings, ridge: float, placement: Placement, clients_per_chunk: int | None
) -> SupervisedProblem:
    """Load the samples and build the stages of the model. Collective."""

    def make(made: Made, placement: Placement, task: Task) -> LeastSquares:
        return LeastSquares(made, placement, ridge)

    return build_supervised(
        settings, placement, clients_per_chunk, make, LeastSquaresScores, _OneHotLabels(name="least_squares")
    )


class _OneHotLabels(ClassTask):
    """Classes, scored by the squared error of one-hot labels without the ridge."""

    memorized_gap: ClassVar[float] = 0.25
    """Half of what predicting 0 everywhere costs."""

    def loss(self) -> Loss:
        """½‖z − e_y‖²."""
        return SquaredError()


class LeastSquares(Supervised):
    """f_m(θ, w) = Σ_s v_s ½‖model(x_s; θ, w) − e_{y_s}‖² / Σ_s v_s + (ridge/2)‖w‖², over the data of `Supervised`.

    Where all parameters are made local, the ridge is over all of them, as with that split from the beginning.
    """

    criterion = SquaredError()

    def __init__(self, made: Made, placement: Placement, ridge: float) -> None:
        super().__init__(made, placement, ridge)
        self._ridge = ridge

    @property
    def needs_iterations(self) -> str:
        """Say what is local, unless that is weight and bias of a linear last layer, or nothing."""
        if not self.local_names or self._network.linear_parameters(self.local_names) is not None:
            return ""
        return f"local are {', '.join(self.local_names)}, not weight and bias of the last layer alone"

    def exact_local(self, shared: Params, data: Data) -> Params:
        """w*(θ), by ridge regression on the features; NaN where these are not finite."""
        if self.needs_iterations:
            return super().exact_local(shared, data)
        names = self._network.linear_parameters(self.local_names)
        if names is None:
            return {}
        features = self.advance(shared, data)["features"].flatten(1)
        solution = ridge_regression(features, data["y"], data.get("weight"), self._num_classes, self._ridge)
        weight, bias = solution[:, :-1].contiguous(), solution[:, -1].clone()
        return {names[0]: weight.to(features.dtype), names[1]: bias.to(features.dtype)}


class LeastSquaresScores(SupervisedScores):
    """Scores with the squared error without the ridge as their loss; `loss` of a round is f_m itself."""

    objective: LeastSquares

    def round_loss(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        """f_m(θ, w)."""
        return self.objective.loss(shared, local, data)


def ridge_regression(
    features: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None, num_classes: int, ridge: float
) -> torch.Tensor:
    """argmin over (W, b) of Σ_s p_s ½‖W x_s + b − e_{y_s}‖² + (ridge/2)(‖W‖² + ‖b‖²), p = v/Σv; (classes, width + 1).

    features (S, width), labels (S,) int64, weight v (S,) or None for 1; b is the last column. Computed in float64
    whatever the precision: with the rows √p_s (x_s, 1) of A and √p_s e_{y_s} of T the solution is
    (AᵀA + ridge I)⁻¹ AᵀT = Aᵀ(AAᵀ + ridge I)⁻¹ T, of which the smaller system is solved, by Cholesky. NaN where
    features are not finite, or so large (their mean square a thousandth of ridge/ε) that the ridge would be lost beside
    them in rounding. 0 where all weights are 0.
    """
    num_samples, width = features.shape
    v = torch.ones_like(features[:, 0]) if weight is None else weight
    root = ratio(v.double(), v.double().sum()).sqrt()[:, None]
    # double whatever the precision: the condition number of a Gram matrix is the square of that of its factor
    A = root * torch.cat([features.double(), torch.ones_like(root)], dim=1)
    T = root * (labels[:, None] == torch.arange(num_classes, device=labels.device)).double()
    # few samples make AAᵀ the smaller system
    if num_samples <= width:
        return (A.T @ _solve(A @ A.T, ridge, T)).T
    return _solve(A.T @ A, ridge, A.T @ T).T


def _solve(gram: torch.Tensor, ridge: float, right: torch.Tensor) -> torch.Tensor:
    """(gram + ridge I)⁻¹ right; NaN where rounding is not far below the ridge, without control flow on values."""
    # `_ex` reports failure in a tensor, where `cholesky` would raise: control flow on values, and one client would
    # end all
    factor, failed = torch.linalg.cholesky_ex(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    rounding = torch.finfo(gram.dtype).eps * gram.diagonal().amax()
    return torch.where((failed == 0) & (1e3 * rounding <= ridge), torch.cholesky_solve(right, factor), torch.nan)
