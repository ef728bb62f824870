"""One command, called to its end; what it printed, and when.

The command has a limit of time, and ends with the caller: also when that is interrupted.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flserve_app.errors import DeliveryError

LIMIT_SECONDS = 300.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

Lines = Sequence[tuple[float, str]]


def called(
    command: Sequence[str],
    cwd: str | Path | None = None,
    environment: Mapping[str, str] = os.environ,
    limit_seconds: float = LIMIT_SECONDS,
) -> Lines:
    """Run a command.

    Args:
        command: Program and arguments.
        cwd: The folder it runs in; None for this one.
        environment: Its environment.
        limit_seconds: When it is killed.

    Returns:
        What it printed and when (seconds since the epoch), between an empty line at its start and one at its end.

    Raises:
        DeliveryError: If it fails.
    """
    started = time.time()
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        limit = threading.Timer(limit_seconds, process.kill)
        limit.start()
        try:
            lines = [(time.time(), line.rstrip("\n")) for line in process.stdout or ()]
        except BaseException:  # an interrupted `with` would leave it running
            process.kill()
            raise
        finally:
            limit.cancel()
        process.wait()
    lines = [(started, ""), *lines, (time.time(), "")]
    if process.returncode != 0:
        raise DeliveryError(f"{' '.join(command[:3])} failed: {last_words(lines)}")
    return lines


def last_words(lines: Iterable[tuple[float, str]]) -> str:
    """Return the last line that says something, without colours."""
    said = [text for _, line in lines if (text := _COLOUR.sub("", line).strip())]
    return said[-1][-300:] if said else "it said nothing"
