"""Tables on a terminal, or in a file, where they are as wide as they need to be.

A terminal too narrow for all columns gets those that people need most; names are folded, never cut. Whatever a cell
says is shown as plain text: names come from clients, from bundles and from stores of others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flserve_app.text import plain

_RIGHT = frozenset({"round", "stored", "accuracy", "loss", "changed", "max", "rms", "bytes", "of full", "rounds"})
_FOLDS = frozenset({"tensor", "shape", "labels", "codec", "reason", "what", "state", "why", "folder"})
_OPTIONAL = ("created", "parent", "rms", "round")
_FILE_WIDTH = 200
_UNBOUNDED = 1 << 20
_MOST_HEAD = 30  # characters of a column's head: a metric may have a long name
_MOST_CHARACTERS = 2000  # of a cell: more than any name has


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    figures: Collection[str] = (),
    optional: Sequence[str] = (),
) -> None:
    """Print rows under column heads on stdout; what a narrow terminal leaves out is said on stderr.

    Args:
        title: What stands above.
        columns: Their heads.
        rows: Their cells.
        figures: Further columns whose cells stand to the right.
        optional: Further columns that a narrow terminal does without, the first to go last.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    kept, right = list(columns), _RIGHT.union(figures)
    table = _table(title, columns, rows, kept, right)
    for least in (_OPTIONAL[0], *reversed(optional), *_OPTIONAL[1:]):
        if console.measure(table, options=console.options.update(width=_UNBOUNDED)).maximum <= console.width:
            break
        kept = [column for column in kept if column != least]
        table = _table(title, columns, rows, kept, right)
    console.print(table)
    if gone := [plain(column) for column in columns if column not in kept]:
        typer.echo(f"no room for: {', '.join(gone)} (a wider terminal, or --json)", err=True)


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], kept: Sequence[str], right: Collection[str]
) -> Table:
    table = Table(
        title=Text(plain(title)), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for column in kept:
        table.add_column(
            Text(plain(column, _MOST_HEAD)),
            justify="right" if column in right else "left",
            no_wrap=column not in _FOLDS,
            overflow="fold",
        )
    for row in rows:
        cells = (plain(value, _MOST_CHARACTERS) for column, value in zip(columns, row, strict=True) if column in kept)
        table.add_row(*(Text(cell) for cell in cells))
    return table
