"""What a store is on disk: `FORMAT`, `catalog.sqlite`, `blobs/`.

`FORMAT` is written first and says which layout follows, so a folder without it is no store, and one of a newer
format is refused before anything in it is opened. So is one that has blobs and no catalog that could name them: it
would be taken for an empty store, and all that it holds for garbage.
"""

from __future__ import annotations

import re
from pathlib import Path

from flserve_app.disk.regular import open_regular
from flserve_app.errors import NotFound, StoreError
from flserve_app.store import make_folder, write_file
from flserve_app.store.dir_blobs import DirBlobs
from flserve_app.store.files import TEMPORARY
from flserve_app.store.intact import catalog_loss, check_kinds

FORMAT = 1
FORMAT_FILE = "FORMAT"
CATALOG_FILE = "catalog.sqlite"
BLOBS_FOLDER = "blobs"
STORE_FOLDER = "store"  # of a run, in its folder
_FORMAT_LINE = re.compile(rb"flserve-store ([0-9]{1,9})\n")


def open_layout(path: Path, *, create: bool) -> None:
    """Check that a store this program can read is at a path, or lay out a new one.

    Raises:
        NotFound: If nothing is there and nothing is to be made.
        StoreError: If something else is there, a store of a newer format, or one that lost its catalog.
    """
    if not is_store(path):
        _make(path, create=create)
    check_format(path)
    if (lost := lost_catalog(path)) is not None:
        raise StoreError(f"{lost}: it was damaged from outside; `flserve verify --repair` makes what the blobs tell")


def is_store(path: Path) -> bool:
    """Whether a folder has a store's format file. Raises StoreError if that cannot be found out."""
    try:
        (path / FORMAT_FILE).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot look at {path}: {getattr(error, 'strerror', None) or error}") from error
    return True


def store_at(path: Path) -> Path:
    """Return the store that a path means: itself, or the one inside if it is a run's folder. Raises StoreError."""
    return path / STORE_FOLDER if not is_store(path) and is_store(path / STORE_FOLDER) else path


def is_own(path: Path) -> bool:
    """Whether a path, relative to a store's folder, is one of the store's own."""
    return path.parts[0] in (FORMAT_FILE, BLOBS_FOLDER) or path.parts[0].startswith(CATALOG_FILE)


def check_format(path: Path) -> None:
    """Check that the format file of a store names a format that this program reads. Raises StoreError."""
    marker = path / FORMAT_FILE
    try:
        with open_regular(marker) as file:
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


def lost_catalog(path: Path) -> str | None:
    """Return what the catalog of a store lost, a sentence without its end; None if it lost nothing.

    Raises:
        StoreError: If something else than a file stands in its place.
    """
    check_kinds(path / CATALOG_FILE)
    # First what is there: who makes a store makes its catalog before it puts a blob.
    begun = next(iter(DirBlobs(path / BLOBS_FOLDER)), None) is not None
    lost = catalog_loss(path / CATALOG_FILE, begun=begun)
    if lost == "is missing":
        return f"the store {path} has blobs but no {CATALOG_FILE}"
    return None if lost is None else f"the store {path} {'has blobs but ' * begun}its {CATALOG_FILE} {lost}"


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
