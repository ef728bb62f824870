"""What a store is on disk: `FORMAT`, `catalog.sqlite`, `blobs/`.

`FORMAT` is written first and says which layout follows, so a folder without it is no store, and one of a newer
format is refused before anything in it is opened.
"""

from __future__ import annotations

import re
from pathlib import Path

from flserve_app.errors import NotFound, StoreError
from flserve_app.store import make_folder, write_file
from flserve_app.store.files import TEMPORARY

FORMAT = 1
FORMAT_FILE = "FORMAT"
CATALOG_FILE = "catalog.sqlite"
BLOBS_FOLDER = "blobs"
_FORMAT_LINE = re.compile(rb"flserve-store ([0-9]{1,9})\n")


def open_layout(path: Path, *, create: bool) -> None:
    """Check that a store this program can read is at a path, or lay out a new one.

    Raises:
        NotFound: If nothing is there and nothing is to be made.
        StoreError: If something else is there, or a store of a newer format.
    """
    marker = path / FORMAT_FILE
    if not marker.exists():
        _make(path, create=create)
    try:
        with marker.open("rb") as file:
            line = file.read(64)
    except OSError as error:
        raise StoreError(f"cannot read {marker}: {error.strerror}") from error
    match = _FORMAT_LINE.fullmatch(line)
    if match is None:
        raise StoreError(f"{marker} is not the format file of a store: found {line[:40]!r}")
    if int(match[1]) > FORMAT:
        raise StoreError(
            f"the store {path} has format {int(match[1])}, this flserve reads up to {FORMAT}: "
            "a newer flserve wrote it, and it was left untouched"
        )
    if (path / BLOBS_FOLDER).exists() and not (path / CATALOG_FILE).exists():
        raise StoreError(f"the store {path} has blobs but no {CATALOG_FILE}: it was damaged from outside")


def _make(path: Path, *, create: bool) -> None:
    if not create:
        raise NotFound(f"there is no store at {path}")
    make_folder(path)
    try:
        strangers = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(TEMPORARY))
    except OSError as error:
        raise StoreError(f"cannot list {path}: {error.strerror}") from error
    if strangers and FORMAT_FILE not in strangers:
        raise StoreError(f"{path} is not a store and not empty (it holds {strangers[0]!r}): choose another folder")
    write_file(path / FORMAT_FILE, f"flserve-store {FORMAT}\n".encode())
