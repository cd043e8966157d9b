"""Arguments that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

config_argument = click.argument("config", type=click.Path(path_type=Path))
overrides_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY.PATH=VALUE",
    help="Replace one value of the configuration, e.g. --set algorithm.lr=0.1; VALUE is YAML. Repeatable.",
)
results_option = click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where the results of a configuration file are. Default: results/<name>",
)
where_option = click.option(
    "--where",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only runs with this value, e.g. --where zeta=10; KEY may be the end of a key. Repeatable.",
)
