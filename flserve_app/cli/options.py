"""Options that several commands share, and how they print JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Store or run folder; default: the newest below outputs/.")
]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model name; default: the only one in the store.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
VERSION_HELP = "latest, a label, v12, 12, or the start of a digest."


def to_json(value: Any) -> str:
    """Return JSON for people and programs; what JSON has no number for is null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
