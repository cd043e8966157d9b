"""The GPUs of a node, dealt to the children of a pack: which of them each child sees, and how much of its memory.

All but `find_cards` is decided from names and sizes; `find_cards` asks torch, in a process of its own, since the parent
of a pack never loads it, and what children are forked from must not have begun with CUDA.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ppfl.core.numbers import whole_number
from ppfl.jobs.gpus_in_vain import torch_without_gpus
from ppfl.pack.environment import processes_on_this_host

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ppfl.config.run import Config

GIB = 1 << 30
CONTEXT_BYTES = GIB
"""Of a card that each process takes beside its tensors: the context of CUDA and the code of kernels. On the safe side,
not measured."""
LEAST_BYTES = 2 * GIB
"""For the tensors of a run: with less, runs had better wait for each other."""
BUDGET = "PPFL_GPU_BYTES"
"""As in ppfl/core/gpu_memory.py, which loads torch."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
_SIGNS = ("nvidiactl", "dxg")
"""Files of /dev where there may be a card: of NVIDIA's driver on Linux, of Windows' for Linux."""
_PROBE = """
import json, torch
count = torch.cuda.device_count()
print(json.dumps([torch.cuda.get_device_properties(number).total_memory for number in range(count)]))
"""
_PROBE_SECONDS = 300
"""A first `import torch` from a slow file system takes minutes."""


@dataclass(frozen=True)
class Card:
    """A GPU, or a part of one (MIG)."""

    name: str
    """What makes it the only visible one: a number, a UUID or a MIG id."""
    total_bytes: int


@dataclass(frozen=True)
class Dealing:
    """Cards in turn to the children of a pack, beside `processes` − 1 other packs of the same cards.

    Each child starts a run of `ranks` processes, which take the cards that they see in turn.
    """

    cards: Sequence[Card]
    ranks: int = 1
    processes: int = 1
    place: int = 0
    """Number of this pack among those."""

    def jobs(self, wanted: int) -> int:
        """Return how many children may be at work: no more than find `LEAST_BYTES` for each process, at least one."""
        on_a_card = min(card.total_bytes for card in self.cards) // (CONTEXT_BYTES + LEAST_BYTES)
        return max(1, min(wanted, on_a_card * len(self.cards) // (self.ranks * self.processes)))

    def budget_bytes(self, jobs: int) -> int:
        """Return what the tensors of a process may take of its card when `jobs` children are at work."""
        sharers = -(-jobs * self.ranks * self.processes // len(self.cards))
        share = min(card.total_bytes for card in self.cards) // sharers
        # a card so small that a context takes it all: half is tried
        return max(share - CONTEXT_BYTES, share // 2)

    def environment_of(self, child: int, jobs: int) -> dict[str, str]:
        """Return what a child finds in its environment before CUDA begins, child 0, 1, … of `jobs`."""
        first = (self.place * jobs + child) * self.ranks
        # ranks of a run take the visible cards in turn, from the first on
        seen = min(self.ranks, len(self.cards))
        names = [self.cards[(first + number) % len(self.cards)].name for number in range(seen)]
        return {VISIBLE: ",".join(names), BUDGET: str(self.budget_bytes(jobs))}

    def __str__(self) -> str:
        """Say what there is."""
        sizes = ", ".join(f"{card.total_bytes / GIB:.1f}" for card in self.cards)
        return f"{len(self.cards)} GPU(s) of {sizes} GiB"


def name_cards(total_bytes: Sequence[int], visible: str | None) -> list[Card]:
    """Return the cards that torch sees, named so that a child can be given one of them.

    visible: the value of CUDA_VISIBLE_DEVICES here, None where it is not set. A number there stands for a card as CUDA
    counts them, a UUID or a MIG id for itself; each means the same to a child.
    """
    names = [str(number) for number in range(len(total_bytes))]
    if visible is not None:
        # torch sees as many as it can use, from the first on: what follows an unknown one is ignored
        names = [name.strip() for name in visible.split(",")]
    return [Card(name, total) for name, total in zip(names, total_bytes, strict=False)]


def deal_to(
    jobs: int, configs: Sequence[Config], ranks: int, rank: int, tell: Callable[[str], None]
) -> tuple[int, Callable[[int], Mapping[str, str]]]:
    """Return how many children may be at work, and what each finds in its environment.

    `jobs` children are wanted, with runs of `ranks` ranks, by process `rank` of a launcher. Where no run takes a card,
    or there is none, nothing is asked for.
    """
    cards = find_cards() if any(config.device != "cpu" for config in configs) else []
    if not cards:
        return jobs, lambda child: {}
    dealing = deal(cards, ranks, rank)
    fitting = dealing.jobs(jobs)
    fewer = f", not {jobs}, for which memory is too little" if fitting < jobs else ""
    share = f"{dealing.budget_bytes(fitting) / GIB:.3g} GiB each"
    tell(f"{dealing}, taken in turn: {fitting} runs at once{fewer}; {share}")
    return fitting, lambda child: dealing.environment_of(child, fitting)


def deal(cards: Sequence[Card], ranks: int, rank: int, environment: Mapping[str, str] = os.environ) -> Dealing:
    """Return how a process deals cards to its children: by itself, or as one of several on this host."""
    # each task of a job may have cards of its own
    has_own = (whole_number(environment.get("SLURM_GPUS_PER_TASK", "").rpartition(":")[2]) or 0) > 0
    processes = 1 if has_own else processes_on_this_host(environment)
    return Dealing(cards, ranks, processes, rank % processes)


def find_cards(environment: Mapping[str, str] = os.environ) -> list[Card]:
    """Return the cards that a process started from here can use; none where torch has no CUDA or tells nothing."""
    if torch_without_gpus() or not any(Path("/dev", sign).exists() for sign in _SIGNS):
        return []
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], env=dict(environment), capture_output=True, text=True,
            timeout=_PROBE_SECONDS, check=True,
        )  # fmt: skip
        total_bytes = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError):
        # a run that computes on a card says what is wrong with it
        return []
    return name_cards(total_bytes, environment.get(VISIBLE))
