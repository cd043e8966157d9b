"""The plain way, in a process of its own that knows torch and not ppfl: `python -m benchmarks.plain HANDOVER THREADS`.

What a good student writes who has a model, autograd and an afternoon: an nn.Module, one client after the other, every
step through the whole model. Default layout, default allocator, all cores as threads. Reads the same samples, initial
parameters and orders of mini-batches as ppfl has, computes one round for every line on its input (or several, where the
handover says so) and answers with the seconds that one took; θ after the first line goes to the file beside the
handover.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

Params = dict[str, torch.Tensor]


class CNN(nn.Module):
    """The convolutional network of McMahan et al., AISTATS 2017."""

    def __init__(self, channels: list[int], kernel_size: int, hidden: int, side: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels[0], kernel_size)
        self.conv2 = nn.Conv2d(channels[0], channels[1], kernel_size)
        side = ((side - kernel_size + 1) // 2 - kernel_size + 1) // 2
        self.hidden = nn.Linear(channels[1] * side * side, hidden)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = torch.relu(self.hidden(x.flatten(1)))
        logits: torch.Tensor = self.head(x)
        return logits


class PlainRun:
    """θ, the local parameters of every client, and what a client does in a round."""

    def __init__(self, handover: dict[str, Any]) -> None:
        self.model = CNN(**handover["model"])
        self.clients: list[dict[str, Any]] = handover["clients"]
        self.settings: dict[str, Any] = handover["settings"]
        self.rounds: list[list[Params]] = handover["rounds"]
        self.shared: Params = handover["shared"]
        self.model.to(next(iter(self.shared.values())).dtype)
        self.locals: list[Params] = [dict(handover["local"]) for _ in self.clients]
        self.criterion = nn.CrossEntropyLoss()
        self.client: Callable[[dict[str, Any], Params], Params]
        self.client = {"ffgg": self.ffgg, "fedavg": self.fedavg, "alternating": self.alternating}[handover["method"]]

    def round(self, number: int) -> None:
        """Do one round: load θ and w_m, run the client, keep its w_m, add what it has to say."""
        total = {name: torch.zeros_like(value) for name, value in self.shared.items()}
        for m, (client, draws) in enumerate(zip(self.clients, self.rounds[number], strict=True)):
            self.model.load_state_dict({**self.shared, **self.locals[m]})
            result = self.client(client, draws)
            state = self.model.state_dict()
            self.locals[m] = {name: state[name].clone() for name in self.locals[m]}
            for name, value in result.items():
                total[name] += client["weight"] * value
        if self.settings["server_lr"] is None:  # θ is the mean of the clients' models
            self.shared = total
        else:
            self.shared = {name: self.shared[name] - self.settings["server_lr"] * total[name] for name in total}

    def ffgg(self, client: dict[str, Any], draws: Params) -> Params:
        """Tune the head with the body frozen, then return the gradient of the body on all samples."""
        self.tune(client, draws)
        self.train_only(self.shared)
        self.step_gradient(client["x"], client["y"])
        return {name: value.grad for name, value in self.model.named_parameters() if name in self.shared}  # type: ignore[misc]

    def alternating(self, client: dict[str, Any], draws: Params) -> Params:
        """Tune the head with the body frozen, then the body with the head frozen; return the body."""
        self.tune(client, draws)
        self.train_only(self.shared)
        self.descend(self.batches(client, draws["shared"], self.settings["batch_size"]), self.settings["lr"])
        return {name: value for name, value in self.model.state_dict().items() if name in self.shared}

    def fedavg(self, client: dict[str, Any], draws: Params) -> Params:
        """Train the whole model; return it."""
        self.descend(self.batches(client, draws["shared"], self.settings["batch_size"]), self.settings["lr"])
        return dict(self.model.state_dict())

    def tune(self, client: dict[str, Any], draws: Params) -> None:
        """Steps on the local parameters; every one of them runs the whole model."""
        self.train_only(self.locals[0])
        if "local" in draws:
            steps = self.batches(client, draws["local"], self.settings["local_batch_size"])
        else:
            steps = ((client["x"], client["y"]) for _ in range(self.settings["local_steps"]))
        self.descend(steps, self.settings["local_lr"])

    def descend(self, steps: Iterator[tuple[torch.Tensor, torch.Tensor]], lr: float) -> None:
        optimizer = torch.optim.SGD([value for value in self.model.parameters() if value.requires_grad], lr=lr)
        for x, y in steps:
            self.step_gradient(x, y)
            optimizer.step()

    def step_gradient(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.model.zero_grad()
        self.criterion(self.model(x), y).backward()

    def train_only(self, trained: Params) -> None:
        for name, value in self.model.named_parameters():
            value.requires_grad_(name in trained)

    def batches(
        self, client: dict[str, Any], orders: torch.Tensor, size: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for order in orders:
            for rows in order.split(size):
                yield client["x"][rows], client["y"][rows]


class PlainQuadratic:
    """FFGG on quadratic losses in Gram form: gradient steps on w_m, then the mean of the gradients of θ."""

    def __init__(self, handover: dict[str, Any]) -> None:
        self.clients: list[Params] = handover["clients"]
        self.settings: dict[str, Any] = handover["settings"]
        self.shared: Params = handover["shared"]
        self.locals: list[torch.Tensor] = [handover["local"]["w"].clone() for _ in self.clients]

    def round(self, number: int) -> None:
        """Do one round."""
        theta = self.shared["theta"]
        gradient = torch.zeros_like(theta)
        for m, client in enumerate(self.clients):
            w = self.locals[m]
            for _ in range(self.settings["local_steps"]):
                residual = client["local_curvature"] @ w + client["cross"].T @ theta - client["local_linear"]
                w = w - self.settings["local_lr"] * residual
            self.locals[m] = w
            gradient += client["shared_curvature"] @ theta + client["cross"] @ w - client["shared_linear"]
        self.shared = {"theta": theta - self.settings["server_lr"] * gradient / len(self.clients)}


def main(path: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    handover = torch.load(path)
    run = PlainQuadratic(handover) if handover["method"] == "quadratic" else PlainRun(handover)
    print("ready", flush=True)
    rounds_a_turn = handover.get("rounds_a_turn", 1)
    for turn, _ in enumerate(sys.stdin):
        started = time.perf_counter()
        for number in range(turn * rounds_a_turn, (turn + 1) * rounds_a_turn):
            run.round(number)
        seconds = (time.perf_counter() - started) / rounds_a_turn
        if turn == 0:
            torch.save(run.shared, Path(path).with_suffix(".after"))
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
