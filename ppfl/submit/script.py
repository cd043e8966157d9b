"""The text of a job: a script of slurm/ with what was asked for in its head."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SHIPPED = Path(__file__).parent / "scripts"
_DIRECTIVE = re.compile(r"#SBATCH --([a-z-]+)")
_STRICT = "set -euo pipefail"


def scripts_folder() -> Path:
    """Return slurm/ of the folder that we are in, else the one that ppfl came with."""
    here = Path("slurm")
    found = here if (here / "env.sh").is_file() else _SHIPPED
    if not (found / "run.sbatch").is_file():
        raise UserError(
            f"no run.sbatch in {found.absolute()}: start in the folder of the project, or install ppfl again"
        )
    return found.resolve()


def script(folder: Path, name: str, directives: Mapping[str, str | None], arguments: Sequence[str]) -> str:
    """Return slurm/<name> with `#SBATCH --option=value` lines replaced, and its arguments written into it."""
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    start = lines.index(_STRICT)
    # only before the first command: sbatch reads no line behind it
    head = [line for line in lines[:start] if not (match := _DIRECTIVE.match(line)) or match[1] not in directives]
    head += [f"#SBATCH --{option}={value}" for option, value in directives.items() if value is not None]
    # quoted, since folders and values of --set may have spaces, and Slurm runs the text elsewhere, without our shell
    fixed = [f"PPFL_SLURM={shlex.quote(str(folder))}", f"set -- {shlex.join(arguments)}"]
    return "\n".join([*head, _STRICT, *fixed, *lines[start + 1 :], ""])
