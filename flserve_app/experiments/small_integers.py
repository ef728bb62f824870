"""How the peers write down small integers: in a fixed width, or by an entropy coder where that is shorter.

The coder is pcodec, which adapts to their frequencies. QSGD proposes Elias' codes (Elias, IEEE Trans. Inf. Theory 21,
1975), one code for all distributions with whole bits a value: these are longer. A byte says which way was taken. The
number of integers is not written, as the receiver knows the model. Nothing is checked while it is read: these bytes
never leave the process that made them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, standalone

_FIXED, _BINS = range(2)
_CONFIG = ChunkConfig(compression_level=8, mode_spec=ModeSpec.classic(), delta_spec=DeltaSpec.no_op())

Codes = npt.NDArray[np.uint16]


def packed(codes: Codes) -> bytes:
    """Return the shortest bytes of codes (n,)."""
    coded = bytes(standalone.simple_compress(codes, _CONFIG))
    fixed = _fixed(codes)
    return bytes((_BINS,)) + coded if len(coded) < len(fixed) else bytes((_FIXED,)) + fixed


def unpacked(data: bytes, count: int) -> Codes:
    """Return so many codes from the bytes that `packed` gave."""
    if data[0] == _FIXED:
        return _read_fixed(data[1:], count)
    codes = np.empty(count, np.uint16)
    standalone.simple_decompress_into(data[1:], codes)
    return codes


def zigzag(steps: npt.NDArray[np.int64]) -> Codes:
    """Return signed steps (n,) as codes: 0, -1, 1, -2, 2 become 0, 1, 2, 3, 4."""
    return ((steps << 1) ^ (steps >> 63)).astype(np.uint16)


def unzigzag(codes: Codes) -> npt.NDArray[np.int64]:
    """Return the signed steps (n,) of codes."""
    wide = codes.astype(np.int64)
    return (wide >> 1) ^ -(wide & 1)


def _fixed(codes: Codes) -> bytes:
    width = int(codes.max(initial=0)).bit_length()
    bits = codes[:, None] >> np.arange(width, dtype=np.uint16) & 1
    return bytes((width,)) + np.packbits(bits.astype(bool).ravel()).tobytes()


def _read_fixed(body: bytes, count: int) -> Codes:
    width = body[0]
    bits = np.unpackbits(np.frombuffer(body, np.uint8, offset=1), count=count * width).reshape(count, width)
    codes: Codes = (bits.astype(np.uint16) << np.arange(width, dtype=np.uint16)).sum(axis=1, dtype=np.uint16)
    return codes
