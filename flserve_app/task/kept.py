"""Arrays that took long to derive, kept on disk for the next process.

A SuperNode gives each message a fresh process: what it derived once is not to be derived again. Rules:

- A file is named by SHA-256 of the JSON of everything its content follows from, so it is never out of date.
- It starts with the SHA-256 of the rest, an npz archive that is read without pickle: what was cut or changed is
  derived anew, and so is everything where there is no place to keep it. Nothing here ever fails.
- Files live in `FLSERVE_CACHE_DIR` or the user's cache directory, in a folder that only the user may write to;
  the oldest go when there are more than `MAX_FILES`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_FILES = 64
_DIGEST_BYTES = 32

Arrays = Mapping[str, npt.NDArray[Any]]


def kept(facts: Mapping[str, object], derive: Callable[[], Arrays]) -> Arrays:
    """Return arrays from disk, or derive and keep them.

    Args:
        facts: JSON-able values that decide the content.
        derive: Computes the arrays; object dtypes are not kept.
    """
    folder = _folder()
    if folder is None:
        return derive()
    path = folder / f"{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()}.npz"
    found = _read(path)
    if found is not None:
        return found
    made = derive()
    # A full disk or a read-only one costs the next process time, and nothing else.
    with contextlib.suppress(OSError):
        _write(path, made)
        _forget_oldest(folder)
    return made


def _folder() -> Path | None:
    """Return the folder, made if need be, or None where there is none to trust."""
    configured = os.environ.get("FLSERVE_CACHE_DIR")
    home = Path(configured) if configured else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "flserve"
    try:
        folder = home.expanduser() / "data"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except (OSError, RuntimeError):
        return None
    owned = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return folder if owned and stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022 else None


def _read(path: Path) -> Arrays | None:
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
            return None
        with np.load(io.BytesIO(content[_DIGEST_BYTES:]), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, arrays: Arrays) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **dict(arrays))
    content = buffer.getvalue()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(content).digest())
            file.write(content)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _forget_oldest(folder: Path) -> None:
    files = sorted(folder.glob("*.npz"), key=lambda path: path.stat().st_mtime)
    for path in files[:-MAX_FILES]:
        path.unlink(missing_ok=True)
