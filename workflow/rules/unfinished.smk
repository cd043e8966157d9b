# To Snakemake a file that is there is done. What a run by hand has left unfinished goes where runs of jobs are computed,
# and the job goes on from it; a run by hand that is still at work writes its file anew, and the job waits for its end.
from pathlib import Path

from ppfl.results.layout import apart_path
from ppfl.jobs.states import states_of

for out, state in states_of(Path(f"results/{experiment}/{digest}.h5") for experiment, digest in RUNS).items():
    if state.kind != "done" and out.exists():
        apart_path(out).parent.mkdir(exist_ok=True)
        out.replace(apart_path(out))
