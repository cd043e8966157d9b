"""Rule `figure`: result files in, one figure out."""

import sys
from pathlib import Path

from ppfl.analysis.plot import plot_or_explain
from ppfl.config.deferred import defer_torch
from ppfl.core.collector import not_at_the_end

sys.stderr = Path(snakemake.log[0]).open("w", encoding="utf-8")
not_at_the_end()
defer_torch()
plot_or_explain([Path(path) for path in snakemake.params.results], [Path(path) for path in snakemake.output])
