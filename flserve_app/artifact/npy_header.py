"""The header of an .npy stream, read by a grammar of our own.

numpy reads a header as a Python literal: a few thousand signs or brackets from a stranger exhaust the parser's memory
or stack, and what comes out may be of any type. Here a header is what all writers write and nothing else:

    stream  = magic version length header data       versions 1.0 (length of 2 bytes), 2.0 and 3.0 (of 4)
    header  = "{" entry {"," entry} [","] "}"         each of descr, fortran_order and shape once, in any order
    descr   = quoted byte order, kind and size        a plain type; lists (structures) and objects are refused
    shape   = "(" [number {"," number}] [","] ")"     decimal digits; at most `MAX_RANK` of them

Only ASCII, at most `LONGEST` characters, white space wherever Python allows it in a literal of one line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from flserve_app.artifact.manifest import MAX_RANK
from flserve_app.errors import ArtifactError
from flserve_app.text import plain

LONGEST = 4096
_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
# Text has a type too: who reads it says that it is none of the model's, which tells more than that it is malformed.
_PLAIN = re.compile(r"[<>|=]?(?:[biufc][0-9]{1,2}|[SU][0-9]{1,4})")
_ENTRY = re.compile(
    r"\s*(?P<quote>['\"])(?P<key>descr|fortran_order|shape)(?P=quote)\s*:\s*"
    r"(?:(?P<mark>['\"])(?P<text>[^'\"\\]{1,16})(?P=mark)|(?P<flag>True|False)|\((?P<dims>[0-9,L\s]*)\))\s*"
)
_DIM = re.compile(r"\s*([0-9]{1,19})L?\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class NpyHeader:
    """What stands before the data of an .npy stream.

    Attributes:
        dtype: Of any byte order; never an object or a structure.
        shape: Dimensions; `()` for a scalar.
        fortran: Whether the data goes by columns.
        offset: Where the data begins.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int


def read_npy_header(stream: bytes) -> NpyHeader:
    """Return the header of an .npy stream.

    Raises:
        ArtifactError: If it is not one by the grammar of this module.
    """
    size = _LENGTH_BYTES.get((stream[6], stream[7])) if stream[:6] == _MAGIC and len(stream) > len(_MAGIC) + 1 else None
    if size is None:
        raise ArtifactError(f"begins with {stream[:8]!r}, expected the magic of .npy version 1.0, 2.0 or 3.0")
    start = 8 + size
    length = int.from_bytes(stream[8:start], "little")
    if length > LONGEST or start + length > len(stream):
        raise ArtifactError(f"its header claims {length} bytes, expected at most {LONGEST} that are there")
    header = stream[start : start + length]
    if not header.isascii():
        raise ArtifactError("its header is not ASCII")
    entries = _entries(header.decode("ascii").strip())
    return NpyHeader(
        dtype=_dtype(entries["descr"]),
        shape=_shape(entries["shape"]),
        fortran=entries["fortran_order"] == "True",
        offset=start + length,
    )


def _entries(text: str) -> dict[str, str]:
    """Return the three values by name, as they are written."""
    if text[:1] != "{" or text[-1:] != "}":
        raise ArtifactError(f"its header is {plain(text, 60)!r}, expected a dictionary")
    found: dict[str, str] = {}
    at, end = 1, len(text) - 1
    while at < end:
        entry = _ENTRY.match(text, at, end)
        if entry is None or entry["key"] in found or (entry.end() < end and text[entry.end()] != ","):
            raise ArtifactError(f"its header is malformed at {plain(text[at : at + 40])!r}")
        value = entry[{"descr": "text", "fortran_order": "flag", "shape": "dims"}[entry["key"]]]
        if value is None:
            raise ArtifactError(f"its header's {entry['key']} is malformed: {plain(entry[0], 60)!r}")
        found[entry["key"]] = value
        at = entry.end() + 1
        if not text[at:end].strip():
            break
    if len(found) != len(("descr", "fortran_order", "shape")):
        raise ArtifactError(f"its header has {', '.join(sorted(found)) or 'nothing'}, expected descr, order and shape")
    return found


def _dtype(text: str) -> np.dtype[Any]:
    if text.lstrip("<>|=")[:1] == "O":
        raise ArtifactError("object arrays are not allowed")
    if not _PLAIN.fullmatch(text):
        raise ArtifactError(f"its type {plain(text)!r} is no plain one")
    try:
        return np.dtype(text)
    except TypeError as error:
        raise ArtifactError(f"its type {plain(text)!r} does not exist") from error


def _shape(text: str) -> tuple[int, ...]:
    if not text.strip():
        return ()
    if "," not in text:
        raise ArtifactError(f"its shape ({plain(text, 40)}) is a number, expected a tuple")
    parts = text.split(",")
    if not parts[-1].strip():
        parts.pop()
    dims = [_DIM.fullmatch(part) for part in parts]
    if len(dims) > MAX_RANK or not all(dims):
        raise ArtifactError(f"its shape ({plain(text, 60)}) is not that of at most {MAX_RANK} dimensions")
    return tuple(int(dim[1]) for dim in dims if dim is not None)
