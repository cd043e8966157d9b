"""The version of the results: by which rules numbers are computed."""

from __future__ import annotations

RESULTS_VERSION = 6
"""Part of every digest; raised when a change of the code changes results, so that old ones are not taken for new."""
