"""The layout of a result file, said once for the writer and the reader.

/            attributes: digest, name, status, complete, config (YAML), results_version
provenance/  attributes: versions, commit, device, ranks, hosts, Slurm ids, times
problem/     attributes: what the problem knows of itself (L, mu, …)
rounds/      dimension round: scores and costs; (round, client) where there is one number a client
clients/     dimension client: samples, <stage>_<metric>
arrivals/    dimension arrival: client, version, delay, seconds, turnaround_seconds; asynchronous runs alone
summary/     dimensions stage, statistic: one variable a metric
"""

from __future__ import annotations

FILE_KIND = "ppfl result"
RUNNING = "running"
FINISHED = ("complete", "diverged")
