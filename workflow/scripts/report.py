"""Rule `report`: result files and figures in, one page out."""

import sys
from pathlib import Path

from ppfl.analysis.report import Section, write_report
from ppfl.core.collector import not_at_the_end

sys.stderr = Path(snakemake.log[0]).open("w", encoding="utf-8")
not_at_the_end()
experiments = snakemake.params.experiments
sections = [
    Section(name, [Path(result) for result in results], Path(figure))
    for (name, results), figure in zip(experiments.items(), snakemake.input.figures, strict=True)
]
write_report(sections, Path(snakemake.output[0]))
