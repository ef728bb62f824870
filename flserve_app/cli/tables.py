"""Tables on a terminal, or in a file, where they are as wide as they need to be.

A terminal too narrow for all columns gets those that people need most; names are folded, never cut. Whatever a cell
says is shown as plain text: names come from clients, from bundles and from stores of others.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flserve_app.text import plain

_RIGHT = frozenset({"round", "stored", "accuracy", "loss", "changed", "max", "rms", "bytes", "of full"})
_FOLDS = frozenset({"tensor", "shape", "labels", "codec", "reason", "what", "state"})
_OPTIONAL = ("created", "parent", "rms", "round")
_FILE_WIDTH = 200
_UNBOUNDED = 1 << 20
_MOST_CHARACTERS = 2000  # of a cell: more than any name has


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under column heads on stdout; figures stand to the right."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    kept = list(columns)
    table = _table(title, columns, rows, kept)
    for optional in _OPTIONAL:
        if console.measure(table, options=console.options.update(width=_UNBOUNDED)).maximum <= console.width:
            break
        kept = [column for column in kept if column != optional]
        table = _table(title, columns, rows, kept)
    console.print(table)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], kept: Sequence[str]) -> Table:
    table = Table(
        title=Text(plain(title)), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for column in kept:
        table.add_column(
            column, justify="right" if column in _RIGHT else "left", no_wrap=column not in _FOLDS, overflow="fold"
        )
    for row in rows:
        cells = (plain(value, _MOST_CHARACTERS) for column, value in zip(columns, row, strict=True) if column in kept)
        table.add_row(*(Text(cell) for cell in cells))
    return table
