"""What a payload says about itself, without its base and without decompressing anything."""

from __future__ import annotations

from dataclasses import dataclass

from flserve_app.codec.codecs import CODECS
from flserve_app.codec.container import VERSION, read_header, read_records, unseal
from flserve_app.codec.ops import NAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """How one tensor travels.

    Attributes:
        name: Its name; None if the payload leaves names to the base.
        op: Name of the op (`same`, `raw`, ...).
        nbytes: Bytes it takes in the payload.
    """

    name: str | None
    op: str
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadInfo:
    """What a payload says about itself.

    Attributes:
        format_version: Version of the payload format.
        codec: Name of the codec that made it, or its number if this release does not know it.
        base: Hex digest of the base it needs, or None.
        target: Hex digest of the artifact it leads to.
        declared_bytes: Bytes of all tensors of that artifact.
        tensors: One entry a tensor, in order.
    """

    format_version: int
    codec: str
    base: str | None
    target: str
    declared_bytes: int
    tensors: tuple[TensorInfo, ...]


def inspect(payload: bytes | memoryview) -> PayloadInfo:
    """Return what a payload says about itself; it is checked for damage, its contents are not read.

    Raises:
        CodecError: If it is damaged or not as the format says.
    """
    reader = unseal(memoryview(payload).cast("B"))
    header = read_header(reader)
    names = {codec.number: codec.name for codec in CODECS.values()}
    named = [spec.name for spec in header.specs] if header.specs is not None else [None] * header.count
    records = read_records(reader, header.count)
    return PayloadInfo(
        format_version=VERSION,
        codec=names.get(header.codec, str(header.codec)),
        base=header.base,
        target=header.target,
        declared_bytes=header.nbytes,
        tensors=tuple(
            TensorInfo(name=name, op=NAMES[record.op], nbytes=record.size)
            for name, record in zip(named, records, strict=True)
        ),
    )
