# What the rules of the systems around the paper share.

from ppfl.analysis.systems.runs import DIAGNOSED, configs_of, studies_of

SYSTEMS_FOLDER = Path(experiment_file(config["systems"]["folder"]))


def systems_configs(study):
    """Return the configurations of a study, as texts."""
    return [str(path) for path in configs_of(study, SYSTEMS_FOLDER)]


def systems_inputs(study):
    """Return what says that the runs of a study are there, and that they were diagnosed where it asks for that."""
    marks = ["packed", "diagnosed"] if study in DIAGNOSED else ["packed"]
    return [f"results/systems/{path.stem}.{mark}" for path in configs_of(study, SYSTEMS_FOLDER) for mark in marks]


wildcard_constraints:
    study="[a-z]+",
