"""The tables of docs/systems.md, from the results of `make systems`:  python -m ppfl.analysis.systems.numbers

Everything between two markers of the page is written here, and beside the page what it was written from
(`<page>.json`), so that a test can tell whether the page is that of the configurations as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ppfl.analysis.systems.runs import configs_of, studies_of
from ppfl.config.grid import load_cells
from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BLOCK = re.compile(r"(<!-- numbers: ([a-z]+) -->\n).*?(<!-- end of numbers -->)", re.DOTALL)
_COLUMNS = ("claim", "source", "wanted", "found", "distance", "holds")


def gather(configs: Path, figures: Path) -> dict[str, Any]:
    """Return what the page is written from: {"experiments": fingerprints, "claims": {study: its claims}}.

    Raises UserError where the words of a study are missing.
    """
    claims = {}
    for study in studies_of(configs):
        words = figures / f"{study}.json"
        if not words.is_file():
            raise UserError(f"{words}: no such file; `make systems` writes it")
        claims[study] = json.loads(words.read_text(encoding="utf-8"))["claims"]
    return {"experiments": fingerprints(configs), "claims": claims}


def fingerprints(configs: Path) -> dict[str, str]:
    """Return {configuration file: fingerprint} of all studies."""
    return {path.stem: fingerprint(path) for study in studies_of(configs) for path in configs_of(study, configs)}


def fingerprint(config: Path) -> str:
    """Return a hash of the digests of all runs of a configuration; data and the version of results are in them."""
    return hashlib.sha256(" ".join(sorted(load_cells(config))).encode()).hexdigest()[:16]


def fill(page: str, stored: Mapping[str, Any]) -> str:
    """Return the page with every block between markers written anew.

    Raises UserError unless each study has exactly one place.
    """
    places, studies = [name for _, name, _ in _BLOCK.findall(page)], list(stored["claims"])
    if sorted(places) != sorted(studies):
        there = ", ".join(places) or "none"
        raise UserError(f"the page needs one pair of markers for each of {', '.join(studies)}; there are {there}")

    def written(block: re.Match[str]) -> str:
        return block[1] + "\n".join(["", *_table(stored["claims"][block[2]]), "", block[3]])

    return _BLOCK.sub(written, page)


def _table(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [[claim["text"], *(claim[key] for key in _COLUMNS[1:-1]), "yes" if claim["holds"] else "**no**"]
            for claim in claims]  # fmt: skip
    lines = ["| " + " | ".join(str(cell).replace("|", r"\|") for cell in row) + " |" for row in [_COLUMNS, *rows]]
    return [lines[0], "|" + "---|" * len(_COLUMNS), *lines[1:]]


@click.command(help=__doc__)
@click.option(
    "--configs", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path("configs/systems"),
    show_default=True,
)  # fmt: skip
@click.option("--figures", type=click.Path(path_type=Path), default=Path("results/systems/figures"), show_default=True)
@click.option(
    "--page", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=Path("docs/systems.md"),
    show_default=True,
)  # fmt: skip
def main(configs: Path, figures: Path, page: Path) -> None:
    """Write the tables of the page."""
    try:
        stored = gather(configs, figures)
        text = fill(page.read_text(encoding="utf-8"), stored)
    except UserError as error:
        raise click.ClickException(str(error)) from error
    page.write_text(text, encoding="utf-8")
    page.with_suffix(".json").write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
