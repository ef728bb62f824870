"""Parts of files in memory without a copy of them.

A part that is not small is mapped: its pages are those of the system's file cache, which takes them back when
memory is short. It is hashed with ordinary reads first, because a sector that cannot be read is an error there,
and the end of the process where it is mapped. Only for files that are replaced as a whole.
"""

from __future__ import annotations

import hashlib
import mmap
from typing import BinaryIO

MAPPED_FROM_BYTES = 1 << 20
_STEP_BYTES = 1 << 18


def mapped(file: BinaryIO, start: int, size: int) -> tuple[memoryview, str]:
    """Return a part of a file, which need not stay open, and its hex SHA-256.

    Args:
        file: Open for reading.
        start: First byte of the part.
        size: Bytes of the part. If the file ends before, the digest is of what there is.

    Raises:
        OSError: If it cannot be read.
    """
    file.seek(start)
    if size < MAPPED_FROM_BYTES:
        data = file.read(size)
        return memoryview(data), hashlib.sha256(data).hexdigest()
    digest, step, left = hashlib.sha256(), memoryview(bytearray(_STEP_BYTES)), size
    while count := file.readinto(step[:left]):  # type: ignore[attr-defined]
        digest.update(step[:count])
        left -= count
    if left:
        return memoryview(b""), digest.hexdigest()
    skipped = start % mmap.ALLOCATIONGRANULARITY  # where a map may begin
    pages = mmap.mmap(file.fileno(), size + skipped, access=mmap.ACCESS_READ, offset=start - skipped)
    return memoryview(pages)[skipped:], digest.hexdigest()
