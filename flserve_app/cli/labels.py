"""`flserve label`: names of people's own for versions, and the history of every move."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from flserve_app.cli.choice import choose_model, open_store
from flserve_app.cli.options import VERSION_HELP, JsonOption, ModelOption, StoreOption, to_json
from flserve_app.cli.tables import print_table
from flserve_app.registry import Registry
from flserve_app.store import LabelMove
from flserve_app.text import plain

_COLUMNS = ("label", "version", "digest", "before", "who", "why", "moved")


def label(
    version: Annotated[str | None, typer.Argument(help=VERSION_HELP, show_default=False)] = None,
    name: Annotated[
        str | None,
        typer.Argument(help="The label to put there; it moves if it stands elsewhere.", show_default=False),
    ] = None,
    why: Annotated[str, typer.Option("--why", help="The reason, for the history.")] = "",
    who: Annotated[str, typer.Option("--who", help="Who moves it; default: the user's name.")] = "",
    expect: Annotated[
        str | None, typer.Option("--expect", metavar="VERSION", help="Move it only if it stands there now.")
    ] = None,
    moves: Annotated[bool, typer.Option("--moves", help="Show every move instead of how labels stand.")] = False,
    store: StoreOption = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a label stand at a version (`flserve label v12 stable`), or show the labels."""
    if (version is None) != (name is None) or (version is not None and moves):
        raise typer.BadParameter("name VERSION and NAME to move a label, or neither to show the labels")
    with open_store(store) as registry:
        chosen = choose_model(registry, model)
        if version is not None and name is not None:
            done = _move(registry, chosen, version, name, who or os.environ.get("USER", ""), why, expect)
            typer.echo(to_json(_row(registry, done)) if as_json else _said(done))
            return
        made = registry.label_moves(chosen)
        if not moves:
            stand, last = registry.labels(chosen), {move.label: move for move in made}
            made = tuple(last[each] for each in sorted(stand) if each in last)
        rows = [_row(registry, move) for move in made]
    if as_json:
        typer.echo(to_json(rows))
    else:
        _print(chosen, rows)


def _move(registry: Registry, model: str, version: str, name: str, who: str, why: str, expect: str | None) -> LabelMove:
    number = registry.resolve(model, version).number
    if expect is None:
        return registry.move_label(model, name, number, why=why, who=who)
    return registry.move_label(model, name, number, why=why, who=who, expect=registry.resolve(model, expect).number)


def _said(move: LabelMove) -> str:
    before = "" if move.before is None else f", was at v{move.before}"
    return plain(f"{move.model}: {move.label} stands at v{move.after}{before}")


def _row(registry: Registry, move: LabelMove) -> dict[str, Any]:
    return {
        "label": move.label,
        "version": f"v{move.after}",
        "digest": registry.resolve(move.model, str(move.after)).digest,
        "before": None if move.before is None else f"v{move.before}",
        "who": move.who,
        "why": move.why,
        "moved": move.moved.isoformat(),
    }


def _print(model: str, rows: Sequence[dict[str, Any]]) -> None:
    cells = [
        ["" if row[name] is None else str(row[name]) for name in _COLUMNS[:2]]
        + [row["digest"][:12], row["before"] or "", row["who"], row["why"], row["moved"][:19].replace("T", " ")]
        for row in rows
    ]
    print_table(f"{model}: labels", _COLUMNS, cells)
