"""What Slurm has, and whether a request fits it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError
from ppfl.core.numbers import whole_number
from ppfl.jobs.slurm import NoAnswerError, ask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ppfl.submit.request import Request

_FIELDS = "%P|%l|%D|%c|%G|%m"
_UNITS = (1, 60, 3600, 86400)
_SITE = 'source "$1" >/dev/null && for name in "${!SBATCH_@}"; do printf "%s=%s\\0" "$name" "${!name}"; done'


@dataclass(frozen=True)
class NodeKind:
    """Nodes of a partition that are alike."""

    count: int
    cpus: int
    gpus: int
    memory_mb: int = 0
    """Of one node; at most 1 where Slurm was not told and does not count it."""


@dataclass(frozen=True)
class Partition:
    """A partition's nodes and its time limit, None where there is none."""

    name: str
    limit: str
    kinds: tuple[NodeKind, ...]

    @property
    def counts_memory(self) -> bool:
        """Whether Slurm knows the memory of its nodes: where it does not, it refuses to be asked for any."""
        return any(kind.memory_mb != 1 for kind in self.kinds)


def site(scripts: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what slurm/env.sh or the environment has for sbatch: SBATCH_*. Raises UserError when it fails."""
    command = ["bash", "-c", _SITE, "bash", str(scripts / "env.sh")]
    try:
        entries = ask(command, environment).split("\0")
    except NoAnswerError as error:
        raise UserError(f"{scripts / 'env.sh'}: {error}") from error
    return dict(entry.split("=", 1) for entry in entries if entry)


def partition(name: str | None, environment: Mapping[str, str]) -> Partition:
    """Return a partition, or the default one. Raises UserError when there is no such partition."""
    answer = ask(["sinfo", "--noheader", "--exact", f"--format={_FIELDS}"], environment)
    # memory may be missing where a site has a sinfo of its own
    # lines of another form are what wrappers print beside the answer
    rows = [[*line.split("|"), "0"] for line in answer.splitlines() if line.count("|") in (4, 5)]
    wanted = [row for row in rows if (row[0].rstrip("*") == name if name else row[0].endswith("*"))]
    if not wanted:
        names = ", ".join(dict.fromkeys(row[0].rstrip("*") for row in rows))
        given = f"--partition {name}: no such partition" if name else "no default partition: name one with --partition"
        raise UserError(f"{given}; allowed: {names}")
    kinds = tuple(NodeKind(int(row[2]), _leading_int(row[3]), num_gpus(row[4]), _leading_int(row[5])) for row in wanted)
    return Partition(wanted[0][0].rstrip("*"), wanted[0][1], kinds)


def num_gpus(resources: str) -> int:
    """Return the GPUs in a text such as `gpu:2`, `gpu:a100:4(S:0-1),lustre:1` or `(null)`."""
    return sum(int(count) for count in re.findall(r"(?:^|,)gpu(?::[^:,()]+)?:(\d+)", resources))


def seconds(time: str) -> float:
    """Return the seconds of `minutes`, `minutes:seconds`, `hours:minutes:seconds` or `days-hours[:minutes[:seconds]]`.

    Raises UserError for other texts.
    """
    if time.lower() in ("infinite", "unlimited"):
        return float("inf")
    days, dash, rest = time.rpartition("-")
    parts = rest.split(":")
    if not all(whole_number(part) is not None for part in (*parts, *([days] if dash else []))) or len(parts) > 3:
        raise UserError(f"--time {time}: allowed: minutes, hours:minutes:seconds or days-hours:minutes:seconds")
    # after days the first number is hours; else minutes, unless there are three
    first = 2 if dash or len(parts) == 3 else 1
    return (int(days) * _UNITS[3] if dash else 0) + sum(
        int(part) * _UNITS[first - position] for position, part in enumerate(parts)
    )


def megabytes(size: str) -> int:
    """Return the MiB of `900`, `900M`, `4G`, `2T` or `1048576K`, as Slurm reads them. Raises UserError for others."""
    match = re.fullmatch(r"(\d+)([KMGT]?)", size.strip().upper(), re.ASCII)
    # rounded up, and of bounded length: a power of ten thousand digits takes long
    found = -(-int(match[1]) * 1024 ** "KMGT".index(match[2] or "M") // 1024) if match and len(size) < 20 else 0
    if not found:
        raise UserError(f"--mem {size}: allowed: a whole number of MB, or one with K, M, G or T, e.g. 900M or 4G")
    return found


def check(asked: Request, found: Partition) -> None:
    """Raise UserError, with the remedy, when a partition can never run what is asked."""
    if seconds(asked.time) > seconds(found.limit):
        raise UserError(
            f"--time {asked.time}: partition {found.name} ends jobs after {found.limit}; ask for at most that, the job "
            "then continues by itself until it is done"
        )
    with_gpus = asked.ranks_per_gpu is not None
    gpus = asked.gpus_per_node or 1 if with_gpus else 0
    most = max(kind.gpus for kind in found.kinds)
    if gpus > most:
        remedy = f"at most --gpus-per-node {most}, or another --partition" if most else "add --cpu, or --partition"
        raise UserError(f"{gpus} GPU(s) a node: nodes of partition {found.name} have {most or 'none'}; {remedy}")
    kinds = [kind for kind in found.kinds if kind.gpus >= gpus]
    per_node = asked.ranks_per_node or 1
    cpus = per_node * asked.cpus_per_rank
    most_cpus = max(kind.cpus for kind in kinds)
    if cpus > most_cpus:
        raise UserError(
            f"{per_node} rank(s) a node with {asked.cpus_per_rank} CPU(s) each: nodes of partition {found.name} have "
            f"{most_cpus} CPUs; fewer --cpus-per-rank, or more --nodes"
        )
    kinds = [kind for kind in kinds if kind.cpus >= cpus]
    kinds = _with_memory(asked, found, kinds, per_node)
    _check_total(asked, found, kinds)


def _with_memory(asked: Request, found: Partition, kinds: Sequence[NodeKind], per_node: int) -> list[NodeKind]:
    """Return the nodes with memory for their ranks."""
    needed = per_node * (asked.mem_mb or 0)
    most = max(kind.memory_mb for kind in kinds)
    # 1 is what Slurm says where nobody has told it the memory of a node
    if 1 < most < needed:
        raise UserError(
            f"{per_node} rank(s) a node with {asked.mem_mb} MB each: nodes of partition {found.name} have {most} MB; "
            "fewer ranks a node (--nodes), more --ranks to share the clients, or less with --mem, which is of one rank"
        )
    return [kind for kind in kinds if kind.memory_mb <= 1 or kind.memory_mb >= needed]


def _check_total(asked: Request, found: Partition, kinds: Sequence[NodeKind]) -> None:
    nodes = sum(kind.count for kind in kinds)
    if asked.nodes is not None:
        if asked.nodes > nodes:
            raise UserError(
                f"{asked.nodes} nodes: partition {found.name} has {nodes} that fit; at most --nodes {nodes}"
            )
        return
    # of an empty partition: whether nodes are free now is for Slurm to know, and jobs wait
    room = sum(kind.count * _room(asked, kind) for kind in kinds)
    if asked.ranks > room:
        is_for_memory = room < sum(kind.count * _room(replace(asked, mem_mb=None), kind) for kind in kinds)
        memory = f", {asked.mem_mb} MB" if is_for_memory else ""
        raise UserError(
            f"--ranks {asked.ranks}: partition {found.name} has room for {room}, each with {asked.cpus_per_rank} CPU(s)"
            f"{memory}{' and a GPU' if asked.ranks_per_gpu else ''}; at most {room}"
        )


def _room(asked: Request, kind: NodeKind) -> int:
    """Return how many ranks fit on a node."""
    of_memory = kind.memory_mb // asked.mem_mb if asked.mem_mb and kind.memory_mb > 1 else kind.cpus
    return min(kind.cpus // asked.cpus_per_rank, kind.gpus if asked.ranks_per_gpu else kind.cpus, of_memory)


def _leading_int(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0
