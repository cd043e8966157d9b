"""What samples that are trained on get and scored ones do not: images moved and mirrored, keys for dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ppfl.core.rng import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.types import Data
    from ppfl.networks.training import Augmentation


class TrainingSamples:
    """Draws per client, keyed (seed, purpose, round, client), and what they make of samples of one client or several.

    purpose: another one for the epochs of the final stage than for rounds.
    """

    def __init__(self, seed: int, augmentation: Augmentation | None, has_keys: bool) -> None:
        self._seed, self._augmentation, self._has_keys = seed, augmentation, has_keys

    @property
    def does_something(self) -> bool:
        """Whether these samples differ from those in store."""
        return self._augmentation is not None or self._has_keys

    def of_round(self, data: Data, clients: Sequence[int], sizes: Sequence[int], round: int) -> Data:
        """Return the samples of some clients one after another, S of each, as they are trained on in a round."""
        return self._of(data, clients, sizes, round, "")

    def of_epoch(self, data: Data, client: int, epoch: int, number: int) -> Data:
        """Return a mini-batch of a client as it is trained on in an epoch of the final stage."""
        return self._of(data, [client], [len(data["y"])], epoch, f"tuned batch {number} ")

    def _of(self, data: Data, clients: Sequence[int], sizes: Sequence[int], round: int, stage: str) -> Data:
        def drawn(purpose: str, low: int, high: int, width: int) -> np.ndarray:
            # one stream a client and purpose, on the host: whoever is beside a client, and the device, change nothing
            streams = (generator(self._seed, stage + purpose, round=round, client=client) for client in clients)
            numbers = [
                one.integers(low, high, (size, width), dtype=np.int64) for one, size in zip(streams, sizes, strict=True)
            ]
            return np.concatenate(numbers)

        if (augmentation := self._augmentation) is not None:
            moves = drawn("augmentation: crop", 0, 2 * augmentation.crop + 1, 2)
            flips = drawn("augmentation: flip", 0, 2, 1)[:, 0] == 1 if augmentation.flip else np.zeros(len(moves), bool)
            data = {**data, "x": moved_and_flipped(data["x"], augmentation.crop, moves, flips)}
        if self._has_keys:
            keys = torch.from_numpy(drawn("dropout", -(2**63), 2**63 - 1, 1)[:, 0])
            data = {**data, "key": keys.to(data["y"].device)}
        return data


def moved_and_flipped(x: torch.Tensor, padding: int, moves: np.ndarray, flips: np.ndarray) -> torch.Tensor:
    """Return windows of images (S, channels, height, width) out of `padding` zeros around them.

    moves: (S, 2), row and column where each begins, 0 to 2 · padding; flips: (S,) bool, left and right exchanged.
    """
    num_samples, num_channels, height, width = x.shape
    rows = moves[:, :1] + np.arange(height)
    columns = np.where(flips[:, None], moves[:, 1:] + np.arange(width)[::-1], moves[:, 1:] + np.arange(width))
    # all windows by one gather: slices would be a few operations a sample, thousands of launches on a card
    padded = torch.nn.functional.pad(x, [padding] * 4)
    sample = torch.arange(num_samples, device=x.device)[:, None, None, None]
    channel = torch.arange(num_channels, device=x.device)[None, :, None, None]
    row, column = (torch.from_numpy(np.ascontiguousarray(places)).to(x.device) for places in (rows, columns))
    return padded[sample, channel, row[:, None, :, None], column[:, None, None, :]]
