"""One client's private tensors on disk: a file for each layout, and so for each history, of each model.

Nobody could send them again. Rules:
- A run under a name that was used before is another history: it gets a file of its own, and leaves that of the one
  before where it is.
- A file is replaced by the same history only, as a whole, and is forced to disk.
- They go by age (`sweep`), never to make room: where there is no room, new ones are refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import final

from flserve_app.client.files import mapped, write_atomically
from flserve_app.client.private import kept_key
from flserve_app.disk.regular import is_regular
from flserve_app.errors import StoreError

SUFFIX = ".private"
_LEAST_BYTES = 4096  # what a small file takes
_KEY_CHARACTERS = 32


@final
class PrivateFiles:
    """The private tensors that one client keeps.

    Args:
        folder: The client's folder.
        most_bytes: What all of them may take.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes

    def get(self, model: str, key: str = "") -> memoryview | None:
        """Return what is kept of a model under a layout's key; None if that is nothing.

        Args:
            model: Its name.
            key: The layout's key; empty for the layout that was used last.
        """
        for path in self._candidates(model, key):
            with suppress(OSError):
                data = mapped(path)
                if not key or path == self._path(model, key) or kept_key(data) == key:
                    if key:
                        with suppress(OSError):  # a cache that may only be read is read all the same
                            os.utime(path)  # asked for: it is in use
                    return data
        return None

    def put(self, model: str, key: str, data: Sequence[bytes | memoryview]) -> None:
        """Keep private tensors of a model in place of those before of the same layout.

        Raises:
            OSError: If they cannot be written; those before are still there then.
            StoreError: If there is no room for another history.
        """
        path, plain = self._path(model, key), self._path(model, "")
        if is_regular(path):
            if not os.access(path, os.W_OK):
                raise PermissionError(f"{path} belongs to another user")
        else:
            self._check_room(sum(map(len, data)))
        write_atomically(path, data, forced=True)
        # Where releases before this one kept it.
        if path != plain and self._key_at(plain) == key:
            plain.unlink(missing_ok=True)

    def _check_room(self, nbytes: int) -> None:
        taken = 0
        for path in self._folder.glob(f"*{SUFFIX}"):
            with suppress(OSError):
                taken += max(path.lstat().st_size, _LEAST_BYTES)
        if taken + max(nbytes, _LEAST_BYTES) > self._most_bytes:
            raise StoreError(
                f"private tensors: {taken} bytes are kept, {nbytes} more are over cache-bytes {self._most_bytes}"
            )

    def _candidates(self, model: str, key: str) -> list[Path]:
        if key:
            return [self._path(model, key), self._path(model, "")]
        found = []
        for path in (self._path(model, ""), *self._folder.glob(f"{_name(model)}.*{SUFFIX}")):
            with suppress(OSError):
                found.append((path.lstat().st_mtime_ns, path))
        return [path for _, path in sorted(found, reverse=True)]

    def _key_at(self, path: Path) -> str:
        try:
            return kept_key(mapped(path))
        except OSError:
            return ""

    def _path(self, model: str, key: str) -> Path:
        return self._folder / f"{_name(model)}{'.' if key else ''}{key[:_KEY_CHARACTERS]}{SUFFIX}"


def _name(model: str) -> str:
    return hashlib.sha256(model.encode()).hexdigest()[:16]
