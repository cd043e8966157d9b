"""A method whose clients send less than they computed, as a method of its own for whoever maps clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.core.params import flatten, unflatten
from ppfl.interfaces.compressor import Compressor
from ppfl.interfaces.method import Algorithm, ClientStep, FineTuner

if TYPE_CHECKING:
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.compression import Compression
    from ppfl.interfaces.method import ServerOptimizer
    from ppfl.interfaces.objective import Objective

_ERROR = "error"
_DRAWN = "compressor."
_WHAT = "uplink"


class Compressed(Algorithm):
    """x̂_m = C(x_m + e_m) is sent, e_m ← x_m + e_m − x̂_m where there is error feedback; all else is as in the method.

    The uplink is what the server decodes, so that exchanges, rules and attackers see that alone; how many bytes the
    message had is known without it. e_m is a group of the client's state beside those of the method.
    """

    of: Algorithm
    """The method, resolved; `name` is its own."""
    compressor: Compressor
    error_feedback: bool
    size: int
    """D, numbers of what a client sends."""
    message_bytes: int
    """Of one message."""

    @property
    def fine_tuner_of_clients(self) -> FineTuner | None:
        """Return that of the method."""
        return self.of.fine_tuner_of_clients

    def init_server(self, shared: Params, optimizer: ServerOptimizer) -> State:
        """Return what the method begins with."""
        return self.of.init_server(shared, optimizer)

    def init_client(self, shared: Params, local: Params) -> State:
        """Return what the method begins with, and e_m = 0."""
        state = self.of.init_client(shared, local)
        if not self.error_feedback:
            return state
        return {**state, _ERROR: {_ERROR: next(iter(shared.values())).new_zeros(self.size)}}

    def downlink(self, server: State, round: int, client: int | None = None) -> Params | None:
        """Return what the method sends."""
        return self.of.downlink(server, round, client)

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return the draws of the method, and those of the compressor."""
        drawn = self.compressor.draws(objective.seed, client, round, _WHAT, self.size)
        named = {_DRAWN + name: value for name, value in drawn.items()}
        return {**self.of.draws(objective, client, round, num_samples), **named}

    def uplink_like(self, server: State) -> Params:
        """Return names and shapes of what is decoded, which are those of the method."""
        return self.of.uplink_like(server)

    def uplink_bytes(self, like: Params) -> int:
        """Return the bytes of a message."""
        return self.message_bytes

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return C(x_m + e_m), and the next e_m beside the method's next state."""
        of_method = {name: value for name, value in draws.items() if not name.startswith(_DRAWN)}
        drawn = {name.removeprefix(_DRAWN): value for name, value in draws.items() if name.startswith(_DRAWN)}
        step = self.of.client(objective, message, state, data, of_method)
        x = flatten(step.uplink)
        if not isinstance(x, torch.Tensor):
            raise TypeError("lanes are not compressed together")
        if self.error_feedback:
            x = x + state[_ERROR][_ERROR]
        decoded = self.compressor.decode(self.compressor.encode(x, drawn), self.size, x.dtype)
        uplink = unflatten(decoded, step.uplink)
        if not self.error_feedback:
            return ClientStep(uplink, step.state, step.report)
        return ClientStep(uplink, {**step.state, _ERROR: {_ERROR: x - decoded}}, step.report)

    def server(self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int) -> State:
        """Let the method take its step."""
        return self.of.server(state, aggregate, optimizer, round)

    def server_of_cohort(
        self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int, share: float
    ) -> State:
        """Let the method take its step."""
        return self.of.server_of_cohort(state, aggregate, optimizer, round, share)

    def view(self, server: State, state: State) -> tuple[Params, Params]:
        """Return what the method would deploy."""
        return self.of.view(server, state)


def compressed(
    algorithm: Algorithm, compression: Compression | None, shared: Params, optimizer: ServerOptimizer
) -> Algorithm:
    """Return a resolved method with the uplinks that a configuration wants; itself where they stay as they are.

    Raises ValueError, beginning with the key of the compressor, where nothing is sent, and for k above D.
    """
    if compression is None or not compression.changes:
        return algorithm
    compressor, server = compression.compressor, algorithm.init_server(shared, optimizer)
    if algorithm.sent_weights() or algorithm.coordinate_weights(server, 0, 0) is not None:
        raise TypeError(f"{algorithm.name} weighs coordinates, and has to say `needs_whole_uplinks`")
    like = flatten(algorithm.uplink_like(server)) if shared else torch.empty(0)
    if not len(like):
        raise ValueError("name: 'none', since nothing of this problem is shared, and nothing is sent")
    compressor.check(len(like))
    return Compressed(
        name=algorithm.name, of=algorithm, compressor=compressor, error_feedback=compression.error_feedback,
        size=len(like), message_bytes=compressor.message_bytes(len(like), like.dtype),
    )  # fmt: skip


def uncompressed(algorithm: Algorithm) -> Algorithm:
    """Return the method without what is done to its uplinks, for whoever counts what it computes."""
    return algorithm.of if isinstance(algorithm, Compressed) else algorithm
