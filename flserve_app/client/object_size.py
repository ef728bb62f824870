"""Bytes of what Flower carries: its objects, each once.

Flower deflates whatever it sends into a tree of objects (message, record dict, records, arrays, chunks), each a
header with its kind, its children's ids and its length, a zero byte, and a body. Objects are named by their content:
what stands twice is sent once. So tensors that are the same (tied weights) cost a name more and no data.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as CHUNK_BYTES

from flserve_app.client.tensor_array import stream_of

ID_LENGTH = 64  # a hex SHA-256
NO_TIES: Mapping[str, str] = MappingProxyType({})
NOTHING: Mapping[str, int] = MappingProxyType({})
_GLIMPSE = 64  # bytes of a chunk, spread over it, by which nearly all chunks that differ are told apart

_STAND_IN = ArrayRecord()

Parts = tuple[memoryview, ...]


def object_bytes(item: Any) -> int:
    """Return the bytes of all distinct objects of anything that Flower deflates; it serialises and hashes them all."""
    sizes: dict[str, int] = {}
    _add(item, sizes)
    return sum(sizes.values())


def carried_bytes(content: RecordDict, known: Mapping[str, int] = NOTHING) -> int:
    """Return the bytes of the distinct objects of a message's content; no array is serialised for it.

    Args:
        content: Records by name; what two of them share is counted for both.
        known: Bytes of some of its records of arrays.
    """
    others = RecordDict({key: _STAND_IN if isinstance(value, ArrayRecord) else value for key, value in content.items()})
    arrays = content.array_records
    nbytes = sum(known[key] if key in known else record_bytes(record) for key, record in arrays.items())
    # Ids have one length, so a small record in place of all makes what names them as large as it is.
    missing = ID_LENGTH + 1
    return object_bytes(others) + nbytes + (missing * (len(arrays) - 1) - object_bytes(_STAND_IN) if arrays else 0)


def is_larger(encoded: RecordDict, plain: RecordDict) -> bool:
    """Return whether a content takes more bytes with its arrays encoded than as they are."""
    return carried_bytes(encoded) > carried_bytes(plain)


def record_bytes(record: ArrayRecord, ties: Mapping[str, str] = NO_TIES) -> int:
    """Return the bytes of all distinct objects of a record of arrays; nothing is serialised for it.

    Args:
        record: Arrays by name.
        ties: Of arrays that are known to be the same as another one, that one's name: they need not be hashed.
    """
    arrays = {name: array for name, array in record.items() if name not in ties}
    distinct = _distinct(list(arrays.values()))
    ids = ",".join("0" * ID_LENGTH for _ in distinct)
    body = json.dumps(dict.fromkeys(record, "0" * ID_LENGTH))
    return len(f"ArrayRecord {ids} {len(body)}") + 1 + len(body) + sum(distinct)


def array_bytes(array: Array) -> int:
    """Return the bytes of an Array and its distinct chunks."""
    return sum(_distinct([array]))


def chunk_bytes(length: int) -> int:
    """Return the bytes of a chunk of so many bytes of data."""
    return len(f"ArrayChunk  {length}") + 1 + length


def _distinct(arrays: list[Array]) -> list[int]:
    """Return the bytes of each distinct array, chunks that no earlier one has included."""
    chunked = [_chunks(array) for array in arrays]
    places: dict[tuple[object, ...], int] = {}
    named = iter([places.setdefault(name, len(places)) for name in _names([each for one in chunked for each in one])])
    counted: set[int] = set()
    found: dict[tuple[object, ...], int] = {}
    for array, chunks in zip(arrays, chunked, strict=True):
        at = [next(named) for _ in chunks]
        form = (array.dtype, tuple(array.shape), array.stype, *at)
        if form in found:
            continue
        sizes = dict(zip(at, (sum(map(len, chunk)) for chunk in chunks), strict=True))
        found[form] = _head_bytes(array, at) + sum(chunk_bytes(sizes[place]) for place in sizes if place not in counted)
        counted.update(at)
    return list(found.values())


def _head_bytes(array: Array, places: list[int]) -> int:
    """Return the bytes of an Array's own object; its chunks stand at these places."""
    order = {place: number for number, place in enumerate(dict.fromkeys(places))}
    at = [order[place] for place in places]
    body = json.dumps({"dtype": array.dtype, "shape": array.shape, "stype": array.stype, "arraychunk_ids": at})
    ids = ",".join("0" * ID_LENGTH for _ in order)
    return len(f"Array {ids} {len(body)}") + 1 + len(body)


def _chunks(array: Array) -> list[Parts]:
    """Return the chunks of an Array's stream, each in parts."""
    head, data = stream_of(array)
    found: list[Parts] = []
    for start in range(0, len(head) + len(data), CHUNK_BYTES):
        stop = start + CHUNK_BYTES
        of_head = head[start:stop]
        of_data = data[max(0, start - len(head)) : max(0, stop - len(head))]
        found.append((of_head, of_data))
    return found


def _names(chunks: list[Parts]) -> list[tuple[object, ...]]:
    """Return what tells chunks apart: length and a glimpse, and for those that share these the digest.

    Honest chunks are hardly ever hashed, which would take as long as verifying them, a message; those of somebody
    who makes them look alike are hashed once each, and never compared in pairs.
    """
    glimpses = [_glimpse(chunk) for chunk in chunks]
    alike = Counter(glimpses)
    return [
        glimpse if alike[glimpse] == 1 else (glimpse[0], _digest(chunk))
        for glimpse, chunk in zip(glimpses, chunks, strict=True)
    ]


def _glimpse(chunk: Parts) -> tuple[object, ...]:
    seen = (bytes(part[:: max(1, len(part) // _GLIMPSE)]) for part in chunk)
    return sum(map(len, chunk)), *seen


def _digest(chunk: Parts) -> bytes:
    found = hashlib.sha256()
    for part in chunk:
        found.update(part)
    return found.digest()


def _add(item: Any, sizes: dict[str, int]) -> None:
    for child in (item.children or {}).values():
        _add(child, sizes)
    sizes[item.object_id] = _size(item)


def _size(item: Any) -> int:
    if type(item).__qualname__ == "ArrayChunk":  # its body is its data; deflating would copy it
        return chunk_bytes(len(item.data))
    return len(item.deflate())
