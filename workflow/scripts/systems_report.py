"""Rule `systems_report`: claims and figures in, one page out."""

import sys
from pathlib import Path

from ppfl.analysis.systems.report import write_report
from ppfl.core.collector import not_at_the_end

sys.stderr = Path(snakemake.log[0]).open("w", encoding="utf-8")
not_at_the_end()
configs = [[Path(path) for path in paths] for paths in snakemake.params.configs]
write_report([Path(path) for path in snakemake.input], configs, Path(snakemake.output[0]))
