# What the rules of the systems around the paper share.

from ppfl.analysis.systems.runs import configs_of, studies_of

SYSTEMS_FOLDER = Path(experiment_file(config["systems"]["folder"]))


def systems_configs(study):
    """Return the configurations of a study, as texts."""
    return [str(path) for path in configs_of(study, SYSTEMS_FOLDER)]


wildcard_constraints:
    study="[a-z]+",
