"""From sorted residuals to bytes: two entropy coders.

`planes` (fast): the words' bytes by significance, lowest first, each plane whole, all in one zstd frame.
`bins` (small): pcodec, one page a run of labels (`Order.runs`, at least `LEAST_RUN` words), since what is alike has
a distribution of its own. Its body is, a run: two header bytes and the chunk meta of pcodec's wrapped format
and the page, after a varint of their length for all runs but the last. Mode and delta encoding are `classic`
and `none` (the first byte of a chunk meta is 0): others could ask for memory. pcodec takes words of 16 bits
and more; bytes are coded as one plane instead.
"""

from __future__ import annotations

from typing import Protocol, final

import numpy as np
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, PagingSpec, wrapped

from flserve_app.codec.frames import compress, decompress
from flserve_app.codec.grouping import CHUNK_WORDS, Order
from flserve_app.codec.wire import Reader, varint
from flserve_app.codec.words import Words
from flserve_app.errors import CodecError

LEAST_RUN = 2048
_FILE_HEADER_BYTES = 2
_PCO_TYPES = {2: "u16", 4: "u32", 8: "u64"}
_CONFIG = ChunkConfig(
    compression_level=8,
    mode_spec=ModeSpec.classic(),
    delta_spec=DeltaSpec.no_op(),
    paging_spec=PagingSpec.equal_pages_up_to(CHUNK_WORDS),
)


class Coder(Protocol):
    """Turns the words of one chunk into bytes and back; a value without state."""

    def pack(self, words: Words, order: Order | None) -> bytes:
        """Return the body of sorted words (n,), whose labels may guide it."""

    def unpack(self, body: memoryview, words: Words, order: Order | None) -> None:
        """Fill `words` (n,) from a body.

        Raises:
            CodecError: If it does not hold just so many words.
        """


@final
class Planes:
    """Byte planes and zstd."""

    def pack(self, words: Words, order: Order | None) -> bytes:
        """Return the planes as one zstd frame."""
        planes = np.empty((words.itemsize, words.size), np.uint8)
        for index in range(words.itemsize):
            planes[index] = words >> (8 * index)
        return compress(planes.data)

    def unpack(self, body: memoryview, words: Words, order: Order | None) -> None:
        """Fill the words from the planes."""
        planes = np.frombuffer(decompress(body, words.nbytes), np.uint8).reshape(words.itemsize, words.size)
        words[:] = planes[-1]
        for plane in planes[-2::-1]:
            words <<= 8
            words |= plane


@final
class Bins:
    """pcodec, a run of labels at a time."""

    def pack(self, words: Words, order: Order | None) -> bytes:
        """Return the pages of all runs."""
        if words.itemsize not in _PCO_TYPES:
            return Planes().pack(words, order)
        pages = [_page(words[run]) for run in _runs(words, order)]
        return b"".join(varint(len(page)) + page for page in pages[:-1]) + pages[-1]

    def unpack(self, body: memoryview, words: Words, order: Order | None) -> None:
        """Fill the words from the pages."""
        if words.itemsize not in _PCO_TYPES:
            Planes().unpack(body, words, order)
            return
        reader = Reader(body, "pages")
        parts = _runs(words, order)
        for run in parts[:-1]:
            _fill(words[run], reader.take(reader.varint()))
        _fill(words[parts[-1]], reader.take(reader.left))


def _runs(words: Words, order: Order | None) -> list[slice]:
    return [slice(0, words.size)] if order is None else list(order.runs(LEAST_RUN))


def _page(words: Words) -> bytes:
    file = wrapped.FileCompressor()
    chunk = file.chunk_compressor(words, _CONFIG)
    return bytes(file.write_header() + chunk.write_meta() + chunk.write_page(0))


def _fill(words: Words, page: memoryview) -> None:
    """Decompress one page into its words: pcodec writes there and nowhere else."""
    data = bytes(page)
    if data[_FILE_HEADER_BYTES : _FILE_HEADER_BYTES + 1] != b"\0":
        raise CodecError("pcodec page uses a mode or delta encoding that payloads do not have")
    try:
        file, header = wrapped.FileDecompressor.new(data)
        chunk, meta = file.chunk_decompressor(data[header:], _PCO_TYPES[words.itemsize])
        progress, _ = chunk.read_page_into(data[header + meta :], words.size, words)
    except (RuntimeError, TypeError) as error:
        raise CodecError(f"pcodec page cannot be read: {error}") from error
    if header != _FILE_HEADER_BYTES or not progress.finished or progress.n_processed != words.size:
        raise CodecError(f"pcodec page holds {progress.n_processed} words, expected {words.size}")
