"""The private part of a model as one client has it: its layout and its values.

It has one form, in which the server sends the initial values, the client keeps its own, and the store keeps how
they began: SHA-256 of a head, 4 bytes of the head's length, the head (JSON: the layout, and the digest of the
values), and a full payload of the values. Without a payload it is the layout alone. Nothing that is read is trusted:
head and values are checked by digest, and no more is decoded than the layout says there is.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from flserve_app.artifact import Artifact, TensorSpec, bfloat16, dtype_named
from flserve_app.client.layout import Layout, parse_layout
from flserve_app.client.records import read_array, record_of
from flserve_app.codec import DEFAULT_MAX_BYTES, decode, encode_parts
from flserve_app.errors import ArtifactError, DeliveryError, FlserveError

_LENGTH = struct.Struct("<I")
_SUM_BYTES = 32
_HEAD_AT = _SUM_BYTES + _LENGTH.size
_MOST_HEAD = 8 << 20

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Private:
    """A model's private part.

    Attributes:
        layout: Which tensors it has.
        values: Their values.
    """

    layout: Layout
    values: Artifact

    def whole(self, shared: Artifact) -> Artifact:
        """Return the whole model with these private values."""
        return self.layout.whole(shared, self.values)

    def to_bytes(self) -> list[bytes | memoryview]:
        """Return it in parts, which are the tensors' own memory where they can be.

        Nothing in it is tied: what private tensors begin with is sent to clients of every release.
        """
        return [*_head(self.layout, self.values.digest), *encode_parts(self.values, None, "full", ties=False)]

    def trained(self, arrays: Mapping[str, Array]) -> Private:
        """Return it with the values that an app's handler returned, in the layout's dtypes; others stay as they were.

        Raises:
            ArtifactError: If an array is malformed.
            DeliveryError: If it has another shape, or values that the dtype cannot hold.
        """
        tensors: dict[str, NDArray] = dict(self.values)
        for spec in self.layout.specs:
            if spec.name in arrays:
                tensors[spec.name] = _as(spec, read_array(spec.name, arrays[spec.name]))
        # Copied: a reply's memory may be the app's own, and the values outlive it.
        values = Artifact(tensors, dtypes={spec.name: spec.dtype for spec in self.layout.specs})
        return Private(layout=self.layout, values=values)


def layout_bytes(layout: Layout) -> list[bytes | memoryview]:
    """Return the form of a layout without values."""
    return _head(layout, "")


def read_layout(data: bytes | memoryview) -> Layout:
    """Return the layout in `Private.to_bytes` or `layout_bytes`.

    Raises:
        DeliveryError: If it does not verify.
    """
    return _parse(memoryview(data))[0]


def read_private(data: bytes | memoryview) -> tuple[Layout, Private | None]:
    """Return the layout, and the private part if there are values.

    Raises:
        DeliveryError: If it does not verify.
        FlserveError: If the values cannot be decoded.
    """
    layout, digest, end = _parse(memoryview(data))
    if not digest:
        return layout, None
    values = decode(memoryview(data)[end:], max_bytes=min(layout.nbytes, DEFAULT_MAX_BYTES))
    if values.digest != digest or tuple(values.specs.values()) != layout.specs:
        raise DeliveryError("private tensors: the values are not those that the head names")
    return layout, Private(layout=layout, values=values)


def kept_private(data: bytes | memoryview | None, key: str) -> Private | None:
    """Return what a client kept; None if that is nothing, does not verify, or belongs to another layout or history."""
    if data is None:
        return None
    try:
        layout = read_layout(data)
        return read_private(data)[1] if layout.key == key else None
    except FlserveError:
        return None


def kept_key(data: bytes | memoryview | None) -> str:
    """Return the key of the layout of what a client kept; empty if that is nothing or does not verify."""
    try:
        return "" if data is None else read_layout(data).key
    except DeliveryError:
        return ""


def withhold(content: RecordDict, private: Private, key: str) -> Private:
    """Take the private tensors out of all ArrayRecords of a reply; return the private part with the new values.

    Args:
        content: The reply's content; it is changed.
        private: What the handler was given.
        key: Key under which the handler was given the model: the new values come from there, or from the only record.

    Raises:
        ArtifactError: As `Private.trained`.
        DeliveryError: As `Private.trained`.
    """
    names = frozenset(private.layout.names)
    records = dict(content.array_records)
    for at, record in records.items():
        if names & set(record):
            content[at] = record_of({name: array for name, array in record.items() if name not in names})
    found = records.get(key, next(iter(records.values()), ArrayRecord()) if len(records) == 1 else ArrayRecord())
    return private.trained(found) if names & set(found) else private


def _head(layout: Layout, digest: str) -> list[bytes | memoryview]:
    head = json.dumps({"layout": layout.to_json(), "values": digest}).encode()
    return [hashlib.sha256(head).digest(), _LENGTH.pack(len(head)), head]


def _parse(data: memoryview) -> tuple[Layout, str, int]:
    """Return the layout, the digest of the values (empty without any), and where the head ends."""
    try:
        (length,) = _LENGTH.unpack_from(data, _SUM_BYTES)
        text = bytes(data[_HEAD_AT : _HEAD_AT + min(length, _MOST_HEAD)])
        if len(text) != length or hashlib.sha256(text).digest() != data[:_SUM_BYTES]:
            raise DeliveryError("private tensors: the head is cut short, or not what its digest says")
        head: Any = json.loads(text)
        return parse_layout(head["layout"]), str(head["values"]), _HEAD_AT + length
    except (struct.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DeliveryError("private tensors: the head is malformed") from error


def _as(spec: TensorSpec, values: NDArray) -> NDArray:
    """Return values in a tensor's storage dtype: floats are rounded to it, whole numbers have to stay what they are."""
    if values.shape != spec.shape:
        raise DeliveryError(f"private tensor {spec.name!r} came back with shape {values.shape}, expected {spec.shape}")
    storage = dtype_named(spec.dtype).storage
    if spec.dtype != "bfloat16" and values.dtype == storage:
        return values
    if values.dtype.kind not in "biuf":
        raise ArtifactError(f"private tensor {spec.name!r} came back as {values.dtype}, expected {spec.dtype}")
    if spec.dtype == "bfloat16":
        return bfloat16.narrow(np.asarray(values, dtype=np.float32))
    with np.errstate(over="ignore", invalid="ignore"):
        held = values.astype(storage)
    if dtype_named(spec.dtype).kind != "float" and not np.array_equal(held, values):
        raise DeliveryError(f"private tensor {spec.name!r} came back with values that {spec.dtype} cannot hold")
    return held
