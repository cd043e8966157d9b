"""The quadratic problem and FFGG once more, in plain NumPy and straight from the formulas: no Gram form, no ppfl."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Client = dict[str, Array]
"""H (p, d_θ), b (p,), A (r, d_θ), B (r, d_w), y (r,)."""


def random_clients(
    num_clients: int, *, shared: int = 6, local: int = 4, rows: int = 12, common: bool = False, seed: int = 0
) -> list[Client]:
    """Draw clients with d_θ = shared, d_w = local; with `common` targets one θ* fits all of them."""
    draw = np.random.default_rng(seed)
    theta = draw.standard_normal(shared)
    clients = []
    for _ in range(num_clients):
        H, A = (draw.standard_normal((rows, shared)) / np.sqrt(rows) for _ in range(2))
        B = draw.standard_normal((rows, local)) / np.sqrt(rows)
        target = theta if common else draw.standard_normal(shared)
        y = A @ target + B @ draw.standard_normal(local)
        clients.append({"H": H, "b": H @ target, "A": A, "B": B, "y": y})
    return clients


def write_clients(path: Path, clients: list[Client]) -> Path:
    """Write clients/<id>/{H,b,A,B,y}; ids are padded, so that their order is that of the list."""
    with h5py.File(path, "w") as file:
        for number, client in enumerate(clients):
            for field, values in client.items():
                file[f"clients/{number:04d}/{field}"] = values
    return path


def loss(client: Client, theta: Array, w: Array) -> float:
    """½‖Hθ − b‖² + ½‖Aθ + Bw − y‖²."""
    first = client["H"] @ theta - client["b"]
    second = client["A"] @ theta + client["B"] @ w - client["y"]
    return float(first @ first + second @ second) / 2


def best_local(client: Client, theta: Array) -> Array:
    """w*(θ), of least norm."""
    return np.linalg.lstsq(client["B"], client["y"] - client["A"] @ theta, rcond=None)[0]


def shared_gradient(client: Client, theta: Array, w: Array) -> Array:
    """∇_1 f(θ, w)."""
    residual = client["A"] @ theta + client["B"] @ w - client["y"]
    return client["H"].T @ (client["H"] @ theta - client["b"]) + client["A"].T @ residual


def hessian(client: Client) -> Array:
    """S = HᵀH + Aᵀ(I − BB⁺)A."""
    rest = client["A"] - client["B"] @ np.linalg.lstsq(client["B"], client["A"], rcond=None)[0]
    return client["H"].T @ client["H"] + client["A"].T @ rest


def theta_star(clients: list[Client]) -> Array:
    """Minimize Σ_m ‖H_m θ − b_m‖² + ‖(I − B_m B_m⁺)(A_m θ − y_m)‖² as one tall least-squares problem."""
    rows, targets = [], []
    for client in clients:
        projection = client["B"] @ np.linalg.pinv(client["B"])
        rows += [client["H"], client["A"] - projection @ client["A"]]
        targets += [client["b"], client["y"] - projection @ client["y"]]
    return np.linalg.lstsq(np.concatenate(rows), np.concatenate(targets), rcond=None)[0]


def operator(clients: list[Client], theta: Array) -> Array:
    """F(θ) = mean_m ∇_1 f_m(θ, w_m*(θ))."""
    return np.mean([shared_gradient(client, theta, best_local(client, theta)) for client in clients], axis=0)


def ffgg_reference(clients: list[Client], lr: float, rounds: int) -> tuple[Array, Array]:
    """θ_{k+1} = θ_k − lr·F(θ_k) from θ_0 = 0: FFGG with exact fine-tuning and all clients in every round.

    Returns θ_0 … θ_rounds, (rounds + 1, d_θ), and ‖F(θ_k)‖, (rounds + 1,).
    """
    theta = np.zeros(clients[0]["H"].shape[1])
    thetas, norms = [], []
    for _ in range(rounds + 1):
        gradient = operator(clients, theta)
        thetas.append(theta)
        norms.append(np.linalg.norm(gradient))
        theta = theta - lr * gradient
    return np.array(thetas), np.array(norms)
