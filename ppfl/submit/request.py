"""What is asked of Slurm for one job."""

from __future__ import annotations

from dataclasses import dataclass

from ppfl.core.errors import UserError


@dataclass(frozen=True)
class Request:
    """Ranks and what each of them gets; None leaves a choice to Slurm or to slurm/env.sh."""

    ranks: int
    nodes: int | None = None
    gpus_per_node: int | None = None
    """None on the CPU, and where Slurm may spread the ranks as it likes."""
    ranks_per_gpu: int | None = 1
    """None: no GPU."""
    cpus_per_rank: int = 1
    time: str = "01:00:00"
    """As Slurm writes it."""
    partition: str | None = None
    account: str | None = None
    mem_mb: int | None = None
    """Of one rank, in MiB; None: what Slurm gives by itself."""
    array: int | None = None
    """Number of jobs that share the runs of a grid."""

    @property
    def ranks_per_node(self) -> int | None:
        """Return the most ranks that a node gets, where that is settled."""
        if self.gpus_per_node is not None and self.ranks_per_gpu is not None:
            return min(self.ranks, self.gpus_per_node * self.ranks_per_gpu)
        return -(-self.ranks // self.nodes) if self.nodes is not None else None

    def directives(self) -> dict[str, str | None]:
        """Return {option of sbatch: value}; None takes out what the script has."""
        shared = self.ranks_per_gpu is not None and self.ranks_per_gpu > 1
        return {
            "ntasks": str(self.ranks),
            "nodes": _text(self.nodes),
            "ntasks-per-node": _text(self.ranks_per_node),
            "cpus-per-task": str(self.cpus_per_rank),
            # ranks that share GPUs see all of their node, and take them in turn
            "gpus-per-task": None if shared or self.ranks_per_gpu is None else "1",
            "gpus-per-node": str(self.gpus_per_node) if shared else None,
            "mem-per-cpu": None if self.mem_mb is None else f"{-(-self.mem_mb // self.cpus_per_rank)}M",
            "partition": self.partition,
            "account": self.account,
            "array": None if self.array is None else f"0-{self.array - 1}",
            **({} if self.array is None else {"output": "ppfl-%A_%a.log"}),
            "time": self.time,
        }


def request(
    *,
    ranks: int | None,
    nodes: int | None,
    gpus_per_node: int | None,
    ranks_per_gpu: int | None,
    cpu: bool,
    **others: int | str | None,
) -> Request:
    """Fill in what follows from what is said: one rank a GPU, and as many ranks as there are GPUs.

    Raises UserError for what contradicts itself.
    """
    if cpu and (gpus_per_node is not None or ranks_per_gpu is not None):
        raise UserError("--cpu: not with --gpus-per-node or --ranks-per-gpu; leave out one or the other")
    share = None if cpu else ranks_per_gpu or 1
    if share is not None and share > 1:
        gpus_per_node = gpus_per_node or 1
    per_node = (gpus_per_node or 1) * (share or 1)
    ranks = ranks or (nodes or 1) * per_node
    if nodes is None and gpus_per_node is not None:
        nodes = -(-ranks // per_node)
    if nodes is not None and nodes > ranks:
        raise UserError(f"--nodes {nodes}: only {ranks} rank(s) to spread over them; at most {ranks}, or more --ranks")
    if nodes is not None and gpus_per_node is not None and ranks > nodes * per_node:
        raise UserError(
            f"--ranks {ranks}: {nodes} node(s) of {gpus_per_node} GPU(s) take {nodes * per_node} with {share} rank(s) "
            f"a GPU; at most {nodes * per_node}, or more --nodes, --gpus-per-node or --ranks-per-gpu"
        )
    return Request(ranks, nodes, gpus_per_node, share, **others)  # type: ignore[arg-type]


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)
