"""Rule `systems_study`: results of one study in, its claims and figures out."""

import sys
from pathlib import Path

from ppfl.analysis.systems.runs import draw
from ppfl.core.collector import not_at_the_end

sys.stderr = Path(snakemake.log[0]).open("w", encoding="utf-8")
not_at_the_end()
drawn = draw(snakemake.wildcards.study, Path(snakemake.params.folder), Path("results", "systems"))
drawn.save(Path(snakemake.output[0]))
