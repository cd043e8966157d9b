"""A problem with samples, small enough to be compared with loops written by hand."""

from __future__ import annotations

import torch

from ppfl.interfaces.client_data import ClientData
from ppfl.interfaces.objective import Objective
from ppfl.interfaces.problem import Problem
from ppfl.interfaces.scores import Scores
from ppfl.interfaces.theory import Theory


class Softmax(Objective):
    """Multinomial logistic regression on x ∘ θ with local weights and bias, ridge 0.01; S samples a client."""

    parameter_names = ("scale", "weight", "bias")
    seed = 5

    def init_shared(self):
        return {"scale": torch.linspace(0.5, 1.5, 4, dtype=torch.float64)}

    def init_local(self, client):
        return {"weight": torch.zeros(3, 4, dtype=torch.float64), "bias": torch.zeros(3, dtype=torch.float64)}

    def redraw_local(self, client, round):
        draw = torch.Generator().manual_seed(100 * round + client)
        like = self.init_local(client)
        return {name: torch.randn(v.shape, generator=draw, dtype=torch.float64) for name, v in like.items()}

    def advance(self, shared, data):
        if "features" in data:
            return data
        return {"features": data["x"] * shared["scale"], "y": data["y"]}

    def loss(self, shared, local, data):
        features = data["features"] if "features" in data else data["x"] * shared["scale"]
        scores = features @ local["weight"].T + local["bias"]
        ridge = sum((value**2).sum() for value in local.values())
        return torch.nn.functional.cross_entropy(scores, data["y"]) + 0.005 * ridge


class SoftmaxData(ClientData):
    clients = range(4)
    client_names = ("a", "b", "c", "d")
    num_train_samples = (10,) * 4

    def data(self, client, round):
        draw = torch.Generator().manual_seed(client)
        x = torch.randn(10, 4, generator=draw, dtype=torch.float64)
        return {"x": x, "y": torch.randint(3, (10,), generator=draw)}

    def training_epoch(self, client, epoch):
        return [self.data(client, 0)]


class Losses(Scores):
    def client_metrics(self, shared, local, client):
        return {"loss": float(self.objective.loss(shared, local, self.client_data.data(client, 0)))}


def softmax(data: ClientData | None = None) -> Problem:
    objective, client_data = Softmax(), data or SoftmaxData()
    return Problem(objective, client_data, Losses(objective, client_data), Theory())
