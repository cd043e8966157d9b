"""What a run without a server is scored by: the mean x̄ of its nodes, and how far these are from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.core.params import flatten, unflatten
from ppfl.engine.evaluate import gather
from ppfl.interfaces.gossip import CONSENSUS, Gossip
from ppfl.rows.exact_sum import ExactSum

if TYPE_CHECKING:
    from ppfl.engine.run import Run


def meet(run: Run) -> dict[str, float]:
    """Put x̄ in the place of the server's θ, for scores and for what is saved; return Σ_i ‖x_i − x̄‖². Collective.

    Nodes know nothing of it, and no bytes are counted. Runs with a server stay as they are, and nothing is returned.
    """
    setup, method = run.setup, run.setup.algorithm
    shared = run.server["shared"]
    if not isinstance(method, Gossip) or not shared:
        return {}
    vectors = [flatten(method.model(run.group.state(node))) for node in run.group.clients]
    total = ExactSum(len(flatten(shared)), setup.device)
    for vector in vectors:
        total.add(vector)
    mean = total.reduce(setup.communicator, setup.bucket_bytes) / setup.problem.client_data.num_clients
    run.server = {**run.server, "shared": unflatten(mean, shared)}
    # in float64, and added up in the order of nodes: near consensus float32 would see nothing but its own rounding
    squares = [(vector.to(torch.float64) - mean).square().sum() for vector in vectors]
    apart = gather(setup, {CONSENSUS: torch.stack(squares).cpu()})
    return {CONSENSUS: float(apart[CONSENSUS].sum())}
