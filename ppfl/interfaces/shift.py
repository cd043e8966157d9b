"""The interface of shifts: clients fall into clusters, whose samples differ by what is done to them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from ppfl.core.agree import SharedUserError, on_every_rank
from ppfl.core.errors import UserError
from ppfl.core.plugins import PlugIn
from ppfl.core.rng import generator
from ppfl.interfaces.packed_samples import Pack, PackedParts

if TYPE_CHECKING:
    from ppfl.interfaces.dataset import FederatedSamples
    from ppfl.interfaces.packed_samples import RowsOfFile
    from ppfl.interfaces.placement import Placement


class Shift(PlugIn):
    """What is done to the samples of a client, by its cluster, in all three parts; nothing in cluster 0.

    It says what becomes of x, or of y, and which samples it is for:

    >>> from typing import Literal
    >>> import numpy as np
    >>> from ppfl.interfaces.shift import Shift
    >>> class Negative(Shift):
    ...     name: Literal["negative"]
    ...
    ...     def unsuited(self, samples):
    ...         return "" if samples.divisor == 255 else "bytes"
    ...
    ...     def moved(self, x, cluster):
    ...         return 255 - x if cluster % 2 else x
    >>> shift = Negative(name="negative", clusters=2)
    >>> shift.clusters_of(5, seed=0), shift.moved(np.array([[0, 200]]), cluster=1)
    (array([0, 1, 0, 1, 0]), array([[255,  55]]))
    """

    clusters: Annotated[int, Field(ge=2)]
    """Number of clusters, at most as many as there are clients, and as can differ from each other."""
    order: Literal["in_turn", "drawn"] = "in_turn"
    """Client m is in cluster m mod `clusters`; or clusters as large as these are drawn, by the seed of the data."""

    def most_clusters(self, num_classes: int) -> int | None:
        """Return how many clusters can differ from each other, None where that has no end.

        num_classes: of the labels, 1 where they are no classes.
        """
        return None

    @abstractmethod
    def unsuited(self, samples: FederatedSamples) -> str:
        """Return which samples it is for, "" where it is for these."""

    def moved(self, x: np.ndarray, cluster: int) -> np.ndarray:
        """Return samples (S, …) as clients of a cluster have them, of the same shape and type."""
        return x

    def relabelled(self, y: np.ndarray, cluster: int, num_classes: int, seed: int) -> np.ndarray:
        """Return labels (S, …) as clients of a cluster have them, below `num_classes` where they are classes."""
        return y

    def clusters_of(self, num_clients: int, seed: int) -> np.ndarray:
        """Return the cluster of every client, (M,) int64; sizes differ by at most one."""
        in_turn = np.arange(num_clients) % self.clusters
        return in_turn if self.order == "in_turn" else generator(seed, "clusters").permutation(in_turn)


def shifted(samples: FederatedSamples, shift: Shift, placement: Placement) -> FederatedSamples:
    """Return the samples of this rank as a shift has them; those in memory are changed in place. Collective.

    Raises UserError, on every rank, for samples that the shift is not for, and for more clusters than clients, or than
    can differ.
    """
    # a rank without clients does not know what the labels of others are
    on_every_rank(placement.communicator, lambda: _refuse(samples, shift))
    num_clients = len(samples.client_names)
    seed, num_classes = placement.data_seed, _num_classes(samples, placement)
    most = shift.most_clusters(num_classes)
    if most is not None and shift.clusters > most:
        # of all labels, so that every rank says so
        raise SharedUserError(
            f"problem.dataset.shift: {shift.name} has {shift.clusters} clusters; allowed: at most {most}, since others "
            f"would be as some of these"
        )
    of_all = shift.clusters_of(num_clients, seed)
    mine = of_all[samples.clients.start : samples.clients.stop]
    packs = {id(pack): _shifted_pack(pack, shift, mine, num_classes, seed) for pack in samples.parts.packs}
    parts = PackedParts(*(replace(part, pack=packs[id(part.pack)]) for part in samples.parts))
    return replace(samples, parts=parts, clusters=tuple(of_all.tolist()))


def _refuse(samples: FederatedSamples, shift: Shift) -> None:
    where, num_clients = f"problem.dataset.shift: {shift.name}", len(samples.client_names)
    if wanted := shift.unsuited(samples):
        raise UserError(f"{where} is for {wanted}; these samples are not")
    if num_clients < shift.clusters:
        allowed = f"at most {num_clients}, as many as there are clients"
        raise UserError(f"{where} has {shift.clusters} clusters; allowed: {allowed}")


def _num_classes(samples: FederatedSamples, placement: Placement) -> int:
    import torch

    labels = [pack.y for pack in samples.parts.packs if pack.y.dtype.kind != "f"]
    largest = max((int(y.max(initial=0)) for y in labels), default=0)
    return 1 + int(placement.communicator.allreduce(torch.tensor([largest]), "max"))


def _shifted_pack(pack: Pack, shift: Shift, clusters: np.ndarray, num_classes: int, seed: int) -> Pack:
    """clusters: (C,) of the clients of this rank."""
    x = pack.x
    for start, size, cluster in zip(pack.starts.tolist(), pack.sizes.tolist(), clusters.tolist(), strict=True):
        rows = slice(start, start + size)
        if isinstance(x, np.ndarray):
            x[rows] = shift.moved(x[rows], cluster)
        pack.y[rows] = shift.relabelled(pack.y[rows], cluster, num_classes, seed)
    return pack if isinstance(x, np.ndarray) else replace(pack, x=_ShiftedRows(x, pack, shift, clusters))


class _ShiftedRows:
    """Samples that stay in their file, changed when they are read."""

    def __init__(self, x: RowsOfFile, pack: Pack, shift: Shift, clusters: np.ndarray) -> None:
        self._x = x
        self._shift = shift
        # empty clients begin where others do
        order = np.argsort(pack.starts, kind="stable")
        order = order[pack.sizes[order] > 0]
        self._starts, self._clusters = pack.starts[order], clusters[order]

    def read(self, first: int, last: int) -> np.ndarray:
        """Return rows of one client. Raises UserError as the file does."""
        x = self._x.read(first, last)
        if not len(x):
            return x
        of_client = int(np.searchsorted(self._starts, first, side="right")) - 1
        return np.ascontiguousarray(self._shift.moved(x, int(self._clusters[of_client])))
