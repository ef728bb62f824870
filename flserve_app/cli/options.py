"""Options that several commands share, and how they print JSON."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any

import typer

from flserve_app.errors import ConfigError
from flserve_app.places import STORE_VARIABLE
from flserve_app.text import strict_json

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", envvar=STORE_VARIABLE, help="Store or run folder; default: the newest below outputs/."),
]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model name; default: the only one in the store.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
MOST_SHOWN = 4000  # characters of a line about what was asked for
VERSION_HELP = "latest, a label, v12, 12, or the start of a digest."


def to_json(value: Any) -> str:
    """Return JSON for people and programs; what JSON has no number for is null."""
    return strict_json(value, indent=2)


def print_json_list(items: Iterable[Any]) -> None:
    """Print what `to_json` makes of a list, item by item: it may be long."""
    before = "[\n"
    for item in items:
        typer.echo(before + indent(to_json(item), "  "), nl=False)
        before = ",\n"
    typer.echo("[]" if before == "[\n" else "\n]")


def listed(text: str) -> list[str]:
    """Return the names between the commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(text: str, option: str) -> list[int]:
    """Return whole numbers of 0 or more, given as `0,3` or `0-9`, each once.

    Raises:
        ConfigError: If it is something else.
    """
    found: list[int] = []
    for part in listed(text):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or not (last if dash else first).isdecimal():
            raise ConfigError(f"{option} is {text!r}, expected numbers as in 0,3 or 0-9")
        found += range(int(first), int(last if dash else first) + 1)
    return list(dict.fromkeys(found))
