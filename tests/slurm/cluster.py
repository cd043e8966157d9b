"""A real Slurm for the tests: munged, slurmctld and four nodes on this machine, private to a temporary folder.

Nothing of a Slurm that the machine may have is read or touched. Several clusters can stand side by side.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NODES = ("n0", "n1", "n2", "n3")
GPUS_PER_NODE = 2
CPUS_PER_NODE = 4
INSTALL = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins"
_DAEMONS = ("munged", "slurmctld", "slurmd")
_CLIENTS = ("sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # where daemons are is often not on PATH
_START_SECONDS = 30.0
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")

_CONFIGURATION = """
ClusterName=ppfl
# MPICH names its shared memory by the id of the job, and killed ranks leave theirs behind
FirstJobId={first_job}
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a requeued job starts again when its credential has expired: 6 s later instead of 120 s
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={port}
SlurmdPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
# a step that takes more than it was granted is killed as a whole
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PriorityType=priority/basic
ReturnToService=2
KillWait=10
# whoever waits for several jobs asks about the first ones minutes after their end
MinJobAge=3600
SlurmdTimeout=60
InactiveLimit=0
Waittime=0
GresTypes=gpu
# more cores than this machine may have
SlurmdParameters=config_overrides
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port={node_ports} CPUs={cpus} RealMemory=16000 \
Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={nodes} Default=YES MaxTime=1-00:00:00 DefMemPerCPU=1000 PriorityTier=10 PreemptMode=OFF
PartitionName=spare Nodes={nodes} MaxTime=1-00:00:00 DefMemPerCPU=1000 PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=short Nodes=n0 MaxTime=00:10:00 DefMemPerCPU=1000 PriorityTier=10 PreemptMode=OFF
"""


def what_is_missing() -> str:
    """Return why no cluster can be started here, with the remedy; empty when it can."""
    missing = [name for name in (*_DAEMONS, *_CLIENTS) if shutil.which(name, path=_SYSTEM_PATH) is None]
    if missing:
        return f"no {', '.join(missing)} on this machine; on Debian or Ubuntu, as root: {INSTALL}"
    if os.geteuid() != 0:
        return "Slurm's daemons start jobs as root alone: run these tests as root, e.g. in a container"
    return ""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    """Return the condition's value when it is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:.0f} s still waiting for {what}")
        time.sleep(0.2)
    return value


@dataclass
class Cluster:
    """A running cluster; `environment` is what its users need."""

    folder: Path
    supervisor: subprocess.Popen[str]
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str | Path, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a user of the cluster would."""
        return subprocess.run(
            [str(part) for part in command], cwd=cwd or self.folder, env=self.environment | variables,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def ask(self, *command: str | Path, cwd: Path | None = None, **variables: str) -> str:
        """Return what a command prints; it must succeed."""
        done = self.run(*command, cwd=cwd, **variables)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """Return a job's state, e.g. RUNNING."""
        return self.fact(job, "JobState")

    def fact(self, job: str, name: str) -> str:
        """Return a field of `scontrol show job`."""
        words = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def wait_for_state(self, job: str, state: str, seconds: float = 120.0) -> None:
        """Return when a job is in a state; fail at once when it has ended in another."""

        def reached() -> bool:
            now = self.state(job)
            assert now == state or now not in _ENDED, f"job {job} is {now}, not {state}\n{self.output_of(job)}"
            return now == state

        try:
            wait_for(reached, f"job {job} to be {state}", seconds)
        except AssertionError as error:
            error.add_note(f"{self.ask('scontrol', 'show', 'job', job)}\n{self.output_of(job)}")
            raise

    def output_of(self, job: str) -> str:
        """Return what a batch job has printed."""
        path = Path(self.fact(job, "StdOut"))
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def command(self, verb: str, node: str) -> None:
        """`start` a node's daemon, or `kill` it with all that runs on the node."""
        assert self.supervisor.stdin is not None
        assert self.supervisor.stdout is not None
        self.supervisor.stdin.write(f"{verb} {node}\n")
        self.supervisor.stdin.flush()
        assert self.supervisor.stdout.readline() == "done\n"

    def is_up(self) -> bool:
        """Return whether all nodes wait for work."""
        done = self.run("timeout", "3", "sinfo", "--noheader", "--Node", "--partition=main", "--format=%t")
        return done.stdout.split() == ["idle"] * len(NODES)


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Start a cluster, and stop it with all its jobs whatever happens, also when this process is killed."""
    assert not what_is_missing(), what_is_missing()
    # not below pytest's folders: the path of a socket has at most 107 bytes
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        _write_files(folder)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH"))}
        environment |= {"SLURM_CONF": str(folder / "slurm.conf")}
        environment["PATH"] = f"{folder / 'bin'}:{Path(sys.executable).parent}:{_SYSTEM_PATH}"
        command = [sys.executable, str(Path(__file__).with_name("supervisor.py")), str(folder)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        ) as supervisor:
            cluster = Cluster(folder, supervisor, environment)
            wait_for(cluster.is_up, f"the cluster in {folder}: {_last_words(folder)}", _START_SECONDS)
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_files(folder: Path) -> None:
    folder.chmod(0o755)
    for name in ("munge", "state", "log", "dev", "bin", *(f"spool.{node}" for node in NODES)):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    # GPUs for Slurm to count; they are /dev/null to whoever opens them
    for number in range(GPUS_PER_NODE):
        os.mknod(folder / "dev" / f"nvidia{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    devices = f"File={folder}/dev/nvidia[0-{GPUS_PER_NODE - 1}]"
    (folder / "gres.conf").write_text(f"NodeName={','.join(NODES)} Name=gpu {devices}\n")
    port, *node_ports = _free_ports(1 + len(NODES))
    facts = {
        "folder": folder,
        "host": socket.gethostname().partition(".")[0],
        "port": port,
        "first_job": secrets.randbelow(10**6) + 1,
        "nodes": ",".join(NODES),
        "node_ports": ",".join(map(str, node_ports)),
        "cpus": CPUS_PER_NODE,
        "gpus": GPUS_PER_NODE,
    }
    configuration = folder / "slurm.conf"
    configuration.write_text(_CONFIGURATION.format(**facts))
    for name in _CLIENTS:
        # Snakemake takes SLURM_CONF out of the environment of its jobs
        program = shutil.which(name, path=_SYSTEM_PATH)
        wrapper = folder / "bin" / name
        wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {program} "$@"\n')
        wrapper.chmod(0o755)
    munge = [f"--{what}={folder}/munge/{what.partition('-')[0]}" for what in ("key-file", "socket", "pid-file")]
    munge += [f"--log-file={folder}/log/munged.log", f"--seed-file={folder}/munge/seed", "--num-threads=2"]
    daemons = {
        "munged": ["munged", "--foreground", "--force", *munge],
        "slurmctld": ["slurmctld", "-D", "-i", "-c", "-f", str(configuration)],
        **{node: ["slurmd", "-D", "-f", str(configuration), "-N", node] for node in NODES},
    }
    (folder / "daemons.json").write_text(json.dumps(daemons))


def _free_ports(count: int) -> list[int]:
    # below those that the system hands out by itself: until a daemon listens, somebody's connection could get one
    sockets: list[socket.socket] = []
    while len(sockets) < count:
        with suppress(OSError):
            sockets.append(socket.create_server(("127.0.0.1", 10_000 + secrets.randbelow(20_000))))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _last_words(folder: Path) -> str:
    logs = sorted((folder / "log").iterdir())
    return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-500:]}" for log in logs)
