"""The one way to call commands of Slurm, which may be missing, refuse, hang, or be wrappers of a site."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TIMEOUT_SECONDS = 30.0


class NoAnswerError(UserError):
    """Slurm cannot be asked."""


def ask(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    text: str | None = None,
    seconds: float | None = None,
) -> str:
    """Return what a command prints, within `seconds` (default: TIMEOUT_SECONDS); `text` is its standard input.

    Raises NoAnswerError when it is missing, refuses or hangs.
    """
    seconds = TIMEOUT_SECONDS if seconds is None else seconds
    content = None if text is None else text.encode(errors="surrogateescape")
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    try:
        # in a session of its own: the children of a wrapper are to end with it
        with subprocess.Popen(
            command, env=environment, stdin=nothing if content is None else pipe, stdout=pipe, stderr=pipe,
            start_new_session=True,
        ) as process:  # fmt: skip
            try:
                answer, complaint = process.communicate(content, timeout=seconds)
            except subprocess.TimeoutExpired as error:
                with suppress(ProcessLookupError):
                    # the whole session: a wrapper that is killed alone leaves a child that keeps our pipes open, and
                    # we would go on waiting
                    os.killpg(process.pid, signal.SIGKILL)
                raise NoAnswerError(f"Slurm does not answer: {command[0]} said nothing for {seconds:g} s") from error
    except FileNotFoundError as error:
        raise NoAnswerError(f"{command[0]}: not found; submit from a login node of the cluster") from error
    except OSError as error:
        raise NoAnswerError(f"{command[0]}: cannot be started: {error.strerror}") from error
    if process.returncode:
        why = " ".join(complaint.decode(errors="replace").split())
        raise NoAnswerError(why or f"{command[0]} ended with {process.returncode}")
    return answer.decode(errors="surrogateescape")  # folders have names that are not UTF-8
