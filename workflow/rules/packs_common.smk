# Which runs are in which pack, and what it starts from.


def num_packs(experiment):
    """Return how many packs the runs of an experiment are."""
    return -(-len(EXPERIMENTS[experiment][1]) // PACKS["runs"])


def done_of_packs(experiment):
    """Return what the packs of an experiment leave."""
    parts = num_packs(experiment)
    return [f"results/{experiment}/packs/{part}-of-{parts}.done" for part in range(1, parts + 1)]


def digests_of_pack(experiment, part, parts):
    """Return the runs of a pack."""
    return list(EXPERIMENTS[experiment][1])[part - 1 :: parts]


def starts_of_pack(experiment, part, parts):
    """Return what must be there before a pack."""
    starts = [start_of(experiment, digest) for digest in digests_of_pack(experiment, part, parts)]
    return list(dict.fromkeys(path for of_run in starts for path in of_run))
