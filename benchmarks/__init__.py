"""Measurements: `python -m benchmarks --help`."""

from __future__ import annotations

import atexit
import gc

# nothing is measured at the end of a process, and to look for garbage in all that it holds takes a third of a second
atexit.register(gc.freeze)
