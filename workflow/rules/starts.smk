# Runs that others start from: made by the rule of all runs, listed among the experiments or not.
from shlex import join


def runs_with_starts(experiments):
    """Return {(experiment, digest): (arguments of `ppfl run`, configuration)} of all runs, those started from included."""
    runs = {
        (name, digest): ([path, "--cell", digest], cell.config)
        for name, (path, cells) in experiments.items()
        for digest, cell in cells.items()
    }
    files, following = {}, [config for _, config in runs.values()]
    while following:
        start = following.pop().start
        # one that names a result, or a folder of results, has it from elsewhere
        if start is None or start.run is None or start.run.source is None or start.results is not None:
            continue
        of_file = str(start.run.source), start.run.overrides
        files[of_file] = files.get(of_file) or load_cells(*of_file)
        config = files[of_file][start.run.digest].config
        if (config.name, start.run.digest) not in runs:
            sets = [part for override in start.run.overrides for part in ("--set", override)]
            runs[config.name, start.run.digest] = [of_file[0], *sets, "--cell", start.run.digest], config
            following.append(config)
    return runs


RUNS = runs_with_starts(EXPERIMENTS)


def start_of(experiment, digest):
    """Return what must be there before a run: the result that it starts from, or what the pack leaves that makes it."""
    start = RUNS[experiment, digest][1].start
    if start is None or start.run is None:
        return []
    name, run = start.run.result.parent.name, start.run.digest
    if start.run.source is None or start.results is not None or (name, run) not in RUNS:
        return [ancient(str(start.run.result))]
    if name in PACKS["experiments"] and run in EXPERIMENTS[name][1]:
        return [ancient(done_of_packs(name)[list(EXPERIMENTS[name][1]).index(run) % num_packs(name)])]
    # however old: its digest is in that of the run
    return [ancient(f"results/{name}/{run}.h5")]


wildcard_constraints:
    experiment="|".join(dict.fromkeys(name for name, _ in RUNS)),
