import os
import sys
from shlex import quote

from snakemake.utils import validate

from ppfl.config.deferred import defer_torch

defer_torch()  # reading configurations needs no torch
from ppfl.config.grid import load_cells

validate(config, "../schemas/workflow.schema.yaml")

# ppfl and its MPI from the environment that runs Snakemake, also where that environment was not activated
shell.prefix(f"set -euo pipefail; export PATH={quote(os.path.dirname(sys.executable))}:$PATH OMP_NUM_THREADS=1; ")
sys.executable = quote(sys.executable)  # Snakemake puts it into the command lines of scripts as it is


def experiment_file(path):
    """Paths count from the folder of the Snakefile."""
    return os.path.join(workflow.basedir, path)


def load_experiments(paths):
    """Return {experiment name: (its file, its runs by digest)}; the name is what results are filed under."""
    experiments = {}
    for path in map(experiment_file, paths):
        cells = load_cells(path)
        name = next(iter(cells.values())).config.name
        if name in experiments:
            raise ValueError(f"{path} and {experiments[name][0]} are both named {name!r}")
        experiments[name] = (path, cells)
    return experiments


EXPERIMENTS = load_experiments(config["experiments"])


def results_of(experiment):
    """Return the result file of every run of an experiment."""
    return [f"results/{experiment}/{digest}.h5" for digest in EXPERIMENTS[experiment][1]]


PACKS = config["packs"]

if unknown := set(PACKS["experiments"]) - set(EXPERIMENTS):
    raise ValueError(f"packs.experiments: {sorted(unknown)} are not among {list(EXPERIMENTS)}")


def inputs_of(experiment):
    """Return what must be there before the results of an experiment are read: these, or what its packs leave."""
    return done_of_packs(experiment) if experiment in PACKS["experiments"] else results_of(experiment)


wildcard_constraints:
    digest="[0-9a-f]+",
