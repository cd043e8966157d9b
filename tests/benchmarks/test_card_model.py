"""The predicted rounds on many cards: what docs/scaling.md says of them is what the model gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.card_model import LINK, SLICE_BYTES, predict

ROOT = Path(__file__).parents[2]


def test_the_table_of_the_documentation_is_that_of_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.card_model"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 10
    assert done.stdout in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_what_terms_grow_with() -> None:
    one, eight, many = predict(800, 100, 1), predict(800, 100, 8), predict(1600, 100, 8)
    assert one.link == one.network == 0  # sums of one rank are rounded on its card
    assert eight.computing == one.computing / 8
    assert many.computing == 2 * eight.computing
    assert many.link == eight.link == 2 * SLICE_BYTES * 576_896 / LINK
    assert many.network == eight.network > 0
    assert eight.launches < one.launches
    # a chunk for each card, whatever would fit
    assert predict(8, 1, 8).launches == predict(1, 1, 1).launches
    assert eight.seconds == max(eight.launches, eight.computing) + eight.link + eight.network
