"""`flserve runs`: what ran, by the folders that runs leave.

A run's folder has a row a round, written as rounds end, and a summary from its end on; a run locks the rows while it
lasts. So a folder is `running`, `finished` (its summary tells of its last row) or `unfinished`: killed, stopped or
failed. What is no run's is left out; what cannot be read of a folder is left blank, since runs go on meanwhile.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from flserve_app.cli.choice import run_places
from flserve_app.cli.options import JsonOption, print_json_list
from flserve_app.cli.tables import print_table
from flserve_app.errors import NotFound
from flserve_app.places import CONFIG_FILE, HISTORY_FILE, SUMMARY_FILE, published_as_told
from flserve_app.registry.layout import STORE_FOLDER
from flserve_app.text import plain, readable_bytes

SHOWN = 50
_BYTES = ("bytes_down", "bytes_up", "bytes_down_full", "bytes_up_full")
_LOCKS = Path("/proc/locks")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run, as its folder tells it.

    Attributes:
        folder: The folder.
        state: `running`, `finished` or `unfinished`.
        model: Name its versions are published under, where its summary or its configuration tells it.
        rounds: The last round that ended; None before the first row.
        accuracy: Accuracy after it, the server's or else the clients'.
        bytes: Payload bytes of all rows, down and up.
        full: What the same takes in full.
        written: When it last wrote something, in UTC.
    """

    folder: str
    state: str
    model: str | None
    rounds: int | None
    accuracy: float | None
    bytes: int
    full: int
    written: str


def runs(
    below: Annotated[
        Path | None, typer.Argument(help="Look below this folder; default: outputs/.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Show the newest N.")] = SHOWN,
    as_json: JsonOption = False,
) -> None:
    """Show the runs below a folder with their state, accuracy and bytes, the newest last."""
    places = run_places() if below is None else (below,)
    folders = next(filter(None, (list(_run_folders(place)) for place in places)), [])
    if not folders:
        raise NotFound(f"there is no run below {' or '.join(str(place.absolute()) for place in places)}")
    locked = _locked()
    found = sorted((_row(folder, locked) for folder in folders), key=lambda row: (row.written, row.folder))
    shown = found[-limit:]
    if as_json:
        print_json_list(asdict(row) for row in shown)
        return
    print_table(
        f"{len(found)} run{'' if len(found) == 1 else 's'}",
        ["folder", "state", "model", "rounds", "accuracy", "bytes", "of full", "written"],
        [_cells(row) for row in shown],
        optional=["model", "written"],
    )
    if hidden := len(found) - len(shown):
        typer.echo(f"{hidden} older not shown: --limit {len(found)} shows all")


def _cells(row: RunRow) -> list[str]:
    return [
        _nearest(row.folder),
        row.state,
        row.model or "",
        "" if row.rounds is None else str(row.rounds),
        "" if row.accuracy is None else f"{row.accuracy:.4f}",
        readable_bytes(row.bytes),
        f"{100 * row.bytes / row.full:.1f} %" if row.full else "",
        row.written[:19].replace("T", " "),
    ]


def _nearest(folder: str) -> str:
    """Return a folder as it is typed from here, if it is below."""
    try:
        return str(Path(folder).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return folder


def _run_folders(place: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(place):
        if HISTORY_FILE in files or SUMMARY_FILE in files:
            names[:] = [name for name in names if name != STORE_FOLDER]
            yield Path(folder).absolute()


def _row(folder: Path, locked: frozenset[int]) -> RunRow:
    rows, summary = _history(folder / HISTORY_FILE), _summary(folder / SUMMARY_FILE)
    last = rows[-1] if rows else {}
    sums = {name: sum(_number(row.get(name)) or 0 for row in rows) for name in _BYTES}
    whole = bool(summary) and summary.get("rounds") == last.get("round", summary.get("rounds"))
    accuracy = _number(last.get("accuracy"))
    if accuracy is None and isinstance(metrics := last.get("metrics"), dict):
        accuracy = _number(metrics.get("client_accuracy"))
    rounds = _number(last.get("round"))
    state = "running" if _inode(folder / HISTORY_FILE) in locked else "finished" if whole else "unfinished"
    return RunRow(
        folder=str(folder),
        state=state,
        model=_model(folder, summary),
        rounds=None if rounds is None else int(rounds),
        accuracy=accuracy,
        bytes=int(sums["bytes_down"] + sums["bytes_up"]),
        full=int(sums["bytes_down_full"] + sums["bytes_up_full"]),
        written=_written(folder).isoformat(timespec="seconds"),
    )


def _model(folder: Path, summary: Mapping[str, Any]) -> str | None:
    if "model_name" in summary:
        return plain(summary["model_name"])
    try:
        told = published_as_told((folder / CONFIG_FILE).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return None if told is None else plain(told)


def _history(path: Path) -> list[Mapping[str, Any]]:
    """Return the rows that can be read: the last may be half written, and a file somebody else's."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [row for row in map(_parsed, lines) if row]


def _summary(path: Path) -> Mapping[str, Any]:
    try:
        return _parsed(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {}


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _written(folder: Path) -> datetime:
    times = [0.0]
    for name in (HISTORY_FILE, SUMMARY_FILE):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return datetime.fromtimestamp(max(times), UTC)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return -1


def _locked() -> frozenset[int]:
    """Return the inodes of files that somebody has locked; none where the system does not tell (it is Linux's way)."""
    try:
        lines = _LOCKS.read_text().splitlines()
    except OSError:
        return frozenset()
    places = (word for line in lines if "FLOCK" in line for word in line.split() if word.count(":") == 2)
    return frozenset(int(place.rpartition(":")[2]) for place in places)
