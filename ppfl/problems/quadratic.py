"""The exact problem, of which everything is known: settings and building."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from ppfl.core.agree import on_every_rank
from ppfl.core.data_file import DataFile
from ppfl.core.errors import UserError
from ppfl.core.plugins import refusal
from ppfl.interfaces.problem import ProblemSettings
from ppfl.interfaces.split import Split
from ppfl.problems._quadratic_file import Layout, open_clients
from ppfl.problems._quadratic_generators import DEFAULTS, Generator, Recipe, Targets
from ppfl.problems._quadratic_gram import Gram, Grams
from ppfl.problems._quadratic_isotropic import Isotropic, Scales
from ppfl.problems._quadratic_means import Means
from ppfl.problems._quadratic_objective import PARAMETER_NAMES
from ppfl.problems._quadratic_problem import QuadraticProblem, build_quadratic

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import torch

    from ppfl.core.plugins import Example
    from ppfl.interfaces.placement import Dealt, Placement
    from ppfl.problems._quadratic_generators import Matrices

_LARGEST = 1e150
"""Of an entry of a Gram matrix: products of two of them are finite in float64."""
_OF_MATRICES: tuple[Generator, ...] = ("comparison", "asynchronous", "byzantine")
_GENERATORS_WITH: dict[str, tuple[Generator, ...]] = {
    **dict.fromkeys(("local_dimension", "rows", "targets"), _OF_MATRICES),
    # of byzantine the clients have matrices of their own
    "zeta": ("comparison", "asynchronous", "isotropic"),
    "noise": (*_OF_MATRICES, "means"),
    **dict.fromkeys(("samples", "mean", "spread"), ("means",)),
    "scales": ("isotropic",),
}
_GENERATOR_FIELDS = ("clients", "shared_dimension", *_GENERATORS_WITH)


class QuadraticSettings(ProblemSettings):
    """f_m(θ, w) = ½‖H_m θ − b_m‖² + ½‖A_m θ + B_m w − y_m‖², drawn by a generator or read from a file.

    `generator: means` is mean estimation, ½‖θ − y_m‖², scored by ‖θ − μ_m‖² as well; see Means. `generator: isotropic`
    has curvatures that are the same in all directions; see Isotropic.
    Exactly one of `generator` and `file` is given; the options of a generator default to its row of the table in
    the paper's released experiments, and stand with a generator alone.
    """

    name: Literal["quadratic"]
    has_statistics: ClassVar[bool] = True
    silent: ClassVar[frozenset[str]] = frozenset({"samples", "mean", "spread", "scales", "gradient_noise"})
    example: ClassVar[Example] = {
        "generator": "comparison",
        "zeta": 1,
        "clients": 5,
        "shared_dimension": 6,
        "local_dimension": 4,
        "rows": 20,
    }
    generator: Generator | None = None
    """Law of random matrices: comparison, asynchronous or byzantine; of means to estimate; or isotropic."""
    file: DataFile | None = None
    """HDF5 with clients/<id>/{H,b,A,B,y}, float64."""
    clients: PositiveInt | None = None
    """M."""
    shared_dimension: PositiveInt | None = None
    """d_θ, length of the parameter `theta`."""
    local_dimension: PositiveInt | None = None
    """d_w, length of the parameter `w`."""
    rows: PositiveInt | None = None
    """Rows of H_m, A_m and B_m."""
    zeta: NonNegativeFloat | None = None
    """ζ, scale of each client's own part of the matrices; not for byzantine, where they are all own. With isotropic:
    of b_m."""
    targets: Targets | None = None
    """θ_m* that b_m and y_m are made from: each client's own, or a common one (then overpersonalized)."""
    noise: NonNegativeFloat | None = None
    """Standard deviation of what is added to b_m and y_m; default 0. With means: σ, of samples about their mean."""
    samples: PositiveInt | None = None
    """Samples whose mean a client knows; with means."""
    mean: float | None = None
    """μ, every coordinate of the mean of the clients' means; with means."""
    spread: NonNegativeFloat | None = None
    """σ_h, standard deviation of the clients' means; with means."""
    scales: Scales | None = None
    """Curvatures i²/M of clients i = 1..M, or all 1; with isotropic."""
    gradient_noise: PositiveFloat | None = None
    """σ, E‖noise‖² = σ² of what is added to a client's gradients, drawn anew every round; null: they are exact."""
    split: Split = Split(local=("w",))
    """Which of `theta` and `w` are local."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults(cls, values: Any) -> Any:
        """Fill in the generator's defaults, so that equal problems have equal settings."""
        chosen = values.get("generator") if isinstance(values, dict) else None
        if not isinstance(chosen, str) or chosen not in DEFAULTS:
            return values
        # null is the same as leaving out, also in the digest
        given = {key: value for key, value in values.items() if value is not None}
        return {**DEFAULTS[chosen], **given}

    @field_validator("split")
    @classmethod
    def _split_fits(cls, split: Split) -> Split:
        split.local_names(PARAMETER_NAMES)
        return split

    @model_validator(mode="after")
    def _one_source(self) -> QuadraticSettings:
        if self.generator is None and self.file is None:
            raise refusal("generator", f"one of {', '.join(DEFAULTS)}, or a `file`")
        if self.generator is not None and self.file is not None:
            raise refusal("file", "nothing beside `generator`: give exactly one of the two")
        if self.file is not None:
            for field in _GENERATOR_FIELDS:
                if getattr(self, field) is not None:
                    raise refusal(field, "nothing beside `file`: it is an option of `generator`")
        for field, generators in _GENERATORS_WITH.items():
            if self.generator is not None and self.generator not in generators and getattr(self, field) is not None:
                raise refusal(field, f"nothing with `generator: {self.generator}`: it is for {', '.join(generators)}")
        return self

    @property
    def known_clients(self) -> int | None:
        """Number of clients of a generator."""
        return self.clients

    def build(self, placement: Placement, clients_per_chunk: int | None) -> QuadraticProblem:
        """Draw or read this rank's clients, and compute the constants of the whole problem. Collective.

        Raises UserError, on every rank, for a file without this layout, with NaN or with numbers too large.
        """

        def load() -> tuple[Layout, dict[int, Gram], Dealt]:
            with self._source(placement.data_seed) as (layout, matrices):
                found, make, dealt = {}, Grams(), _deal(placement, layout, clients_per_chunk)
                for client in dealt.clients:
                    name = layout.client_names[client]
                    found[client] = make.of(matrices(name))
                    self._check(name, found[client], placement.dtype)
                return layout, found, dealt

        layout, grams, dealt = on_every_rank(placement.communicator, load)
        return build_quadratic(placement, self.split, layout, dealt, grams, self.gradient_noise)

    def _source(self, seed: int) -> AbstractContextManager[tuple[Layout, Callable[[str], Matrices]]]:
        """Return the layout and what gives the matrices of a client, by its name."""
        if self.file is not None:
            return open_clients(self.file.path)
        recipe = self._recipe()
        names = tuple(str(client) for client in range(recipe.clients))
        layout = Layout(names, (recipe.rows,) * recipe.clients, recipe.shared_dimension, recipe.local_dimension)
        draw = recipe.clients_of(seed)
        return nullcontext((layout, lambda name: draw(int(name))))

    def _check(self, name: str, gram: Gram, precision: torch.dtype) -> None:
        """Raise UserError for numbers of a client that no product of two may have."""
        import torch

        largest = max(float(part.abs().max()) for part in (gram.curvature, gram.linear, gram.constant))
        limit = min(torch.finfo(precision).max, _LARGEST)
        # NaN is not within it either
        if not largest <= limit:
            where = f"problem: client {name}" if self.file is None else f"{self.file.path}: clients/{name}"
            raise UserError(
                f"{where}: sums of products of its entries reach {largest:.3g}; allowed is up to {limit:.3g}"
            )

    def _recipe(self) -> Recipe | Means | Isotropic:
        laws: dict[str | None, type[Recipe | Means | Isotropic]] = {"means": Means, "isotropic": Isotropic}
        law = laws.get(self.generator, Recipe)
        return law(**self.model_dump(include={field.name for field in fields(law)}))


def _deal(placement: Placement, layout: Layout, clients_per_chunk: int | None) -> Dealt:
    """Return the clients of this rank; each takes its matrix, as it is kept and as it is computed on."""
    length = layout.shared_dimension + layout.local_dimension
    placement = replace(placement, bytes_of_client=lambda *_: 2 * placement.dtype.itemsize * length**2)
    names = layout.client_names
    return placement.deal(names, (1,) * len(names), clients_per_chunk, (length,))
