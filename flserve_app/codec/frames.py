"""zstd frames of a known size.

Frames are written without zstd's magic number. The decoder always knows how many bytes a frame must give; the
frame must declare just that size, and no window beyond it, before anything is decompressed: python-zstandard
would allocate what the frame says.
"""

from __future__ import annotations

import threading

import zstandard

from flserve_app.errors import CodecError

_FORMAT = zstandard.FORMAT_ZSTD1_MAGICLESS
# Residuals do not repeat, or in long runs of zeros: a small table of long matches, and Huffman coding for the rest.
_PARAMETERS = zstandard.ZstdCompressionParameters(
    format=_FORMAT,
    window_log=17,
    hash_log=8,
    min_match=7,
    strategy=zstandard.STRATEGY_FAST,
    write_content_size=1,
    write_checksum=0,
    write_dict_id=0,
)
_MIN_WINDOW = 1 << 10
_local = threading.local()


def squeeze(data: bytes | memoryview) -> bytes | memoryview:
    """Return a zstd frame of the data, or the data themselves if that is not longer."""
    frame = compress(data)
    return frame if len(frame) < len(data) else data


def unsqueeze(body: memoryview, size: int) -> bytes | memoryview:
    """Return the `size` bytes that were squeezed.

    Raises:
        CodecError: If there are not so many.
    """
    return body if len(body) == size else decompress(body, size)


def compress(data: bytes | memoryview) -> bytes:
    """Return one zstd frame that declares its content size."""
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(compression_params=_PARAMETERS)
    frame: bytes = _local.compressor.compress(data)
    return frame


def decompress(frame: memoryview, size: int) -> bytes:
    """Return the content of one frame.

    Args:
        frame: The frame and nothing more.
        size: Bytes that it must hold.

    Raises:
        CodecError: If it is damaged or declares another size; nothing is allocated then.
    """
    try:
        found = zstandard.get_frame_parameters(frame, _FORMAT)
        if found.content_size != size or found.window_size > max(size, _MIN_WINDOW) or found.dict_id:
            raise CodecError(f"zstd frame declares {found.content_size} bytes, expected {size}")
        if not hasattr(_local, "decompressor"):
            _local.decompressor = zstandard.ZstdDecompressor(format=_FORMAT)
        content: bytes = _local.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(f"zstd frame cannot be read: {error}") from error
    if len(content) != size:
        raise CodecError(f"zstd frame holds {len(content)} bytes, expected {size}")
    return content
