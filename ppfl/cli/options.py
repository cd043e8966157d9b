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
