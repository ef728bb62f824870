"""From artifacts to a payload.

Each tensor takes the layout with the fewest bytes. Tensors up to a chunk try all layouts the codec offers;
larger ones try them on a sample first and then only what came close. Tensors are begun side by side, then the
chunks of the large ones are packed over all cores. The same artifacts give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from flserve_app.artifact import Artifact, TensorSpec, byte_view, dtype_named
from flserve_app.codec.codecs import Codec, Pair, codec_named
from flserve_app.codec.container import Header, seal, write_content, write_record
from flserve_app.codec.grouping import CHUNK_WORDS
from flserve_app.codec.ops import RAW, SAME, Layout
from flserve_app.codec.spread import spread
from flserve_app.codec.words import words_of

_SAMPLE_WORDS = 1 << 14
_SAMPLES = 4
_CLOSE = 1.1  # within 10 % of the best on the sample, which tells them apart to a few per cent

Parts = Sequence[bytes | memoryview]
Job = tuple[Layout, Pair, slice]


@dataclass(frozen=True, slots=True, eq=False)
class _Draft:
    """A tensor, and the layouts it is still to be packed in."""

    pair: Pair
    layouts: Sequence[Layout]


def encode(target: Artifact, base: Artifact | None = None, codec: str | Codec = "lossless") -> bytes:
    """Return a payload that takes a holder of `base` (or of nothing) to `target`.

    Args:
        target: What the receiver shall hold.
        base: What it holds; None makes a payload that needs nothing, as the codec `full` always does.
        codec: Name of a codec in `CODECS`, or a codec.

    Raises:
        CodecError: If there is no codec of that name.
    """
    chosen = codec_named(codec) if isinstance(codec, str) else codec
    # A payload that makes no use of the base must not name one: anybody may apply it.
    held = base if chosen.uses_base else None
    as_base = held is not None and list(held.specs.values()) == list(target.specs.values())
    header = Header(
        codec=chosen.number,
        target=target.digest,
        base=held.digest if held is not None else None,
        nbytes=target.nbytes,
        count=len(target),
        specs=None if as_base else tuple(target.specs.values()),
    )
    return seal(header, _records(target, held, chosen))


def _records(target: Artifact, base: Artifact | None, codec: Codec) -> Iterator[Parts]:
    """Yield one record a tensor, in order."""
    same = _unchanged(target, base)

    def begin(spec: TensorSpec) -> Parts | _Draft:
        if spec.name in same:
            return write_record(SAME, ())
        return _begin(_pair(target, base, spec), codec)

    begun = list(spread(begin, target.specs.values(), target.nbytes))
    drafts = [draft for draft in begun if isinstance(draft, _Draft)]
    jobs = (job for draft in drafts for job in _jobs(draft))
    bodies = spread(_pack, jobs, sum(draft.pair.target.nbytes for draft in drafts))
    yield from (_smallest(each, bodies) if isinstance(each, _Draft) else each for each in begun)


def _unchanged(target: Artifact, base: Artifact | None) -> set[str]:
    if base is None:
        return set()
    held = dict(zip(base.specs.values(), base.manifest.digests, strict=True))
    now = zip(target.specs.values(), target.manifest.digests, strict=True)
    return {spec.name for spec, digest in now if held.get(spec) == digest}


def _pair(target: Artifact, base: Artifact | None, spec: TensorSpec) -> Pair:
    dtype = dtype_named(spec.dtype)
    held = base.specs.get(spec.name) if base is not None else None
    alike = held is not None and (held.dtype, held.size) == (spec.dtype, spec.size)
    words = words_of(target[spec.name], dtype)
    return Pair(
        dtype=dtype,
        row=words.size // spec.shape[0] if spec.size and spec.shape else words.size,
        target=words,
        base=words_of(base[spec.name], dtype) if base is not None and alike else None,
    )


def _begin(pair: Pair, codec: Codec) -> Parts | _Draft:
    """Return the record of a tensor of one chunk, or what is left to do for a larger one."""
    offers = codec.offers(pair) if pair.target.size else ()
    if pair.target.size > CHUNK_WORDS:
        return _Draft(pair, _close(offers, pair))
    draft = _Draft(pair, offers)
    return _smallest(draft, map(_pack, _jobs(draft)))


def _close(offers: Sequence[Layout], pair: Pair) -> Sequence[Layout]:
    """Return the offers that come close to the best of them on a sample."""
    last = pair.target.size - _SAMPLE_WORDS
    starts = [last * part // (_SAMPLES - 1) for part in range(_SAMPLES)]
    samples = [slice(start, start + _SAMPLE_WORDS) for start in starts]
    sizes = [sum(len(_pack((layout, pair, sample))) for sample in samples) for layout in offers]
    return [layout for layout, size in zip(offers, sizes, strict=True) if size <= _CLOSE * min(sizes)]


def _jobs(draft: _Draft) -> Iterator[Job]:
    words = draft.pair.target.size
    for layout in draft.layouts:
        for start in range(0, words, layout.chunk_words):
            yield layout, draft.pair, slice(start, min(start + layout.chunk_words, words))


def _pack(job: Job) -> bytes:
    layout, pair, span = job
    body = layout.pack(pair.target, pair.base, span)
    raw = pair.target[span]
    return body if len(body) < raw.nbytes else raw.tobytes()


def _smallest(draft: _Draft, bodies: Iterator[bytes]) -> Parts:
    """Return the smallest record of a tensor, from the bodies of all its jobs."""
    # Raw first: at equal sizes the cheapest to read wins.
    best = write_record(RAW, [byte_view(draft.pair.target)])
    for layout in draft.layouts:
        chunks = -(-draft.pair.target.size // layout.chunk_words)
        content = write_content(layout.side, list(islice(bodies, chunks)))
        best = min(best, write_record(layout.op.code, content), key=_size)
    return best


def _size(parts: Parts) -> int:
    return sum(map(len, parts))
