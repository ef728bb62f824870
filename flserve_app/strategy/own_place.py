"""Beside the store of a run, its simulated clients keep what is their own: see `client.own_place`.

It is said only where clients keep anything, on this machine alone. Where it cannot be said, the run goes on as one
whose clients keep all in memory, and a run that is resumed from it says what is lost.
"""

from __future__ import annotations

from logging import WARNING
from pathlib import Path

from flwr.common.logger import log
from flwr.serverapp import Grid

from flserve_app.client.own_place import announce, beside


def open_place(grid: Grid, store: Path | None, *, needed: bool) -> None:
    """Let the simulated clients of a Grid's run keep what is their own; one line where that cannot be.

    Args:
        grid: The Grid.
        store: Folder of the run's store; None if it has none.
        needed: Whether they keep anything.
    """
    run_id = _run_id(grid) if needed else None
    if store is None or run_id is None:
        return
    folder = beside(store)
    try:
        announce(run_id, folder)
    except OSError as error:
        log(WARNING, "flserve: clients cannot keep what is their own in %s: %s", folder, error)


def _run_id(grid: Grid) -> int | None:
    try:
        return int(grid.run.run_id)
    except Exception:  # noqa: BLE001 a Grid of somebody's own need not know its run: its clients then keep nothing
        return None
