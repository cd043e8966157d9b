"""Rule `paper_exhibit`: results of one experiment in, its figure and the words to it out."""

import importlib
import sys
from pathlib import Path

from ppfl.analysis.paper.runs import load_runs
from ppfl.core.collector import not_at_the_end

sys.stderr = Path(snakemake.log[0]).open("w", encoding="utf-8")
not_at_the_end()
part = snakemake.wildcards.part
runs = load_runs(Path(snakemake.params.config), Path("results", "paper", part))
importlib.import_module(f"ppfl.analysis.paper.{part}").draw(runs).save(Path(snakemake.output.svg).with_suffix(""))
