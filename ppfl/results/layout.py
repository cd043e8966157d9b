"""The layout of a result and of what lies beside it, said once for writers and readers.

Inside `<result>.h5`:

/            attributes: digest, name, status, complete, config (YAML), results_version
provenance/  attributes: versions, commit, device, ranks, hosts, Slurm ids, times
problem/     attributes: what the problem knows of itself (L, mu, …)
rounds/      dimension round: scores and costs; (round, client) where there is one number a client
clients/     dimension client: samples, <stage>_<metric>
arrivals/    dimension arrival: client, version, delay, seconds, turnaround_seconds; asynchronous runs alone
summary/     dimensions stage, statistic: one variable a metric
stages/      dimension stage: what the training of a stage has cost; not in files of version 3

Beside it: `.shared.safetensors`, `.local-R-of-P.safetensors`, and while there is no complete result `.running.json`,
`.failed.json`, `.checkpoint/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SECONDS_SHARED_BY = "seconds_shared_by"
"""Attribute of the provenance of runs that were computed together: how many. Their seconds are equal shares."""
FILE_KIND = "ppfl result"
RUNNING = "running"
FINISHED = ("complete", "diverged")
STALE_SECONDS = 60.0
"""A claim that was not renewed for so long belongs to nobody any more."""


def shared_path(result: Path) -> Path:
    """Return where θ of a result lies."""
    return result.with_name(f"{result.name}.shared.safetensors")


def running_path(result: Path) -> Path:
    """Return where a running job says that it is alive and how far it is."""
    return result.with_name(f"{result.name}.running.json")


def failed_path(result: Path) -> Path:
    """Return where a run that failed has left its reason."""
    return result.with_name(f"{result.name}.failed.json")


def checkpoint_path(result: Path) -> Path:
    """Return the folder of a run's checkpoints."""
    return result.with_name(f"{result.name}.checkpoint")
