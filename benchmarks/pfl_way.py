"""FedAvg by pfl-research (Apple), in a process and an environment of its own: `python -m benchmarks.pfl_way HANDOVER
THREADS`, as `benchmarks.plain` is run.

Its own model class, backend, weighting by samples and optimizer, with nothing scored. Samples are put in the order of
ppfl's mini-batches beforehand, so that both train on the same ones.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel

from benchmarks.plain import CNN


class Module(CNN):
    """The same network with what pfl asks of a model."""

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy."""
        return torch.nn.functional.cross_entropy(self(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        """Return nothing: nothing is scored."""
        return {}


class Turns(TrainingProcessCallback):  # type: ignore[misc]
    """Says how long a round took, and waits for the line that asks for the next one."""

    def __init__(self, parameters: Path) -> None:
        self._parameters = parameters
        self._count = 0

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        """Wait for the first line."""
        print("ready", flush=True)
        sys.stdin.readline()
        self._started = time.perf_counter()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Answer, and keep θ of the first round."""
        seconds = time.perf_counter() - self._started
        if self._count == 0:
            torch.save({name: value.detach() for name, value in model.variable_map.items()}, self._parameters)
        self._count += 1
        print(json.dumps(seconds), flush=True)
        is_over = not sys.stdin.readline()
        self._started = time.perf_counter()
        return is_over, Metrics()


def main(path: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    handover = torch.load(path)
    clients, settings, orders = handover["clients"], handover["settings"], handover["rounds"]
    module = Module(**handover["model"])
    module.load_state_dict(handover["shared"])
    module.to(next(iter(handover["shared"].values())).dtype)

    def samples(client: int) -> Dataset:
        order = orders[0][client]["shared"][0]
        return Dataset((clients[client]["x"][order], clients[client]["y"][order]), user_id=str(client))

    users = [samples(client) for client in range(len(clients))]
    sampler = get_user_sampler("minimize_reuse", list(range(len(users))))
    backend = SimulatedBackend(FederatedDataset(users.__getitem__, sampler), None, [WeightByDatapoints()])
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    model = PyTorchModel(module, torch.optim.SGD, optimizer)
    training = NNTrainHyperParams(
        local_num_epochs=1, local_learning_rate=settings["lr"], local_batch_size=settings["batch_size"]
    )
    never = 1 << 30
    rounds = NNAlgorithmParams(never, evaluation_frequency=never, train_cohort_size=len(users), val_cohort_size=None)
    turns = Turns(Path(path).with_suffix(".after"))
    FederatedAveraging().run(rounds, backend, model, training, callbacks=[turns], send_metrics_to_platform=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
