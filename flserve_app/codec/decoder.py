"""From a payload to an artifact: verified and bounded, as `container` says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from flserve_app.artifact import Artifact, DType, TensorSpec, byte_view, dtype_named
from flserve_app.artifact.artifact import NDArray
from flserve_app.artifact.digest import FillingDigest
from flserve_app.artifact.manifest import MAX_TENSORS
from flserve_app.artifact.threads import each
from flserve_app.codec.container import Content, Header, Record, read_content, read_header, read_records, unseal
from flserve_app.codec.ops import NAMES, OPS, RAW, SAME, TIED, Layout
from flserve_app.codec.wire import Reader
from flserve_app.codec.words import Words, words_of
from flserve_app.errors import CodecError, DigestMismatch, WrongBase

DEFAULT_MAX_BYTES = 8 << 30
_RAW_WORDS = 1 << 18  # copied in pieces, over all cores


def decode(
    payload: bytes | memoryview,
    base: Artifact | None = None,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
    max_tensors: int = MAX_TENSORS,
) -> Artifact:
    """Return the artifact that a payload leads to, bit for bit.

    Args:
        payload: What `encode` gave.
        base: The artifact it was made against; not looked at if it needs none.
        max_bytes: Largest artifact to be accepted, in bytes of its tensors.
        max_tensors: The most tensors to be accepted: each costs time, even one without bytes.

    Raises:
        CodecError: If the payload is damaged, not as the format says, or too large.
        WrongBase: If it needs another base.
        DigestMismatch: If what it leads to is not what it says.
    """
    reader = unseal(memoryview(payload).cast("B"))
    header = read_header(reader, max_bytes=max_bytes, max_tensors=max_tensors)
    held = _held(header, base)
    specs = _specs(header, held)
    records = read_records(reader, len(specs))
    # All plans before any array: what a payload claims is allocated only if its bodies are there.
    plans: list[_Plan] = []
    for record, spec in zip(records, specs, strict=True):
        plans.append(_tied(record, spec, plans) if record.op == TIED else _plan(record, spec, held))
    artifact = _fill(plans, held)
    if artifact.digest != header.target:
        raise DigestMismatch(f"decoded artifact has digest {artifact.digest}, expected {header.target}")
    return artifact


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """What is to be done for one tensor, checked as far as it can be before it is allocated."""

    spec: TensorSpec
    record: Record
    content: Content | None
    base: NDArray | None
    first: str = ""  # of a tied tensor, the name of the one that it is the same as


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """One chunk to be unpacked: the words of a span."""

    layout: Layout | None
    body: memoryview
    base: Words | None
    span: slice
    out: Words
    digest: FillingDigest


def _held(header: Header, base: Artifact | None) -> Artifact | None:
    if header.base is None:
        return None
    if base is None:
        raise WrongBase(f"payload needs base {header.base}, none is at hand")
    if base.digest != header.base:
        raise WrongBase(f"payload needs base {header.base}, found {base.digest}")
    return base


def _specs(header: Header, base: Artifact | None) -> tuple[TensorSpec, ...]:
    specs = header.specs
    if specs is None:
        specs = tuple(base.specs.values()) if base is not None else ()
    nbytes = sum(spec.nbytes for spec in specs)
    if (nbytes, len(specs)) != (header.nbytes, header.count):
        declared = f"{header.nbytes} bytes in {header.count} tensors"
        raise CodecError(f"payload declares {declared}, its structure has {nbytes} in {len(specs)}")
    return specs


def _plan(record: Record, spec: TensorSpec, base: Artifact | None) -> _Plan:
    held = _held_tensor(record, spec, base)
    content = None
    if record.op == RAW and len(record.content) != spec.nbytes:
        raise CodecError(f"tensor {spec.name!r}: raw content has {len(record.content)} bytes, expected {spec.nbytes}")
    if record.op in OPS:
        content = read_content(record.content, record.op, spec)
    return _Plan(spec=spec, record=record, content=content, base=held)


def _tied(record: Record, spec: TensorSpec, before: Sequence[_Plan]) -> _Plan:
    """Return the plan of a tensor that is the same as an earlier one, which is looked at here and nowhere further."""
    reader = Reader(record.content, f"tensor {spec.name!r}")
    place = reader.varint()
    reader.end()
    if place >= len(before) or before[place].record.op == TIED:
        raise CodecError(f"tensor {spec.name!r}: tied to tensor {place}, expected an earlier one that is not tied")
    first = before[place].spec
    if (first.dtype, first.shape) != (spec.dtype, spec.shape):
        raise CodecError(
            f"tensor {spec.name!r}: {spec.dtype} {spec.shape} is tied to {first.name!r}, "
            f"which is {first.dtype} {first.shape}"
        )
    return _Plan(spec=spec, record=record, content=None, base=None, first=first.name)


def _held_tensor(record: Record, spec: TensorSpec, base: Artifact | None) -> NDArray | None:
    """Return the base's tensor if the op needs one."""
    if record.op == RAW or (record.op != SAME and not OPS[record.op].uses_base):
        return None
    found = base.specs.get(spec.name) if base is not None else None
    if found is None or base is None:
        raise CodecError(f"tensor {spec.name!r}: op {NAMES[record.op]} needs it in the base, where it is not")
    if (found.dtype, found.size) != (spec.dtype, spec.size) or (record.op == SAME and found.shape != spec.shape):
        raise CodecError(
            f"tensor {spec.name!r}: op {NAMES[record.op]} needs {spec.dtype} {spec.shape} in the base, "
            f"found {found.dtype} {found.shape}"
        )
    return base[spec.name]


def _fill(plans: Sequence[_Plan], base: Artifact | None) -> Artifact:
    """Allocate, unpack and hash all tensors; what is the same, or tied, is that very array, its digest known."""
    arrays: dict[str, NDArray] = {}
    changed = [plan for plan in plans if plan.record.op not in (SAME, TIED)]
    for plan in plans:
        shared = arrays[plan.first] if plan.first else plan.base if plan.record.op == SAME else None
        arrays[plan.spec.name] = _empty(plan.spec) if shared is None else shared
    filling = {plan.spec.name: FillingDigest(byte_view(arrays[plan.spec.name])) for plan in changed}
    jobs = (job for plan in changed for job in _jobs(plan, arrays[plan.spec.name], filling[plan.spec.name]))
    each(_unpack, jobs, sum(plan.spec.nbytes for plan in changed))
    for array in arrays.values():
        array.flags.writeable = False
    digests = {} if base is None else dict(zip(base, base.manifest.digests, strict=True))
    digests |= {name: digest.value() for name, digest in filling.items()}
    digests |= {plan.spec.name: digests[plan.first] for plan in plans if plan.first}
    dtypes = {plan.spec.name: plan.spec.dtype for plan in plans}
    return Artifact.hashed(arrays, [digests[name] for name in arrays], dtypes=dtypes)


def _empty(spec: TensorSpec) -> NDArray:
    try:
        return np.empty(spec.shape, dtype_named(spec.dtype).storage)
    except (ValueError, MemoryError) as error:
        raise CodecError(f"tensor {spec.name!r}: {spec.dtype} {spec.shape} cannot be allocated: {error}") from error


def _jobs(plan: _Plan, array: NDArray, digest: FillingDigest) -> Iterator[_Job]:
    dtype: DType = dtype_named(plan.spec.dtype)
    words = words_of(array, dtype)
    if plan.content is None:
        yield from _raw_jobs(plan.record.content, words, digest)
        return
    op = OPS[plan.record.op]
    layout = op.open(plan.content.side, dtype, words.size)
    base = words_of(plan.base, dtype) if plan.base is not None else None
    size = layout.chunk_words
    for index, body in enumerate(plan.content.bodies):
        span = slice(index * size, min((index + 1) * size, words.size))
        yield _Job(layout, body, base, span, words[span], digest)


def _raw_jobs(content: memoryview, words: Words, digest: FillingDigest) -> Iterator[_Job]:
    for start in range(0, words.size, _RAW_WORDS):
        span = slice(start, min(start + _RAW_WORDS, words.size))
        body = content[span.start * words.itemsize : span.stop * words.itemsize]
        yield _Job(None, body, None, span, words[span], digest)


def _unpack(job: _Job) -> None:
    if job.layout is None or len(job.body) == job.out.nbytes:
        job.out.view(np.uint8)[:] = np.frombuffer(job.body, np.uint8)
    else:
        job.layout.unpack(job.body, job.base, job.span, job.out)
    # At once, by this thread: hashing keeps no lock, and what another thread unpacks meanwhile meets none.
    job.digest.filled(job.span.start * job.out.itemsize, job.span.stop * job.out.itemsize)
