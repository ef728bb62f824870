"""Files that a user names to be written: `export -o`, `export --bundle`.

Rules:
- A file is there completely or not at all, and keeps the mode and owner that it had. A link stays; what it leads to
  is written.
- `-`, a character device, a FIFO and an open descriptor (`/dev/stdout`, `/dev/fd/3`) are written into, never
  replaced. A FIFO that nobody reads from is an error after some seconds. What was written there is out: who was
  overtaken meanwhile gets an error that nobody takes for a reason to begin again.
- A disk, a socket and the files of a store are refused.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from flserve_app.disk.regular import kind_of
from flserve_app.errors import NotFound, StoreError
from flserve_app.registry.layout import is_own, is_store
from flserve_app.store.files import new_file

STDOUT = Path("-")
READER_SECONDS = 5.0  # that a FIFO's reader may come later than its writer
_STEP_SECONDS = 0.05
_DESCRIPTORS = re.compile(r"/(?:proc/(?:self|[0-9]+)|dev)/fd")
_MOST_LINKS = 40


@contextmanager
def writing_output(path: Path) -> Iterator[BinaryIO]:
    """Write what a user asked for to where he said.

    Args:
        path: The file, or `-` for the standard output.

    Raises:
        StoreError: If it cannot be written there; a file is then as it was.
    """
    try:
        with _opened(path) as file:
            yield file
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def is_stdout(path: Path) -> bool:
    """Whether a path is the standard output, so that messages have to go elsewhere."""
    try:
        return _descriptor(path) == 1
    except OSError:
        return False


def _opened(path: Path) -> AbstractContextManager[BinaryIO]:
    if path == STDOUT:
        return _once(_standard_output())
    if (descriptor := _descriptor(path)) is not None:
        return _once(os.fdopen(os.dup(descriptor), "wb"))
    status = _status(path)
    if status is None or stat.S_ISREG(status.st_mode):
        return _whole(path, status)
    return _once(os.fdopen(_open_stream(path, status.st_mode), "wb"))


@contextmanager
def _once(stream: AbstractContextManager[BinaryIO]) -> Iterator[BinaryIO]:
    try:
        with stream as file:
            yield file
    except NotFound as error:
        raise StoreError(f"{error}: what was written until then is no whole, do it again") from error


@contextmanager
def _whole(path: Path, status: os.stat_result | None) -> Iterator[BinaryIO]:
    place = Path(os.path.realpath(path))
    for folder in place.parents:
        if is_own(place.relative_to(folder)) and is_store(folder):
            raise StoreError(f"cannot write {path}: it is one of the files of the store {folder}: choose another place")
    with new_file(place.parent, str(path)) as new:
        if status is not None:
            _make_like(new.file.fileno(), status)
        yield new.file
        new.name(place)


def _make_like(descriptor: int, status: os.stat_result) -> None:
    """Give a file owner and mode of the one that it replaces, while nothing is in it."""
    found = os.fstat(descriptor)
    if (found.st_uid, found.st_gid) != (status.st_uid, status.st_gid):
        with suppress(PermissionError):  # only root gives files away; the mode is the same all the same
            os.fchown(descriptor, status.st_uid, status.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode))


@contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # it is no file, where this is called within another program
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        sys.stdout.flush()
        with os.fdopen(os.dup(descriptor), "wb") as file:
            yield file


def _open_stream(path: Path, mode: int) -> int:
    if stat.S_ISFIFO(mode):
        return _open_fifo(path)
    if stat.S_ISCHR(mode):
        return os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    what = "a disk" if stat.S_ISBLK(mode) else kind_of(mode)
    raise OSError(errno.EINVAL, f"it is {what}, expected a file, a FIFO or a character device")


def _open_fifo(path: Path) -> int:
    """Open a FIFO to write; a reader that does not come is not waited for without end."""
    end = time.monotonic() + READER_SECONDS
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > end:
                raise OSError(errno.ENXIO, "nobody reads from this FIFO") from error
            time.sleep(_STEP_SECONDS)
        else:
            os.set_blocking(descriptor, True)
            return descriptor


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _descriptor(path: Path) -> int | None:
    """Return the descriptor of this process that a path leads to by its links, if it does."""
    if path == STDOUT:
        return 1
    place = os.path.abspath(path)
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(place)
        if _DESCRIPTORS.fullmatch(folder) and name.isdecimal():
            own = not folder.startswith("/proc/") or folder.split("/")[2] in ("self", str(os.getpid()))
            return int(name) if own else None
        if not os.path.islink(place):
            return None
        place = os.path.normpath(os.path.join(folder, os.readlink(place)))
    return None
