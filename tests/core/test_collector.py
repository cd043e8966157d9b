"""Garbage is looked for in what a run makes, and not in the libraries that it loads."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

from ppfl.core.collector import while_torch_is_loaded

RUN = """\
import atexit, gc, sys
from ppfl.cli import main
# done after what the command leaves to the end
atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 100_000, len(gc.get_objects()) < 100, frozen))
freeze, frozen = gc.freeze, []
gc.freeze = lambda: (freeze(), frozen.append(0))
main()
"""
CONFIG = """\
name: short
rounds: 1
problem: {name: quadratic, generator: comparison, clients: 2, shared_dimension: 2, local_dimension: 1, rows: 3}
algorithm: {name: ffgg, lr: 0.01, fine_tuner: {name: gradient_descent, lr: 0.01, steps: 1}}
"""


def test_a_run_has_the_collector_for_itself(tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text(CONFIG)
    command = [sys.executable, "-c", RUN, "run", "short.yaml", "--out", "short.h5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *told, frozen = done.stdout.splitlines()[-1].split(" ", 3)
    assert told == ["True", "True", "True"]
    assert len(json.loads(frozen)) == 2  # when torch was there, and at the end


def test_what_is_loaded_already_stays_in_its_sight() -> None:
    """Also when commands are called again and again by one process, as tests do."""
    before = gc.get_freeze_count()
    with while_torch_is_loaded():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == before
