"""Everything that a run consists of, put together once and then only read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ppfl.core.communicator import GuardedCommunicator
    from ppfl.core.method import Aggregator, Algorithm, FineTuner, ServerOptimizer
    from ppfl.core.problem import Problem
    from ppfl.engine.cohort import CohortSampler


@dataclass(frozen=True)
class Setup:
    """One run: the problem and the method, resolved (no `theory` left), and how they are mapped to ranks."""

    problem: Problem
    algorithm: Algorithm
    server_optimizer: ServerOptimizer
    aggregator: Aggregator
    cohort: CohortSampler
    communicator: GuardedCommunicator
    client_weights: tuple[float, ...]
    """Weight of every client of all ranks in the mean; only ratios matter."""
    num_rounds: int
    evaluate_every: int
    tuned_epochs: int
    tuned_fine_tuner: FineTuner | None
    """What the final stage `tuned` tunes with; None when the method has no local parameters to tune."""
    clients_per_chunk: int
    device: torch.device
