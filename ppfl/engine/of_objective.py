"""Scores of what is minimized: f and its gradient in θ, over all samples that clients train on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.interfaces.client_data import SampledData
from ppfl.rows.exact_sum import ExactSum

if TYPE_CHECKING:
    from ppfl.engine.run import Run


def of_objective(run: Run) -> dict[str, float]:
    """Return `objective`, f = Σ_m v_m f_m(θ, w_m) / Σ_m v_m, and `squared_gradient_norm`, ‖∇_1 f‖², at what clients
    would deploy now: v_m are the weights of the run's mean, f_m has all training samples of a client and all that
    `problem.training` adds, and no gradient is clipped. Attackers, and clients without such samples, do not count.

    Sums of gradients are exact, so that neither number depends on ranks. Collective.
    """
    setup, group = run.setup, run.group
    objective, data = setup.problem.objective.unclipped(), setup.problem.client_data
    assert isinstance(data, SampledData)
    shared_names = list(objective.init_shared())
    total = ExactSum(sum(value.numel() for value in objective.init_shared().values()), setup.device)
    losses = torch.zeros(len(group.clients), dtype=torch.float64)
    # of all clients and not of this rank's alone, so that every rank divides by the same sum
    weights = [
        weight if data.num_train_samples[client] and client not in setup.roles.byzantine else 0.0
        for client, weight in enumerate(setup.client_weights)
    ]
    # one client at a time: gradients are of all samples, and memory holds those of one
    for place, client in enumerate(group.clients):
        if not weights[client]:
            continue
        shared, local = setup.algorithm.view(run.server, group.state(client))
        samples = data.samples(client, "train", torch.arange(data.num_train_samples[client]))
        gradient = objective.shared_gradient(shared, local, samples)
        total.add(*(gradient[name] for name in shared_names), weight=weights[client])
        # the gradient has been taken, and nobody differentiates the value
        with torch.no_grad():
            losses[place] = objective.loss(shared, local, samples)
    of_all = setup.communicator.allgather_rows(losses).tolist()
    mean = total.reduce(setup.communicator, setup.bucket_bytes) / sum(weights)
    objective_value = sum(weight * loss for weight, loss in zip(weights, of_all, strict=True)) / sum(weights)
    return {"objective": objective_value, "squared_gradient_norm": float(mean @ mean)}
