"""Where the clients of a simulation keep what is their own and has to outlive the run.

A run's clients and its server are on one machine there, and one user's. So the server says on that machine, and never
in a message, where: in a file beside which the clients of the run keep the rest (`cache_root`), whose folder only this
user can write to. Rules:
- The place is a folder beside the store, `<store>.clients`: a run that is resumed has the same store, and so the same.
- It holds what nobody could send a client again: its private tensors, and what rounding left out of its updates.
- Who has a cache directory keeps all in it, and looks for no such file: a SuperNode elsewhere never finds one.
- What was said stays after the last round, as clients may yet be asked to predict; a later run removes it.
- A file that is no regular one, a folder that is not this user's own: as good as absent.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from flserve_app.client.files import check_private, make_private, write_atomically
from flserve_app.disk.regular import read_regular

FORGET_SECONDS = 24 * 3600.0
_NAME = "own-place"


def place_of_run(run_id: int) -> Path:
    """Return where the simulated clients of a run keep what ends with it."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"flserve-{user}" / f"run-{run_id}"


def beside(store: Path) -> Path:
    """Return the folder beside a store in which simulated clients keep what is their own."""
    return store.with_name(f"{store.name}.clients")


def announce(run_id: int, folder: Path) -> None:
    """Let the simulated clients of a run keep what is their own in a folder, which is made.

    Raises:
        OSError: If the folder cannot be made or is not this user's own, or that cannot be said.
    """
    make_private(folder)
    where = place_of_run(run_id)
    make_private(where.parent)
    forget_old_runs(where)
    write_atomically(where / _NAME, os.fsencode(folder.absolute()))


def announced(run_place: Path) -> Path | None:
    """Return the folder that was announced to the clients of a run, if there is one that can be trusted.

    Args:
        run_place: As `place_of_run` gives it; its parent is known to be this user's own.
    """
    try:
        folder = Path(os.fsdecode(read_regular(run_place / _NAME)))
        check_private(folder)
    except (OSError, ValueError):
        return None
    return folder if folder.is_absolute() else None


def forget_old_runs(root: Path) -> None:
    """Remove what runs of more than `FORGET_SECONDS` ago left beside a run's directory that is about to be made."""
    if root.exists():
        return
    for other in root.parent.glob("run-*"):
        with suppress(OSError):
            newest = max(path.stat().st_mtime for path in (other, *other.iterdir()))
            if time.time() - newest > FORGET_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
