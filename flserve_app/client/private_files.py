"""One client's private tensors on disk: a file for each layout, and so for each history, of each model.

Nobody could send them again. Rules:
- A run under a name that was used before is another history: it gets a file of its own, and leaves that of the one
  before where it is.
- A file is replaced by the same history only, as a whole, and is forced to disk.
- They go by age (`sweep`), never to make room: where there is no room, new ones are refused.
- What they were before they were trained for a version lies beside them (`.before`), written first: whenever the
  client is killed, one of both says what was. It is 4 bytes of length, the version, and the tensors.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

from flserve_app.client.files import mapped, write_atomically
from flserve_app.client.private import kept_key
from flserve_app.disk.regular import is_regular
from flserve_app.errors import StoreError

SUFFIX = ".private"
BEFORE = ".before"
_LEAST_BYTES = 4096  # what a small file takes
_KEY_CHARACTERS = 32
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Training of private tensors.

    Attributes:
        at: The version that was delivered for it.
        before: What they were before, in parts.
    """

    at: str
    before: Sequence[bytes | memoryview]


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

    def before(self, model: str, key: str, at: str) -> memoryview | None:
        """Return what private tensors were before they were trained for a version; None if they last were for another.

        Args:
            model: The model's name.
            key: The layout's key.
            at: The version.
        """
        try:
            data = mapped(self._path(model, key).with_suffix(BEFORE))
            (length,) = _LENGTH.unpack_from(data)
        except (OSError, struct.error):
            return None
        end = _LENGTH.size + length
        kept = data[end:]
        return kept if data[_LENGTH.size : end] == at.encode() and kept_key(kept) == key else None

    def put_before(self, model: str, key: str, trained: Trained) -> None:
        """Keep what private tensors were before training. Raises OSError if that cannot be written."""
        name = trained.at.encode()
        # Not forced: what a power failure cuts short does not verify, and they then stay as they were trained.
        write_atomically(self._path(model, key).with_suffix(BEFORE), [_LENGTH.pack(len(name)), name, *trained.before])

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
