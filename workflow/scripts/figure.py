"""Rule `figure`: result files in, one figure out."""

import sys
from pathlib import Path

from ppfl.analysis.curves import load_curves
from ppfl.analysis.figure import draw_figure, save_figure

sys.stderr = Path(snakemake.log[0]).open("w", encoding="utf-8")
curves = load_curves([Path(path) for path in snakemake.input])
save_figure(draw_figure(curves), [Path(path) for path in snakemake.output])
