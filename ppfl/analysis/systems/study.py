"""What a study of a system comes to: claims, each with what was found, and pictures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ppfl.analysis.figure import save_figure
from ppfl.core.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Claim:
    """One thing that is claimed of a system, and what was found."""

    text: str
    """What is claimed, in a sentence."""
    source: str
    """Who claims it: a paper, published code, or "derived" for what follows from the definition alone."""
    wanted: str
    """The claim in numbers."""
    found: str
    """What the runs say, in the same numbers."""
    distance: str
    """How far `found` is from `wanted`, in numbers."""
    holds: bool


@dataclass(frozen=True)
class Picture:
    """One figure of a study."""

    stem: str
    """What its files are called, without a suffix."""
    figure: Figure
    caption: str
    """What is seen in it, and how to read it."""


@dataclass(frozen=True)
class Study:
    """What the report says of one system."""

    title: str
    about: str
    """The system and the runs in some sentences."""
    reconstructed: str
    """What is not the source's own but was reconstructed, and why."""
    claims: tuple[Claim, ...]
    figures: tuple[Picture, ...]
    reading: str
    """What follows from the numbers, and what does not."""

    def words(self) -> dict[str, object]:
        """Return all but the pictures themselves, as JSON types."""
        text = {key: getattr(self, key) for key in ("title", "about", "reconstructed", "reading")}
        figures = [{"stem": picture.stem, "caption": picture.caption} for picture in self.figures]
        return {**text, "claims": [asdict(claim) for claim in self.claims], "figures": figures}

    def save(self, words: Path) -> None:
        """Write the words, as JSON, and beside them the figures as `<stem>.svg` and `.png`."""
        for picture in self.figures:
            stem = words.with_name(picture.stem)
            save_figure(picture.figure, [stem.with_suffix(".svg"), stem.with_suffix(".png")])
        write_whole(words, json.dumps(self.words(), indent=1, ensure_ascii=False).encode())
