"""Rule `paper_report`: figures and words in, one page out."""

import sys
from pathlib import Path

from ppfl.analysis.paper.report import Part, write_report
from ppfl.core.collector import not_at_the_end

sys.stderr = Path(snakemake.log[0]).open("w", encoding="utf-8")
not_at_the_end()
sources = zip(snakemake.input.figures, snakemake.input.words, snakemake.params.configs, strict=True)
write_report([Part(*map(Path, source)) for source in sources], Path(snakemake.output[0]))
