"""From residuals to bytes: two entropy coders.

Words of one run (`sorting`; unsorted words are one run) are alike, those of another are not: so both coders give
each run a distribution of its own. Parts stand one after another, a varint of its length before each but the last.

`planes` (fast): a part is one byte plane of one run, as it is or squeezed (`frames`) if that is shorter; for
each run the plane of the highest bytes first.
`bins` (small): a part is one run by pcodec: the two header bytes, chunk meta and page of its wrapped format. Mode
and delta encoding are `classic` and `none` (the first byte of the meta is 0): others could ask for memory.
pcodec takes words of 16 bits and more; single bytes go by `planes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, final

import numpy as np
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, PagingSpec, wrapped

from flserve_app.codec.frames import compress, unsqueeze
from flserve_app.codec.wire import Reader, varint
from flserve_app.codec.words import Words
from flserve_app.errors import CodecError

MOST_WORDS = 1 << 18
_WORTHWHILE = 127 / 128  # of a plane's size; what saves less is not worth the time to read it
_PROBE_BYTES = 1 << 11
_FILE_HEADER_BYTES = 2
_PCO_TYPES = {2: "u16", 4: "u32", 8: "u64"}
_CONFIG = ChunkConfig(
    compression_level=8,
    mode_spec=ModeSpec.classic(),
    delta_spec=DeltaSpec.no_op(),
    paging_spec=PagingSpec.equal_pages_up_to(MOST_WORDS),
)


class Coder(Protocol):
    """Turns the words of one chunk into bytes and back; a value without state."""

    def pack(self, words: Words, runs: Sequence[slice]) -> bytes:
        """Return the body of words (n,) that are alike within runs."""

    def unpack(self, body: memoryview, runs: Sequence[Words]) -> None:
        """Fill the words of each run from a body.

        Raises:
            CodecError: If it does not hold just so many words.
        """


@final
class Planes:
    """Byte planes and zstd."""

    def pack(self, words: Words, runs: Sequence[slice]) -> bytes:
        """Return the planes of all runs."""
        return _joined([part for run in runs for part in _planes(words[run])])

    def unpack(self, body: memoryview, runs: Sequence[Words]) -> None:
        """Fill the words from the planes."""
        parts = iter(_split(body, len(runs) * runs[0].itemsize))
        for words in runs:
            words[:] = _plane(next(parts), words)
            for _ in range(words.itemsize - 1):
                words <<= 8
                words |= _plane(next(parts), words)


@final
class Bins:
    """pcodec, a run at a time."""

    def pack(self, words: Words, runs: Sequence[slice]) -> bytes:
        """Return the pages of all runs."""
        if words.itemsize not in _PCO_TYPES:
            return Planes().pack(words, runs)
        return _joined([_page(words[run]) for run in runs])

    def unpack(self, body: memoryview, runs: Sequence[Words]) -> None:
        """Fill the words from the pages."""
        if runs[0].itemsize not in _PCO_TYPES:
            Planes().unpack(body, runs)
            return
        for words, page in zip(runs, _split(body, len(runs)), strict=True):
            _fill(words, page)


def _planes(words: Words) -> Iterator[bytes | memoryview]:
    """Yield the byte planes of words (n,), the highest first."""
    hopeless = False
    for index in reversed(range(words.itemsize)):
        plane = np.empty(words.size, np.uint8)
        np.right_shift(words, 8 * index, out=plane, casting="unsafe")
        # Below noise there is nearly always noise; a glance finds out where there is not.
        probe = plane.data[:_PROBE_BYTES]
        if hopeless and len(compress(probe)) > _WORTHWHILE * len(probe):
            yield plane.data
            continue
        frame = compress(plane.data)
        hopeless = len(frame) > _WORTHWHILE * words.size
        yield plane.data if hopeless else frame


def _plane(part: memoryview, words: Words) -> Words:
    """Return a plane of so many words, as wide as they are: numpy would widen it in small pieces later."""
    return np.frombuffer(unsqueeze(part, words.size), np.uint8).astype(words.dtype)


def _joined(parts: Sequence[bytes | memoryview]) -> bytes:
    sized = [piece for part in parts[:-1] for piece in (varint(len(part)), part)]
    return b"".join((*sized, parts[-1]))


def _split(body: memoryview, count: int) -> list[memoryview]:
    reader = Reader(body, "chunk")
    parts = [reader.take(reader.varint()) for _ in range(count - 1)]
    return [*parts, reader.take(reader.left)]


def _page(words: Words) -> bytes:
    file = wrapped.FileCompressor()
    chunk = file.chunk_compressor(words, _CONFIG)
    return bytes(file.write_header() + chunk.write_meta() + chunk.write_page(0))


def _fill(words: Words, page: memoryview) -> None:
    """Decompress one page into its words: pcodec writes there and nowhere else."""
    # pcodec takes nothing but bytes.
    data = bytes(page)
    if data[_FILE_HEADER_BYTES : _FILE_HEADER_BYTES + 1] != b"\0":
        raise CodecError("pcodec page uses a mode or delta encoding that payloads do not have")
    try:
        file, header = wrapped.FileDecompressor.new(data)
        chunk, meta = file.chunk_decompressor(data[header:], _PCO_TYPES[words.itemsize])
        progress, read = chunk.read_page_into(data[header + meta :], words.size, words)
    except (RuntimeError, TypeError) as error:
        raise CodecError(f"pcodec page cannot be read: {error}") from error
    if (progress.n_processed, header + meta + read) != (words.size, len(data)):
        raise CodecError(f"pcodec page of {len(data)} bytes does not hold just {words.size} words")
