"""The layout of a result and of what lies beside it, said once for writers and readers.

Inside `<result>.h5`:

/            attributes: digest, name, status, complete, config (YAML), results_version
provenance/  attributes: versions, commit, device, ranks, hosts, Slurm ids, times
problem/     attributes: what the problem knows of itself (L, mu, …)
seconds/     attributes: what the wall-clock seconds of the run were spent on
best_round/  attributes: the best round by validation, where it was looked for; finished runs alone
rounds/      dimension round: scores and costs; (round, client) where there is one number a client
clients/     dimension client: samples, <stage>_<metric>
newcomers/   dimensions client, steps: samples, <metric>; of runs that hold clients out alone
arrivals/    dimension arrival: client, version, delay, seconds, turnaround_seconds; asynchronous runs alone
losses/      dimension loss: client, version, arrivals, fate, seconds; where a network loses asynchronous jobs
summary/     dimensions stage, statistic: one variable a metric
stages/      dimension stage: what the training of a stage has cost; not in files of version 3

Beside it: `.shared.safetensors`, `.local-R-of-P.safetensors`, and while there is no complete result `.running.json`,
`.failed.json`, `.checkpoint/` (in its `start/` what the run starts from) and, when it was asked to stop, `.stop.json`.
In the folder of the result `logs/<name>/try-<n>.log` has what each attempt said. A run that is to be delivered has
result, parameters and checkpoint in the folder `running` there until it is finished.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.core.parameter_file import shared_path as shared_path

if TYPE_CHECKING:
    from pathlib import Path

SECONDS_SHARED_BY = "seconds_shared_by"
"""Attribute of the provenance of runs that were computed together: how many. Their seconds are equal shares."""
PLUG_INS = "plug_ins"
"""Attribute of the provenance of runs that used plug-ins from outside: which, and what tells them apart."""
START = "start"
"""Attribute of the provenance of runs that started from another one, or from a file: where it was, and its digest."""
SAMPLES = "samples"
"""Attribute of the provenance: the same for runs that were scored on the same samples of the same clients."""
FILE_KIND = "ppfl result"
RUNNING = "running"
FINISHED = ("complete", "diverged")
WORK_FOLDER = "running"
"""Beside results: where those are computed of which only finished ones may be seen."""
RESULT_SUFFIX = ".h5"
CLAIM_SUFFIX = ".running.json"
STALE_SECONDS = 60.0
"""A claim that was not renewed for so long belongs to nobody any more."""


def apart_path(result: Path) -> Path:
    """Return where a result is computed that is put to its place when it is finished."""
    return result.parent / WORK_FOLDER / result.name


def running_path(result: Path) -> Path:
    """Return where a running job says that it is alive and how far it is."""
    return result.with_name(f"{result.name}{CLAIM_SUFFIX}")


def failed_path(result: Path) -> Path:
    """Return where a run that failed has left its reason."""
    return result.with_name(f"{result.name}.failed.json")


def checkpoint_path(result: Path) -> Path:
    """Return the folder of a run's checkpoints."""
    return result.with_name(f"{result.name}.checkpoint")


def kept_start_path(result: Path, name: str) -> Path:
    """Return where checkpoints of a run keep a file that it starts from."""
    return checkpoint_path(result) / "start" / name


def stop_path(result: Path) -> Path:
    """Return where somebody asks the job that has a result to stop."""
    return result.with_name(f"{result.name}.stop.json")


def packs_stop_path(folder: Path, job: str = "") -> Path:
    """Return where somebody asks the packs that work in a folder to stop: all of them, or those of a Slurm job."""
    return folder / (f"packs-{job}.stop.json" if job else "packs.stop.json")


def final_folder(result: Path) -> Path:
    """Return the folder that a result ends up in: the workflow computes in one below it."""
    return result.parent.parent if result.parent.name == WORK_FOLDER else result.parent


def log_folder(result: Path) -> Path:
    """Return the folder of the logs of a run, one an attempt."""
    return final_folder(result) / "logs" / result.stem
