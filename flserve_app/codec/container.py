"""The payload format, version 1. This text is the specification.

A payload takes a holder of a base artifact (or of nothing) to a target artifact. All numbers are
little-endian; `varint` is unsigned LEB128 below 2**63 in its shortest form (`wire`). In order:

    magic          4 bytes    "FLSV"
    version        1 byte     1; a reader refuses others before it looks further
    flags          1 byte     1: made against a base; 2: has a structure section; other bits are 0
    codec          1 byte     number of the codec that made it (`codecs`); informative
    target digest  32 bytes   content digest of the target
    base digest    32 bytes   content digest of the base, if flag 1
    size           varint     bytes of all tensors of the target
    count          varint     number of tensors of the target, at most `MAX_TENSORS`
    structure      if flag 2: a tensor: name length varint, name (UTF-8), dtype code byte, rank varint, dims varints.
                   Without it the target's names, dtypes and shapes are the base's, in the same order; so
                   flag 1 or flag 2 is set.
    records        a tensor of the target, in order: op byte; for ops but `same` a content size varint and content
    checksum       4 bytes    over all before it (`wire.checksum`)

The content of `raw` is the tensor's bytes (C order, little-endian). The content of other ops (`ops`), but `tied`, is a
side size varint and side bytes; then the body sizes (varints) of all chunks but the last, whose body takes what is
left; then the bodies. The side bytes settle how many words a chunk has. A body as long as its chunk's bytes is
those bytes; else the op reads it, and an op that uses a base gives an empty body for a chunk equal to the
base's. Ops that use a base take the base's tensor of the same name, dtype and number of words, and `same`
of the same shape as well. An empty tensor is `raw` or `same`.

The content of `tied` is a varint: the place, counted from 0, of an earlier tensor of the target that has the same dtype
and shape, and is not tied itself. The tensor has that one's bytes; for `size` and the caller's bounds it counts in
full.

Residual ops. Words and residuals are defined in `words`; side bytes in `grouping`; what is sorted how in
`sorting`; byte planes and pcodec pages in `coders`; zstd frames in `frames`; chunks in `ops`.

`grid-delta`. Side bytes and the forms of a body are in `grid`; what a step does to a value in `floats`; bodies of few
changes in `sparse`, their places by row and column in `crossing` and `lines`, numbers as bits in `rice` and `fields`.

A reader trusts nothing. In this order it checks: magic, version, checksum; the declared size and count against the
caller's bounds; structure; the base's digest; the sizes of the structure against the declared size; that all bodies are
in their place and every chunk has one. Only then does it allocate the target: `size` bytes, of which the system maps
what is written. A decoder's other memory is a constant a thread, some times its chunk's own bytes (some dozen times
where half floats are patched nearly everywhere), and a byte a row of the scales.
Finally the reconstructed artifact must have the target digest. The checksum finds damage; against malice the
digest stands, which has to come from somewhere trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from flserve_app.artifact import DTYPES_BY_CODE, TensorSpec, check_specs, dtype_named
from flserve_app.artifact.manifest import MAX_NAME_BYTES, MAX_RANK, MAX_TENSOR_BYTES, MAX_TENSORS
from flserve_app.codec.ops import NAMES, OPS, SAME
from flserve_app.codec.wire import CHECKSUM_BYTES, Checksum, Reader, checksum, varint
from flserve_app.errors import ArtifactError, CodecError

MAGIC: Final = b"FLSV"
VERSION: Final = 1
_HAS_BASE = 1
_HAS_STRUCTURE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What stands before the records.

    Attributes:
        codec: Number of the codec.
        target: Hex digest of the target.
        base: Hex digest of the base, or None.
        nbytes: Bytes of all tensors of the target.
        count: Number of tensors of the target.
        specs: Names, dtypes and shapes of the target; None if they are the base's.
    """

    codec: int
    target: str
    base: str | None
    nbytes: int
    count: int
    specs: tuple[TensorSpec, ...] | None

    def write(self) -> bytes:
        """Return the bytes of the header."""
        flags = (_HAS_BASE if self.base else 0) | (_HAS_STRUCTURE if self.specs is not None else 0)
        parts = [MAGIC, bytes((VERSION, flags, self.codec)), bytes.fromhex(self.target), bytes.fromhex(self.base or "")]
        parts += [varint(self.nbytes), varint(self.count), *map(_write_spec, self.specs or ())]
        return b"".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """How one tensor travels.

    Attributes:
        op: Code of the op.
        content: Its content, not read yet; empty for `same`.
        size: Bytes of the whole record.
    """

    op: int
    content: memoryview
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The content of a record of a chunked op.

    Attributes:
        side: Side bytes.
        bodies: One body a chunk.
    """

    side: memoryview
    bodies: tuple[memoryview, ...]


def seal(header: Header, records: Iterable[Sequence[bytes | memoryview]]) -> Iterator[bytes | memoryview]:
    """Yield a payload of a header and records in parts; records are taken one by one."""
    running = Checksum()
    for part in chain([header.write()], chain.from_iterable(records)):
        running.update(part)
        yield part
    yield running.value()


def unseal(payload: memoryview) -> Reader:
    """Return a reader of the payload after version and before checksum, both checked.

    Raises:
        CodecError: If it is no payload, of another format version, or damaged.
    """
    if bytes(payload[: len(MAGIC)]) != MAGIC:
        raise CodecError(f"not a payload: begins with {bytes(payload[:4])!r}, expected {MAGIC!r}")
    # Before the checksum, which a newer format may place or compute otherwise.
    if payload[4:5] and payload[4] != VERSION:
        raise CodecError(f"payload has format version {payload[4]}, this release reads {VERSION}: update flserve")
    body, found = payload[:-CHECKSUM_BYTES], bytes(payload[-CHECKSUM_BYTES:])
    if len(body) < len(MAGIC) + 1 or checksum(body) != found:
        raise CodecError(f"payload of {len(payload)} bytes is damaged or cut off: its checksum does not match")
    reader = Reader(body)
    reader.take(len(MAGIC) + 1)
    return reader


def write_record(op: int, content: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return a record in parts."""
    if op == SAME:
        return [bytes((op,))]
    return [bytes((op,)) + varint(sum(map(len, content))), *content]


def write_content(side: bytes, bodies: Sequence[bytes]) -> list[bytes]:
    """Return the content of a chunked op in parts."""
    return [varint(len(side)), side, b"".join(varint(len(body)) for body in bodies[:-1]), *bodies]


def read_header(reader: Reader, *, max_bytes: int | None = None, max_tensors: int = MAX_TENSORS) -> Header:
    """Read the header, from the flags on.

    Args:
        reader: Stands at the flags.
        max_bytes: The most that the target may declare; None for any size.
        max_tensors: The most tensors that it may have.

    Raises:
        CodecError: If it is not as the format says, or declares more.
    """
    flags, codec = reader.byte(), reader.byte()
    if not 0 < flags <= _HAS_BASE | _HAS_STRUCTURE:
        raise CodecError(f"payload has flags {flags:#x}, expected 1, 2 or 3")
    target = reader.take(32).hex()
    base = reader.take(32).hex() if flags & _HAS_BASE else None
    nbytes, count = reader.varint(), reader.varint()
    if count > (most := min(max_tensors, MAX_TENSORS)):
        raise CodecError(f"payload has {count} tensors, at most {most} are allowed")
    if max_bytes is not None and nbytes > max_bytes:
        raise CodecError(f"payload declares {nbytes} bytes, at most {max_bytes} are accepted")
    specs = _read_specs(reader, count) if flags & _HAS_STRUCTURE else None
    return Header(codec=codec, target=target, base=base, nbytes=nbytes, count=count, specs=specs)


def read_records(reader: Reader, count: int) -> tuple[Record, ...]:
    """Read all records, without a look into their contents.

    Raises:
        CodecError: If an op is unknown or the payload does not end after the last.
    """
    records = tuple(_read_record(reader) for _ in range(count))
    reader.end()
    return records


def read_content(content: memoryview, op: int, spec: TensorSpec) -> Content:
    """Split the content of a chunked op.

    Raises:
        CodecError: If it does not have a body for every chunk of the tensor.
    """
    reader = Reader(content, f"tensor {spec.name!r}")
    side = reader.take(reader.varint())
    dtype = dtype_named(spec.dtype)
    chunks = -(-spec.size * dtype.words_per_item // OPS[op].chunk_words(side))
    # Before the loop below: a size is at least a byte, so more chunks than bytes cannot be.
    if not 0 < chunks <= reader.left + 1:
        raise CodecError(f"tensor {spec.name!r}: {chunks} chunks in {reader.left} bytes")
    sizes = [reader.varint() for _ in range(chunks - 1)]
    bodies = [reader.take(size) for size in sizes]
    bodies.append(reader.take(reader.left))
    if not OPS[op].uses_base and not all(map(len, bodies)):
        raise CodecError(f"tensor {spec.name!r}: a chunk without a body, which op {NAMES[op]} does not allow")
    return Content(side=side, bodies=tuple(bodies))


def _read_record(reader: Reader) -> Record:
    start, op = reader.position, reader.byte()
    if op not in NAMES:
        raise CodecError(f"payload uses op {op}, which this release does not know; known: {', '.join(NAMES.values())}")
    content = memoryview(b"") if op == SAME else reader.take(reader.varint())
    return Record(op=op, content=content, size=reader.position - start)


def _write_spec(spec: TensorSpec) -> bytes:
    name = spec.name.encode()
    dims = b"".join(map(varint, spec.shape))
    return varint(len(name)) + name + bytes((dtype_named(spec.dtype).code,)) + varint(len(spec.shape)) + dims


def _read_specs(reader: Reader, count: int) -> tuple[TensorSpec, ...]:
    try:
        specs = tuple(_read_spec(reader) for _ in range(count))
        check_specs(specs)
    except ArtifactError as error:
        raise CodecError(f"payload's structure is not allowed: {error}") from error
    return specs


def _read_spec(reader: Reader) -> TensorSpec:
    length = reader.varint()
    if length > MAX_NAME_BYTES:
        raise CodecError(f"payload has a tensor name of {length} bytes, at most {MAX_NAME_BYTES} are allowed")
    try:
        name = str(reader.take(length), "utf-8")
    except UnicodeDecodeError as error:
        raise CodecError("payload has a tensor name that is not UTF-8") from error
    code, rank = reader.byte(), reader.varint()
    if code not in DTYPES_BY_CODE or rank > MAX_RANK:
        raise CodecError(f"tensor {name!r}: dtype code {code} with rank {rank} is not allowed")
    shape = reader.varints(rank)
    # A zero dimension would hide the others from the bound on the size.
    if shape and max(shape) > MAX_TENSOR_BYTES:
        raise CodecError(f"tensor {name!r}: a dimension of {max(shape)} is not allowed")
    return TensorSpec(name, DTYPES_BY_CODE[code].name, shape)
