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

from ppfl.analysis.factors import find_factors, is_seed
from ppfl.analysis.payments import Played, gains, honest_of, payments_of, played, utilities_of
from ppfl.analysis.tables import number
from ppfl.core.errors import UserError
from ppfl.results.layout import FILE_KIND
from ppfl.results.quick_reader import kind_of
from ppfl.results.reader import open_result

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
    results = [open_result(file) for file in files]
    status = {result.path: str(result.attrs["status"]) for result in results}
    games = [played(result, loss) for result in results if status[result.path] == "complete"]
    if not games:
        raise UserError(f"{files[0]}: no complete run to make payments in")
    left_out = Counter(value for value in status.values() if value != "complete")
    notes = [f"left out, utilities are of complete runs: {count} {what}" for what, count in sorted(left_out.items())]
    honest = honest_of(games)
    alone = sum(game.digest not in honest for game in games)
    if alone:
        notes.append(f"{alone} run(s) have no counterpart in which all tell the truth (scale 1), and so no gain")
    factors = find_factors([game.settings for game in games], with_seeds=True)
    factors.sort(key=lambda factor: all(map(is_seed, factor.keys)))
    keys = tuple(factor.keys[0] if all(map(is_seed, factor.keys)) else factor.title for factor in factors)
    varying = {game.digest: tuple(factor.labels[row] for factor in factors) for row, game in enumerate(games)}
    rows: list[_Row] = []
    for game in sorted(games, key=lambda game: (varying[game.digest], game.scale, game.noise)):
        for price in prices:
            rows += _rows(game, honest.get(game.digest), varying[game.digest], price, deviators=deviators)
    return PaymentTable(keys, tuple(rows), tuple(notes))


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
