# What the rules of the paper's figures share.

PAPER_EXHIBITS = ["steps", "comparison", "asynchronous", "byzantine", "abstract"]
PAPER_FOLDER = Path(experiment_file(config["paper"]["folder"]))
PAPER_TUNING = sorted(path.stem for path in PAPER_FOLDER.glob("tuning-*.yaml"))


def paper_config(part):
    """Return the configuration of one experiment; that of the comparison follows from the tuning."""
    return "results/paper/comparison.yaml" if part == "comparison" else str(PAPER_FOLDER / f"{part}.yaml")
