"""Samples of tokens as clients with vocabularies of their own have them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ppfl.core.agree import SharedUserError
from ppfl.interfaces.task import Labels

if TYPE_CHECKING:
    from ppfl.interfaces.dataset import FederatedSamples
    from ppfl.interfaces.own_tokens import OwnTokens
    from ppfl.interfaces.packed_samples import Pack
    from ppfl.interfaces.placement import Placement
    from ppfl.interfaces.task import Task


def with_own_tokens(
    samples: FederatedSamples, rule: OwnTokens, task: Task, placement: Placement
) -> tuple[FederatedSamples, Task]:
    """Number the tokens of every client anew, and say so to the task. Samples are changed in place. Collective.

    Common tokens come first, in the order of their ids, then those that are a client's own, likewise: the same number
    is another token of another client. `vocabulary_size` is that of the client with most tokens. Raises
    SharedUserError for samples that are no tokens, or stay in their file.
    """
    size = samples.vocabulary_size
    if size is None:
        raise SharedUserError("problem.own_tokens: is for samples of tokens; those of problem.dataset are numbers")
    labels = Labels(samples.labels_from, samples.label_shape, False, 0, size, samples.special_ids)
    # ids are compared with those of the data while they are still called alike
    task.num_outputs(labels)
    packs = samples.parts.packs
    seen = [_seen(packs, index, size) for index in range(len(samples.clients))]
    counts = torch.zeros(size, dtype=torch.int64)
    for of_client in seen:
        counts[torch.from_numpy(of_client)] += 1
    is_common = (placement.communicator.allreduce(counts, "sum") >= rule.common_to).numpy()
    is_common[[*samples.special_ids.values(), *task.special_ids().values()]] = True
    num_common, common = int(is_common.sum()), np.cumsum(is_common) - 1
    own = [of_client[~is_common[of_client]] for of_client in seen]
    for index, of_client in enumerate(own):
        # ids that this client does not have stay as they are: nobody asks for them
        codes = common.copy()
        codes[of_client] = num_common + np.arange(len(of_client))
        _renumber(packs, index, codes)
    mine = torch.tensor([len(of_client) for of_client in own], dtype=torch.int64)
    num_own = tuple(placement.communicator.allgather_rows(mine).tolist())
    names = {name: int(common[token]) for name, token in samples.special_ids.items()}
    recoded = replace(samples, vocabulary_size=num_common + max(num_own), special_ids=names, num_own_tokens=num_own)
    return recoded, task.renumbered(common)


def _seen(packs: tuple[Pack, ...], index: int, size: int) -> np.ndarray:
    """Return the tokens of one client of this rank, ascending."""
    there = np.zeros(size, dtype=bool)
    for pack in packs:
        x, rows = _tokens(pack), _rows(pack, index)
        there[x[rows].reshape(-1)] = True
        there[pack.y[rows].reshape(-1)] = True
    return np.flatnonzero(there)


def _renumber(packs: tuple[Pack, ...], index: int, codes: np.ndarray) -> None:
    for pack in packs:
        x, rows = _tokens(pack), _rows(pack, index)
        x[rows] = codes[x[rows]]
        pack.y[rows] = codes[pack.y[rows]]


def _tokens(pack: Pack) -> np.ndarray:
    if not isinstance(pack.x, np.ndarray):
        raise SharedUserError("problem.own_tokens: is for samples that memory holds; these stay in their file")
    return pack.x


def _rows(pack: Pack, index: int) -> slice:
    start = int(pack.starts[index])
    return slice(start, start + int(pack.sizes[index]))
