"""Rule `paper_tune`: results of the tuning in, the experiment with chosen steps out."""

import sys
from pathlib import Path

from ppfl.analysis.paper.tuning import write_comparison
from ppfl.core.collector import not_at_the_end

sys.stderr = Path(snakemake.log[0]).open("w", encoding="utf-8")
not_at_the_end()
tuning = [(Path(config), Path(folder)) for config, folder in snakemake.params.tuning.items()]
write_comparison(tuning, snakemake.params.seeds, Path(snakemake.output[0]))
