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
_PARAMETERS = zstandard.ZstdCompressionParameters.from_level(1, format=_FORMAT, write_content_size=1, write_checksum=0)
_MIN_WINDOW = 1 << 10
_local = threading.local()


def squeeze(data: bytes) -> bytes:
    """Return a zstd frame of the data, or the data themselves if that is not longer."""
    frame = compress(data)
    return frame if len(frame) < len(data) else data


def unsqueeze(body: memoryview, size: int) -> bytes:
    """Return the `size` bytes that were squeezed.

    Raises:
        CodecError: If there are not so many.
    """
    return bytes(body) if len(body) == size else decompress(body, size)


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
