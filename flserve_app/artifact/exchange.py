"""Artifacts as files that other programs read: safetensors and npz.

Safetensors is 8 bytes of little-endian header length, a JSON header, and the tensors' bytes without a gap
(huggingface/safetensors, "Format"). It is written and read here, because the package's own functions changed
between its releases and the format did not. Wider items come first, so that every tensor is aligned in the
file; the artifact's order and digest travel in the metadata, and the digest is verified on the way back.

An npz is a zip of npy files. numpy has no bfloat16: its bits go as uint16, and the member `flserve.json` names
the logical dtypes. Nothing is ever unpickled, and no size a file claims is believed before it was checked.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from flserve_app.artifact.artifact import Artifact, byte_view
from flserve_app.artifact.dtypes import dtype_named
from flserve_app.artifact.manifest import MAX_TENSORS, TensorSpec
from flserve_app.artifact.npy_header import read_npy_header
from flserve_app.errors import ArtifactError, DigestMismatch
from flserve_app.text import plain

DEFAULT_MAX_BYTES = 8 << 30
_MAX_HEADER_BYTES = 100_000_000
_METADATA = "__metadata__"
_ORDER, _DIGEST = "flserve.order", "flserve.digest"
_DTYPES_MEMBER = "flserve.json"

_SAFETENSORS = MappingProxyType(
    {
        "float64": "F64",
        "float32": "F32",
        "float16": "F16",
        "bfloat16": "BF16",
        "int8": "I8",
        "int16": "I16",
        "int32": "I32",
        "int64": "I64",
        "uint8": "U8",
        "uint16": "U16",
        "uint32": "U32",
        "uint64": "U64",
        "bool": "BOOL",
        "complex64": "C64",
    }
)
_LOGICAL = MappingProxyType({code: name for name, code in _SAFETENSORS.items()})


def to_safetensors(artifact: Artifact) -> bytes:
    """Return an artifact as the content of a safetensors file.

    Raises:
        ArtifactError: If a tensor's dtype or name cannot be in one.
    """
    header: dict[str, Any] = {_METADATA: {"format": "pt", _DIGEST: artifact.digest, _ORDER: json.dumps(list(artifact))}}
    body: list[memoryview] = []
    start = 0
    for spec in sorted(artifact.specs.values(), key=lambda spec: -dtype_named(spec.dtype).storage.itemsize):
        if spec.dtype not in _SAFETENSORS or spec.name == _METADATA:
            raise ArtifactError(f"tensor {spec.name!r} of {spec.dtype} cannot be in a safetensors file")
        offsets = [start, start + spec.nbytes]
        header[spec.name] = {"dtype": _SAFETENSORS[spec.dtype], "shape": list(spec.shape), "data_offsets": offsets}
        body.append(byte_view(artifact[spec.name]))
        start += spec.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *body])


def from_safetensors(data: bytes) -> Artifact:
    """Return the artifact in the content of a safetensors file; large tensors are views of it.

    Raises:
        ArtifactError: If it is not one, or holds what cannot be in an artifact.
        DigestMismatch: If it was written here and is no longer what it was.
    """
    header, start = _header(data)
    metadata = header.pop(_METADATA, {})
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    _check_tiling((offsets for _, offsets in entries.values()), len(data) - start)
    tensors = {}
    for name in _order(metadata, entries):
        spec, (begin, _) = entries[name]
        tensors[name] = _view(data, spec, start + begin)
    artifact = Artifact(tensors, dtypes={name: entries[name][0].dtype for name in tensors})
    if (expected := metadata.get(_DIGEST, artifact.digest)) != artifact.digest:
        raise DigestMismatch(f"the safetensors file says it holds {expected}, found {artifact.digest}")
    return artifact


def to_npz(artifact: Artifact) -> bytes:
    """Return an artifact as the content of an uncompressed npz file.

    Raises:
        ArtifactError: If a tensor's name cannot be in a zip file.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in artifact.items():
            if "\0" in name:
                raise ArtifactError(f"tensor name {name!r} has a NUL and cannot be in an npz file")
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        if hidden := {name: spec.dtype for name, spec in artifact.specs.items() if spec.dtype == "bfloat16"}:
            archive.writestr(zipfile.ZipInfo(_DTYPES_MEMBER), json.dumps({"dtypes": hidden}))
    return content.getvalue()


def from_npz(data: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Artifact:
    """Return the artifact in the content of an npz file.

    Args:
        data: The file's content.
        max_bytes: What its members may unpack to together.

    Raises:
        ArtifactError: If it is not one, is too large, or holds what cannot be in an artifact.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _members(archive, max_bytes)
        text = members.pop(_DTYPES_MEMBER, b'{"dtypes": {}}')
        tensors = {name.removesuffix(".npy"): _npy(name, member) for name, member in members.items()}
        dtypes = json.loads(text)["dtypes"]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RecursionError) as error:
        raise ArtifactError(f"not a readable npz file: {error}") from error
    except (ValueError, KeyError, TypeError, RuntimeError, struct.error) as error:
        raise ArtifactError(f"not a readable npz file: {error}") from error
    if not isinstance(dtypes, dict) or not all(isinstance(dtype, str) for dtype in dtypes.values()):
        raise ArtifactError(f"not a readable npz file: {_DTYPES_MEMBER} does not map names to dtypes")
    return Artifact(tensors, dtypes=dtypes)


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file, and where the tensors' bytes start."""
    length = struct.unpack_from("<Q", data)[0] if len(data) >= 8 else None
    if length is None or length > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise ArtifactError(f"not a safetensors file: {len(data)} bytes, its header claims {length}")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"not a safetensors file: its header is not JSON ({error})") from error
    if not isinstance(header, dict) or not isinstance(header.get(_METADATA, {}), dict):
        raise ArtifactError("not a safetensors file: its header is not an object of objects")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _entry(name: str, entry: Any) -> tuple[TensorSpec, tuple[int, int]]:
    match entry:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            if code in _LOGICAL and all(type(dim) is int for dim in shape):
                spec = TensorSpec(name, _LOGICAL[code], tuple(shape))
                if end - begin == spec.nbytes:
                    return spec, (begin, end)
    raise ArtifactError(f"tensor {name!r}: its safetensors entry does not hold together: {str(entry)[:120]}")


def _check_tiling(ranges: Iterable[tuple[int, int]], size: int) -> None:
    """Check that the tensors cover the file's bytes once, without a gap."""
    position = 0
    for begin, end in sorted(ranges):
        if begin != position:
            raise ArtifactError(f"safetensors file: a tensor starts at {begin}, expected {position}")
        position = end
    if position != size:
        raise ArtifactError(f"safetensors file: its tensors take {position} bytes, found {size}")


def _order(metadata: Mapping[str, Any], entries: Mapping[str, Any]) -> list[str]:
    """Return the names in the order they had when the file was written here, else in the file's."""
    try:
        order = json.loads(metadata.get(_ORDER, "null"))
    except (ValueError, TypeError, RecursionError):
        order = None
    plain = isinstance(order, list) and all(isinstance(name, str) for name in order)
    return order if plain and sorted(order) == sorted(entries) else list(entries)


def _view(data: bytes, spec: TensorSpec, offset: int) -> np.ndarray[Any, np.dtype[Any]]:
    storage = dtype_named(spec.dtype).storage
    try:
        array = (np.frombuffer(data, storage, spec.size, offset) if spec.size else np.empty(0, storage)).reshape(
            spec.shape
        )
    except ValueError as error:  # an empty shape may have a dimension that numpy cannot count
        raise ArtifactError(f"tensor {spec.name!r}: shape {spec.shape} cannot be an array: {error}") from error
    return array if array.flags.aligned else array.copy()


def _members(archive: zipfile.ZipFile, max_bytes: int) -> dict[str, bytes]:
    infos = archive.infolist()
    if len(infos) > MAX_TENSORS + 1:
        raise ArtifactError(f"npz file: {len(infos)} members, at most {MAX_TENSORS} tensors are allowed")
    if (total := sum(info.file_size for info in infos)) > max_bytes:
        raise ArtifactError(f"npz file: its members take {total} bytes, at most {max_bytes} are allowed")
    if len({info.filename for info in infos}) != len(infos):
        raise ArtifactError("npz file: a name stands twice")
    if strange := [name for info in infos if not (name := info.filename).endswith(".npy") and name != _DTYPES_MEMBER]:
        raise ArtifactError(f"npz file: member {strange[0]!r} is not an array")
    return {info.filename: archive.read(info) for info in infos}


def _npy(name: str, member: bytes) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the array in the content of a npy file; only plain numbers."""
    if member[6:7] == b"\3":
        raise ArtifactError(f"tensor {plain(name)!r}: npy version 3 is not known")
    try:
        header = read_npy_header(member)
    except ArtifactError as error:
        what = f"tensor {plain(name)!r} does not fit its {len(member)} bytes"
        raise ArtifactError(f"not a readable npz file: {what}: {error}") from error
    size, dtype, shape = math.prod(header.shape), header.dtype, header.shape
    if dtype.kind not in "biufc" or header.offset + size * dtype.itemsize != len(member):
        raise ArtifactError(f"tensor {plain(name)!r}: {dtype} of shape {shape} does not fit its {len(member)} bytes")
    array = np.frombuffer(member, dtype, offset=header.offset) if size else np.empty(0, dtype)
    return array.reshape(shape, order="F" if header.fortran else "C")
