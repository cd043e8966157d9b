"""Rule `systems_diagnosis`: results of one configuration in, what `ppfl diagnose` says of them out, beside each."""

import sys
from pathlib import Path

from ppfl.analysis.systems.merchants import diagnosis_path, is_diagnosed
from ppfl.config.grid import load_cells
from ppfl.diagnose.command import plan, run
from ppfl.runs.progress import Silent

sys.stderr = Path(snakemake.log[0]).open("w", encoding="utf-8")
folder = Path(snakemake.output[0]).with_suffix("")
for digest, cell in load_cells(Path(snakemake.params.config)).items():
    if is_diagnosed(cell.config):
        result = folder / f"{digest}.h5"
        run(plan(result, (), None), diagnosis_path(result), Silent())
