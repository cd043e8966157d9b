"""A problem: what is minimized, over whose data, how it is scored, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from ppfl.core.plugins import PlugIn, Seed

if TYPE_CHECKING:
    from ppfl.interfaces.client_data import ClientData
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.placement import Placement
    from ppfl.interfaces.scores import Scores
    from ppfl.interfaces.selection import Selection
    from ppfl.interfaces.theory import Theory


# compared by what it is: runs that share a problem share what is drawn for it
@dataclass(frozen=True, eq=False)
class Problem:
    """min over θ, w_1..w_M of (1/M) Σ_m f_m(θ, w_m), as one rank holds it.

    Methods see the objective alone; who else needs what is said by whom it is handed to:

    >>> import torch
    >>> from ppfl.interfaces.client_data import Statistics
    >>> from ppfl.interfaces.objective import Objective
    >>> from ppfl.interfaces.problem import Problem
    >>> from ppfl.interfaces.scores import Scores
    >>> from ppfl.interfaces.theory import Theory
    >>> class Meeting(Objective):
    ...     parameter_names, seed = ("theta", "w"), 0
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
    ...     def loss(self, shared, local, data):
    ...         return (shared["theta"] + local["w"] - data["goal"]).square().sum()
    >>> class Losses(Scores):
    ...     def client_metrics(self, shared, local, client):
    ...         return {"loss": float(self.objective.loss(shared, local, self.client_data.data(client, 0)))}
    >>> goals = {client: {"goal": torch.tensor([4.0 * client])} for client in range(2)}
    >>> meeting, clients = Meeting(), Statistics(("a", "b"), (1, 1), range(2), goals)
    >>> problem = Problem(meeting, clients, Losses(meeting, clients), Theory())
    >>> problem.local_names
    ('w',)
    >>> problem.scores.client_metrics(meeting.init_shared(), meeting.init_local(1), client=1)
    {'loss': 16.0}
    """

    objective: Objective
    client_data: ClientData
    scores: Scores
    theory: Theory
    newcomers: Problem | None = field(default=None, kw_only=True)
    """Clients that are held out of training, numbered by themselves: the same objective on their data, and scores."""

    @property
    def local_names(self) -> tuple[str, ...]:
        """Names of the local parameters."""
        clients = self.client_data.clients
        # the same of all clients; a rank with none of the newcomers has the number of none, either
        return tuple(self.objective.init_local(clients.start if clients else 0))

    def scored_on(self, selection: Selection) -> Problem:
        """Return the same problem, scored on some of the samples; raises ValueError where none can be chosen."""
        raise ValueError(f"{type(self).__name__} does not say what of its data is scored; leave the key out")

    def all_local(self) -> Problem:
        """Return the same problem with every parameter local, to personalize whole models. Collective."""
        raise NotImplementedError(f"{type(self).__name__} has a fixed split")


class ProblemSettings(PlugIn):
    """Base of the sections `problem:`; builds the problem on every rank.

    The section is cheap to read, and what it stands for is built where it is computed:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.comm.solo import SoloCommunicator
    >>> from ppfl.interfaces.placement import Placement
    >>> from ppfl.interfaces.problem import ProblemSettings
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
    >>> problem.client_data.num_clients, problem.client_data.clients, problem.local_names
    (3, range(0, 3), ('w',))
    """

    has_statistics: ClassVar[bool] = False
    """True when clients have `Statistics` in the place of samples, whatever the settings: known before they are
    built."""
    seed: Seed | None = None
    """Seed of the data alone; default: the run's seed."""

    @property
    def known_clients(self) -> int | None:
        """Number of clients, all of them with training samples, when the settings say it; None when data do."""
        return None

    def build(self, placement: Placement, clients_per_chunk: int | None) -> Problem:
        """Build the part of the problem that this rank holds. Collective."""
        raise NotImplementedError
