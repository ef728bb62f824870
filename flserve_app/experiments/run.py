"""One composed experiment over simulated clients, with what it shows on a terminal."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from flserve_app.client.policy import SitePolicy
from flserve_app.compose.apps import make_client_app
from flserve_app.compose.client_limits import is_place, place_of
from flserve_app.compose.folder import NO_FILES
from flserve_app.compose.job import check, run_job
from flserve_app.compose.screen import Screen, summary_line
from flserve_app.config import AppConfig, Composed
from flserve_app.experiments.console import report_console
from flserve_app.experiments.engine import federate
from flserve_app.experiments.stopping import Stopped
from flserve_app.strategy import RoundRow

DEFAULT_CLIENTS = 10
PLAIN_WIDTH = 120


def run_simulated(
    composed: Composed, folder: Path, also: Mapping[str, str] = NO_FILES, *, brief: bool = False
) -> dict[str, Any]:
    """Run one composed experiment over simulated clients.

    Args:
        composed: The configuration.
        folder: The run folder.
        also: Further files that say how it was started, by their paths in the folder.
        brief: Close with one line, not with a table: one job of many.

    Returns:
        The summary.
    """
    clients = composed.app.num_clients or DEFAULT_CLIENTS
    check(composed.app, clients, folder)
    console = report_console(PLAIN_WIDTH)
    screen = Screen(composed.app.num_rounds, partial(console.print, soft_wrap=True, highlight=False), console)
    summaries: list[dict[str, Any]] = []
    rows: list[RoundRow] = []

    def show(row: RoundRow) -> None:
        rows.append(row)
        screen.show(row)

    def serve(grid: Grid) -> None:
        summaries.append(run_job(grid, composed, folder, show, also))

    try:
        federate(composed.app.engine, serve, make_client_app(), clients, _allowed(composed.app, clients))
    except Stopped as stopped:
        stopped.then = _then(folder, rows)
        raise
    finally:
        screen.close(summaries[0] if summaries and not brief else None)
    if brief:
        console.print(summary_line(summaries[0]), soft_wrap=True, highlight=False, markup=False)
    return summaries[0]


def _then(folder: Path, rows: Sequence[RoundRow]) -> str:
    """Return how to go on with a run that was stopped."""
    if not rows:
        return " before the first version"
    return f" at v{rows[-1].version}; `flserve run --resume {shlex.quote(str(folder))}` goes on"


def _allowed(app: AppConfig, clients: int) -> dict[str, str]:
    """Return what the user's own simulated clients may do: what the user just asked for."""
    least = SitePolicy()
    allowed = {
        "FLSERVE_MAX_CLIENTS": str(max(clients, least.max_clients)),
        "FLSERVE_MAX_EPOCHS": str(max(app.train.epochs, least.max_epochs)),
    }
    allowed = {name: value for name, value in allowed.items() if not os.environ.get(name)}
    if app.task.name == "hub" and is_place(app.task.hub.dataset):
        folders = filter(None, (os.environ.get("FLSERVE_DATA_FOLDERS"), str(place_of(app.task.hub.dataset).absolute())))
        allowed["FLSERVE_DATA_FOLDERS"] = os.pathsep.join(folders)
    return allowed
