"""What a problem offers to methods: losses and gradients of one client, and its data."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from ppfl.core.balance import balanced_bounds
from ppfl.core.params import add_scaled
from ppfl.core.plugins import PlugIn, Seed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ppfl.core.byzantine import Byzantine
    from ppfl.core.communicator import Communicator
    from ppfl.core.types import Data, Params


@dataclass(frozen=True)
class Constants:
    """Curvatures of a problem that knows them, over all clients.

    smoothness: max_m λ_max(Hessian of F_m), exact w. joint_smoothness: max_m λ_max(∇²_11 f_m), inexact w.
    mean_smoothness: λ_max(mean Hessian of F_m). strong_convexity: λ_min of the same. local_smoothness: max_m
    λ_max(∇²_22 f_m). whole_smoothness: max_m λ_max(∇² f_m), θ and w taken together.
    """

    smoothness: float
    joint_smoothness: float
    mean_smoothness: float
    strong_convexity: float
    local_smoothness: float
    whole_smoothness: float


@dataclass(frozen=True)
class PureScores:
    """How `round_metrics` and `shared_metrics` come about, for engines that score many runs at once.

    Functions of one client are pure and free of control flow on values, like those of a problem.
    """

    data: Callable[[int], Data]
    """What the scores of client m are computed on."""
    of_client: Callable[[Params, Params, Data], Params]
    """(θ, w, data) -> `round_metrics`, scalars."""
    gradient: Callable[[Params, Data], torch.Tensor]
    """(θ, data) -> (D,), whose exact mean over clients `of_shared` wants."""
    of_shared: Callable[[Params, torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]
    """(θ, mean gradient, norms of the clients' gradients (M,)) -> `shared_metrics`."""


@dataclass(frozen=True)
class Placement:
    """Where and in what precision a problem lives, and which clients' data this rank holds."""

    communicator: Communicator
    data_seed: int
    """Seed of the data: what is generated, partitioned or set aside for validation."""
    seed: int
    """Seed of everything drawn during a run: initial values, batches, fresh local parameters."""
    dtype: torch.dtype
    device: torch.device
    byzantine: Byzantine | None = None
    """Attackers, some of whom may be clients of the problem."""
    body_dtype: torch.dtype | None = None
    """What all stages of a model but the last one compute in; None: in `dtype`."""
    samples_a_round: int | None = None
    """Most samples of a client that a round uses; None: all that it has."""

    def byzantine_clients(self, client_names: Sequence[str], num_train_samples: Sequence[int]) -> frozenset[int]:
        """Return the clients that are Byzantine, so that a problem can leave them out of what it says of itself."""
        if self.byzantine is None:
            return frozenset()
        return self.byzantine.members(client_names, num_train_samples, self.seed)

    def clients_of_rank(self, num_samples: Sequence[int], clients_per_chunk: int = 1) -> range:
        """Contiguous clients of this rank, in whole chunks; the largest sum of samples that a round uses is least."""
        used = np.minimum(num_samples, self.samples_a_round or np.iinfo(np.int64).max)
        chunks = np.add.reduceat(used, range(0, len(used), clients_per_chunk))
        bounds = balanced_bounds(chunks, self.communicator.size)
        first, last = bounds[self.communicator.rank : self.communicator.rank + 2]
        return range(first * clients_per_chunk, min(last * clients_per_chunk, len(num_samples)))


class SharedPass:
    """What depends on θ alone, evaluated once for one client: w may then be tuned, and θ's gradient taken."""

    data: Data
    """Stands in for the client's data, as what `Problem.advance` returns does."""

    def __init__(self, problem: Problem, shared: Params, data: Data) -> None:
        self._problem, self._shared, self._original = problem, shared, data
        self.data = problem.advance(shared, data)

    def shared_gradient(self, local: Params) -> Params:
        """∇_1 f_m(θ, w); for one use."""
        return self._problem.shared_gradient(self._shared, local, self._original)


class JointPass(ABC):
    """What depends on θ alone, evaluated once for several clients together: each w may then be tuned by itself."""

    datas: list[Data]
    """Stand in for the clients' data, as what `Problem.advance` returns does."""

    @abstractmethod
    def shared_gradient(self, tuned: Sequence[Params], weights: Sequence[float]) -> Params:
        """Σ_k v_k ∇_1 f_k(θ, w_k), by one way back; for one use."""


class Problem(ABC):
    """min over θ, w_1..w_M of (1/M) Σ_m f_m(θ, w_m), seen one client at a time.

    Functions that take `data` are pure and free of control flow on values, so that they may be vectorized over
    clients. `shared` and `local` are Params with disjoint names.

    Whatever a method asks for follows from the loss of one client, where a problem knows nothing faster:

    >>> import torch
    >>> from ppfl.core.problem import Problem
    >>> class Meeting(Problem):
    ...     client_names, num_train_samples, clients, seed = ("a", "b"), (1, 1), range(2), 0
    ...
    ...     def init_shared(self):
    ...         return {"theta": torch.zeros(1)}
    ...
    ...     def init_local(self, client):
    ...         return {"w": torch.zeros(1)}
    ...
    ...     def redraw_local(self, client, round):
    ...         return self.init_local(client)
    ...
    ...     def data(self, client, round):
    ...         return {"goal": torch.tensor([4.0 * client])}
    ...
    ...     def training_epoch(self, client, epoch):
    ...         return [self.data(client, epoch)]
    ...
    ...     def loss(self, shared, local, data):
    ...         miss = shared["theta"] + local["w"] - data["goal"]
    ...         return (miss.square().sum() + local["w"].square().sum()) / 2
    ...
    ...     def client_metrics(self, shared, local, client):
    ...         return {"loss": float(self.loss(shared, local, self.data(client, 0)))}
    >>> problem = Meeting()
    >>> theta, w, data = problem.init_shared(), problem.init_local(1), problem.data(1, round=0)
    >>> problem.gradients(theta, w, data)
    ({'theta': tensor([-4.])}, {'w': tensor([-4.])})
    >>> problem.descend(theta, w, data, lr=0.5, steps=1)
    {'w': tensor([2.])}
    """

    client_names: tuple[str, ...]
    """One name a client, all clients of all ranks, in the order of client numbers."""
    num_train_samples: tuple[int, ...]
    """Training samples of every client of all ranks; clients with 0 are never sampled."""
    clients: range
    """Clients whose data this rank holds."""
    seed: int
    """Seed of everything drawn during a run: initial values, batches, fresh local parameters."""
    byzantine: frozenset[int] = frozenset()
    """Clients of all ranks that are Byzantine: F, θ*, constants and means of metrics are over the others."""
    has_samples: bool = True
    """True when `data` holds samples, of which `select` can take some."""
    memorized_gap: float = math.log(2.0)
    """Test loss beyond train loss that tells of memorizing; here of nats, where on test data the right label then gets
    less than half of the probability that it gets on training data."""
    has_joint_pass: bool = False
    """True when the samples of several clients can go together through what depends on θ alone."""
    fixed_data: bool = False
    """True when `data` is the same in every round and the engine may keep it."""

    @property
    def num_clients(self) -> int:
        """M, all clients of all ranks."""
        return len(self.client_names)

    @property
    def honest_clients(self) -> list[int]:
        """Clients of this rank that are not Byzantine."""
        return [client for client in self.clients if client not in self.byzantine]

    @property
    def num_honest(self) -> int:
        """Clients of all ranks that are not Byzantine."""
        return self.num_clients - len(self.byzantine)

    @abstractmethod
    def init_shared(self) -> Params:
        """θ at the start, the same on every rank."""

    @abstractmethod
    def init_local(self, client: int) -> Params:
        """w_m at the start."""

    @abstractmethod
    def redraw_local(self, client: int, round: int) -> Params:
        """Return a fresh random w_m, e.g. N(0, I), keyed (seed, round, client)."""

    def parameter_names(self) -> tuple[str, ...]:
        """Return the names of all parameters, shared and local, from the input of the model to its output."""
        return (*self.init_shared(), *self.init_local(self.clients.start))

    @property
    def local_names(self) -> tuple[str, ...]:
        """Names of the local parameters."""
        return tuple(self.init_local(self.clients.start))

    def all_local(self) -> Problem:
        """Return the same problem with every parameter local, to personalize whole models. Collective."""
        raise NotImplementedError(f"{type(self).__name__} has a fixed split")

    @abstractmethod
    def data(self, client: int, round: int) -> Data:
        """Return what client m computes on in this round: a drawn batch, or everything it has."""

    @abstractmethod
    def training_epoch(self, client: int, epoch: int) -> list[Data]:
        """All training samples of a client, cut into batches of the size that a round uses, in a drawn order."""

    @abstractmethod
    def loss(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        """f_m(θ, w), a scalar; `data` may have been advanced."""

    def data_loss(self, shared: Params, local: Params, data: Data) -> torch.Tensor:
        """f_m(θ, w) without penalties on parameters: what is comparable with losses on other samples."""
        return self.loss(shared, local, data)

    def advance(self, shared: Params, data: Data) -> Data:
        """Evaluate the part of the model that depends on θ alone, once, for many uses of `loss` in w with θ fixed.

        The result stands in for `data` in `loss` and `local_gradient` as long as θ does not change; data that was
        advanced is returned as it is.
        """
        return data

    def shared_pass(self, shared: Params, data: Data) -> SharedPass:
        """Evaluate the same part, and keep what a gradient of θ needs of it; `data` as it came, not advanced."""
        return SharedPass(self, shared, data)

    def joint_pass(self, shared: Params, datas: Sequence[Data]) -> JointPass:
        """Evaluate it for several clients at once; for problems that say `has_joint_pass`."""
        raise NotImplementedError(f"{type(self).__name__} evaluates every client by itself")

    def select(self, data: Data, samples: torch.Tensor) -> Data:
        """Return the rows of `data`, which may have been advanced, that belong to `samples`, (B,) int64."""
        return {name: value.index_select(0, samples) for name, value in data.items()}

    def join(self, batches: Sequence[Data]) -> Data:
        """Return the samples of one batch or more as one batch."""
        if len(batches) == 1:
            return batches[0]
        return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}

    def local_gradient(self, shared: Params, local: Params, data: Data) -> Params:
        """∇_2 f_m(θ, w)."""
        gradient: Params = torch.func.grad(lambda w: self.loss(shared, w, data))(local)
        return gradient

    def descend(self, shared: Params, local: Params, data: Data, lr: float, steps: int) -> Params:
        """w ← w − lr · ∇_2 f_m(θ, w), `steps` times."""
        for _ in range(steps):
            local = add_scaled(local, self.local_gradient(shared, local, data), -lr)
        return local

    def shared_gradient(self, shared: Params, local: Params, data: Data) -> Params:
        """∇_1 f_m(θ, w); `data` as it came, not advanced."""
        gradient: Params = torch.func.grad(lambda theta: self.loss(theta, local, data))(shared)
        return gradient

    def gradients(self, shared: Params, local: Params, data: Data) -> tuple[Params, Params]:
        """(∇_1 f_m(θ, w), ∇_2 f_m(θ, w)) at the price of one; `data` as it came, not advanced."""
        both: tuple[Params, Params] = torch.func.grad(lambda theta, w: self.loss(theta, w, data), argnums=(0, 1))(
            shared, local
        )
        return both

    def local_hessian_product(self, shared: Params, local: Params, direction: Params, data: Data) -> Params:
        """∇²_22 f_m(θ, w) · direction."""
        transposed = torch.func.vjp(lambda w: self.local_gradient(shared, w, data), local)[1]  # it is symmetric
        product: Params = transposed(direction)[0]
        return product

    @property
    def needs_iterations(self) -> str:
        """Why argmin_w f_m(θ, w) has no closed form; "" when it has one, which is `exact_local`."""
        return "the loss of this problem has no closed form for w"

    def exact_local(self, shared: Params, data: Data) -> Params:
        """Return argmin_w f_m(θ, w) where `needs_iterations` is ""; raises NotImplementedError elsewhere."""
        raise NotImplementedError(f"{type(self).__name__} has no closed form for the local parameters")

    def constants(self) -> Constants | None:
        """Return curvatures, for `lr: theory` and for refusing steps that must diverge; None when unknown."""
        return None

    def solution(self) -> Params | None:
        """Return θ*, the minimizer of the mean of F_m, where it is known, and with it `exact_local`; None elsewhere."""
        return None

    def facts(self) -> dict[str, float]:
        """Return numbers about the problem worth storing with a result, e.g. L, μ, σ*²."""
        return {}

    def client_facts(self) -> dict[str, np.ndarray]:
        """Return facts about every client of all ranks, (M,) or (M, labels), e.g. a histogram of labels."""
        return {}

    @abstractmethod
    def client_metrics(self, shared: Params, local: Params, client: int) -> dict[str, float]:
        """Score one client of this rank with the parameters it would deploy; the same keys for every client."""

    def round_metrics(self, shared: Params, local: Params, client: int, round: int) -> dict[str, float]:
        """Score one client of this rank during a run: what `client_metrics` says, and what only makes sense there."""
        return self.client_metrics(shared, local, client)

    def metric_weights(self, metric: str) -> tuple[int, ...]:
        """Samples of every client of all ranks that a metric was computed on: its weights in a weighted mean."""
        return self.num_train_samples

    def pure_scores(self) -> PureScores | None:
        """Return the metrics of a run in parts, where they have such parts; None elsewhere."""
        return None

    def shared_metrics(self, shared: Params) -> dict[str, torch.Tensor]:
        """Scores of θ over all clients: scalars (), or (M,) with one number a client. Collective."""
        return {}


class ProblemSettings(PlugIn):
    """Base of the sections `problem:`; builds the problem on every rank.

    The section is cheap to read, and what it stands for is built where it is computed:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.comm.solo import SoloCommunicator
    >>> from ppfl.core.problem import Placement, ProblemSettings
    >>> from ppfl.problems.quadratic import QuadraticSettings
    >>> class Easy(ProblemSettings):
    ...     name: Literal["easy"]
    ...     clients: int
    ...
    ...     @property
    ...     def known_clients(self):
    ...         return self.clients
    ...
    ...     def build(self, placement, clients_per_chunk):
    ...         sizes = {"clients": self.clients, "shared_dimension": 2, "local_dimension": 1, "rows": 4}
    ...         section = {"name": "quadratic", "generator": "comparison", "zeta": 1.0, **sizes}
    ...         return QuadraticSettings.model_validate(section).build(placement, clients_per_chunk)
    >>> here = Placement(SoloCommunicator(), data_seed=0, seed=0, dtype=torch.float64, device=torch.device("cpu"))
    >>> problem = Easy(name="easy", clients=3).build(here, clients_per_chunk=1)
    >>> problem.num_clients, problem.clients, problem.local_names
    (3, range(0, 3), ('w',))
    """

    has_labels: ClassVar[bool] = False
    """True when data have class labels `y`."""
    has_body: ClassVar[bool] = False
    """True when there is a model whose stages before the last one may compute in bfloat16."""

    seed: Seed | None = None
    """Seed of the data alone; default: the run's seed."""

    @property
    def known_clients(self) -> int | None:
        """Number of clients, all of them with training samples, when the settings say it; None when data do."""
        return None

    def build(self, placement: Placement, clients_per_chunk: int) -> Problem:
        """Build the part of the problem that this rank holds. Collective."""
        raise NotImplementedError
