"""Where runs and benches print their tables: a terminal as it is, and room for all columns where there is none."""

from __future__ import annotations

from rich.console import Console

PLAIN_WIDTH = 160


def report_console(plain_width: int = PLAIN_WIDTH) -> Console:
    """Return a console on stdout.

    Args:
        plain_width: Columns of what goes into a file or a pipe, which rich would cut at 80.
    """
    console = Console()
    return console if console.is_terminal else Console(width=plain_width)
