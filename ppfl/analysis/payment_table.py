"""`ppfl payments`: what each client of each run pays, how it fares, and what lying gains."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import TypeAlias

from ppfl.analysis.factors import find_factors, is_seed, of_one_key
from ppfl.analysis.payments import Played, gains, honest_of, payments_of, played, utilities_of
from ppfl.analysis.sources import different_programs
from ppfl.analysis.tables import number
from ppfl.core.errors import UserError
from ppfl.jobs.outcome import outline
from ppfl.results.layout import FILE_KIND
from ppfl.results.quick_reader import kind_of

_Row: TypeAlias = tuple[tuple[str, ...], tuple[float, ...]]
_NUMBERS = ("price", "payments", "loss", "utility", "gain")


@dataclass(frozen=True)
class PaymentTable:
    """A row a run, price and client."""

    keys: tuple[str, ...]
    """What varies between the runs, apart from who lies how much."""
    rows: tuple[_Row, ...]
    """Texts (digest, what varies, scale, noise, client, role) and numbers: price, Σ_k p_i, f_i, U_i and U_i minus that
    of the run in which all tell the truth, NaN where there is none."""
    notes: tuple[str, ...]
    """What a user must know: runs that are left out, and lies without a counterpart."""

    @property
    def header(self) -> tuple[str, ...]:
        """Names of the columns."""
        return ("digest", *self.keys, "scale", "noise", "client", "role", *_NUMBERS)


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Return result files, those of folders in their places. Raises UserError for what is none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            of_folder = [file for file in sorted(path.glob("*.h5")) if kind_of(file) == FILE_KIND]
            if not of_folder:
                raise UserError(f"{path}: has no results (.h5) in it; give the folder that ppfl wrote to")
            found += of_folder
        elif not path.exists():
            raise UserError(f"{path}: no such file or folder; give .h5 files that runs wrote, or folders of them")
        elif kind_of(path) == FILE_KIND:
            found.append(path)
        else:
            raise UserError(f"{path}: is no result of ppfl; give .h5 files that runs wrote, or folders of them")
    return list(dict.fromkeys(found))


def tabulate(
    files: Sequence[Path], prices: Sequence[float], loss: str | None = None, *, deviators: bool = False
) -> PaymentTable:
    """Return the table of some results at some prices; runs that are not complete are told and left out.

    deviators: rows of strategic clients alone. Raises UserError where no complete run is left, and as `played` does.
    """
    games, notes = _games(files, loss)
    honest = honest_of(games)
    alone = sum(game.digest not in honest for game in games)
    if alone:
        notes.append(f"{alone} run(s) have no counterpart in which all tell the truth (scale 1), and so no gain")
    settings = [game.settings for game in games]
    factors = find_factors(settings, with_seeds=True)
    # the seed of the data is that of the run where nobody says otherwise
    factors = [of_one_key(one, settings) if all(map(is_seed, one.keys)) else one for one in factors]
    factors.sort(key=lambda factor: all(map(is_seed, factor.keys)))
    keys = tuple(factor.title for factor in factors)
    varying = {game.digest: tuple(factor.labels[row] for factor in factors) for row, game in enumerate(games)}
    rows: list[_Row] = []
    for game in sorted(games, key=lambda game: (varying[game.digest], game.scale, game.noise)):
        for price in prices:
            rows += _rows(game, honest.get(game.digest), varying[game.digest], price, deviators=deviators)
    return PaymentTable(keys, tuple(rows), tuple(notes))


def _games(files: Sequence[Path], loss: str | None) -> tuple[list[Played], list[str]]:
    """Return the complete runs, and what a user must know of all."""
    outlines = {file: outline(file) for file in files}
    complete = [file for file, found in outlines.items() if found.status == "complete"]
    notes = [f"left out: {file}: {found.reason}" for file, found in outlines.items() if found.reason]
    left_out = Counter(found.status for found in outlines.values() if found.status != "complete")
    notes += [f"left out, utilities are of complete runs: {count} {what}" for what, count in sorted(left_out.items())]
    if not complete:
        raise UserError(f"{files[0]}: no complete run to make payments in")
    by_digest: dict[str, Path] = {}
    for file in complete:
        other = by_digest.setdefault(str(outlines[file].attrs["digest"]), file)
        if other is not file:
            raise UserError(f"{file}: holds the same run as {other}; give one of them")
    return [played(file, loss) for file in complete], notes + different_programs(outlines[file] for file in complete)


def _rows(
    game: Played, honest: Played | None, varying: tuple[str, ...], price: float, *, deviators: bool
) -> list[_Row]:
    of_rounds = payments_of(game.squared_norms, price)
    totals, utilities = of_rounds.sum(axis=0), utilities_of(game.losses, of_rounds)
    gained = None if honest is None else gains(game, honest, price)
    rows: list[_Row] = []
    for client, name in enumerate(game.clients):
        if deviators and not game.strategic[client]:
            continue
        role = "strategic" if game.strategic[client] else "honest"
        texts = (game.digest, *varying, f"{game.scale:g}", f"{game.noise:g}", name, role)
        gain = nan if gained is None else float(gained[client])
        numbers = (price, float(totals[client]), float(game.losses[client]), float(utilities[client]), gain)
        rows.append((texts, numbers))
    return rows


def as_text(table: PaymentTable) -> str:
    """Return columns of four significant digits; – where there is none."""
    lines = [table.header, *((*texts, *map(number, numbers)) for texts, numbers in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "".join(line.rstrip() + "\n" for line in padded)


def as_csv(table: PaymentTable) -> str:
    """Return all digits; nothing where there is none."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.header)
    for texts, numbers in table.rows:
        writer.writerow([*texts, *("" if isnan(value) else repr(value) for value in numbers)])
    return file.getvalue()


FORMATS: dict[str, Callable[[PaymentTable], str]] = {"text": as_text, "csv": as_csv}
