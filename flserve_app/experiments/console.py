"""Where benches print their tables: a terminal as it is, and room for all columns where there is none."""

from __future__ import annotations

from rich.console import Console

PLAIN_WIDTH = 160


def report_console() -> Console:
    """Return a console on stdout; what it writes into a file or a pipe is not cut to 80 columns."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)
