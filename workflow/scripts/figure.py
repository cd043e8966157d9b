"""Rule `figure`: result files in, one figure out."""

import sys
from pathlib import Path

from ppfl.analysis.plot import plot_or_explain
from ppfl.config.deferred import defer_torch

sys.stderr = Path(snakemake.log[0]).open("w", encoding="utf-8")
defer_torch()
plot_or_explain([Path(path) for path in snakemake.params.results], [Path(path) for path in snakemake.output])
