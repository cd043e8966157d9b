"""What the clients of a rank send in a round: checked, counted, and weighed where weights come along or are known."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ppfl.core.communicator import LocalParameterError
from ppfl.core.params import weighed
from ppfl.engine.mapping.mapping import Uplink, UplinkRows, UplinkSum

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ppfl.core.types import Params, State
    from ppfl.engine.mapping.mapping import AnyUplink
    from ppfl.interfaces.method import Algorithm


class Sent:
    """The uplinks of one run, to be iterated over once."""

    def __init__(
        self, algorithm: Algorithm, server: State, uplinks: Iterable[AnyUplink], cohort: frozenset[int], like: Params,
        round: int,
    ) -> None:  # fmt: skip
        self._algorithm = algorithm
        self._server = server
        self._uplinks = uplinks
        self._like = like
        self._round = round
        # asked of a client that all ranks know: they have to agree on the sums that they exchange
        self.is_weighed = bool(like) and algorithm.coordinate_weights(server, round, min(cohort)) is not None
        """Whether coordinates have weights of their own that server and clients know."""
        self.weights_of = algorithm.sent_weights() if like else {}
        """Of tensors that clients weigh themselves, the name of the weights, which come along."""
        if self.is_weighed and self.weights_of:
            raise TypeError(f"{algorithm.name} weighs coordinates twice: by coordinate_weights and by sent_weights")
        self.num_bytes = 0
        """Size of all so far; of what has weights, of the coordinates that have one."""

    def __iter__(self) -> Iterator[AnyUplink]:
        """Yield each uplink, the weights filled in.

        Raises LocalParameterError when one has a name that was not announced.
        """
        for uplink in self._uplinks:
            if uplink.params.keys() != self._like.keys():
                raise LocalParameterError(
                    f"the uplink of {self._algorithm.name} has {', '.join(uplink.params)}, but only "
                    f"{', '.join(self._like)} may leave a client: local parameters stay on the rank of their client"
                )
            if self.is_weighed:
                yield from self._weighed(uplink)
            else:
                self.num_bytes += len(uplink.reports) * self._algorithm.uplink_bytes(self._like)
                yield self._weighed_by_client(uplink) if self.weights_of else uplink

    def _weighed_by_client(self, uplink: AnyUplink) -> Uplink | UplinkRows:
        """Return v_m x_m in the place of x_m, beside the v_m."""
        uplink = self._of_single_clients(uplink)
        # in float64, where products of two float32 are exact: what is added up is not rounded before
        params = {
            name: weighed(value, uplink.params[self.weights_of[name]]) if name in self.weights_of else value
            for name, value in uplink.params.items()
        }
        return replace(uplink, params=params)

    def _of_single_clients(self, uplink: AnyUplink) -> Uplink | UplinkRows:
        if isinstance(uplink, UplinkSum):
            raise TypeError(f"{self._algorithm.name} adds clients up, so their coordinates can have no weights")
        return uplink

    def _weighed(self, uplink: AnyUplink) -> Iterator[Uplink]:
        uplink = self._of_single_clients(uplink)
        for one in uplink.one_by_one() if isinstance(uplink, UplinkRows) else [uplink]:
            weights = self._algorithm.coordinate_weights(self._server, self._round, one.client)
            if weights is None:
                raise TypeError(f"{self._algorithm.name} has weights for some clients of a round, not for {one.client}")
            sizes = {name: value.element_size() for name, value in self._like.items()}
            self.num_bytes += sum(sizes[name] * int(torch.count_nonzero(value)) for name, value in weights.items())
            yield replace(one, weights=weights)
