"""The element types an artifact may hold.

A dtype has a *logical* name, which the manifest records, and a *storage* dtype, the little-endian numpy
dtype that holds its bits. They differ for bfloat16 alone, which numpy does not have: its bits are held as
uint16. `word` is the unsigned integer type of one scalar: codecs work on words, never on floats, because
float arithmetic loses NaN payloads and the sign of zero. A complex number is two words.

Codes are part of the payload format: they may be added to, never changed or used again.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from flserve_app.errors import ArtifactError

Kind = Literal["float", "int", "uint", "bool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DType:
    """One element type.

    Attributes:
        name: Logical name, as in a manifest (`float32`, `bfloat16`).
        code: Number that stands for it in a payload header.
        storage: Little-endian numpy dtype that holds the bits.
        word: Little-endian unsigned numpy dtype of one scalar's bits.
        kind: How a word is to be read: `float` (sign and magnitude), `int` (two's complement), `uint`, `bool`.
        exponent_shift: For floats, the number of mantissa bits (the exponent starts there); 0 otherwise.
        words_per_item: 2 for complex numbers, 1 for all others.
    """

    name: str
    code: int
    storage: np.dtype[Any]
    word: np.dtype[Any]
    kind: Kind
    exponent_shift: int = 0
    words_per_item: int = 1


def _dtype(name: str, code: int, storage: str, word: str, kind: Kind, shift: int = 0, words: int = 1) -> DType:
    return DType(
        name=name,
        code=code,
        storage=np.dtype(storage),
        word=np.dtype(word),
        kind=kind,
        exponent_shift=shift,
        words_per_item=words,
    )


_ALL = (
    _dtype("float32", 1, "<f4", "<u4", "float", 23),
    _dtype("float64", 2, "<f8", "<u8", "float", 52),
    _dtype("float16", 3, "<f2", "<u2", "float", 10),
    _dtype("bfloat16", 4, "<u2", "<u2", "float", 7),
    _dtype("int8", 5, "|i1", "|u1", "int"),
    _dtype("int16", 6, "<i2", "<u2", "int"),
    _dtype("int32", 7, "<i4", "<u4", "int"),
    _dtype("int64", 8, "<i8", "<u8", "int"),
    _dtype("uint8", 9, "|u1", "|u1", "uint"),
    _dtype("uint16", 10, "<u2", "<u2", "uint"),
    _dtype("uint32", 11, "<u4", "<u4", "uint"),
    _dtype("uint64", 12, "<u8", "<u8", "uint"),
    _dtype("bool", 13, "|b1", "|u1", "bool"),
    _dtype("complex64", 14, "<c8", "<u4", "float", 23, 2),
    _dtype("complex128", 15, "<c16", "<u8", "float", 52, 2),
)

DTYPES = MappingProxyType({dtype.name: dtype for dtype in _ALL})
DTYPES_BY_CODE = MappingProxyType({dtype.code: dtype for dtype in _ALL})


def dtype_named(name: str) -> DType:
    """Return the dtype with a logical name.

    Raises:
        ArtifactError: If no artifact may hold it.
    """
    try:
        return DTYPES[name]
    except KeyError:
        raise ArtifactError(f"dtype {name!r} cannot be in an artifact; allowed: {', '.join(DTYPES)}") from None
