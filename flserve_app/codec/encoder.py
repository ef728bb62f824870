"""From artifacts to a payload.

Each tensor takes the layout with the fewest bytes. Tensors up to a chunk try all layouts the codec offers;
larger ones try them on a sample first and then only what came close. Small tensors are encoded side by side,
large ones chunk by chunk over all cores. The same artifacts give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from flserve_app.artifact import Artifact, TensorSpec, byte_view, dtype_named
from flserve_app.codec.codecs import Codec, Pair, codec_named
from flserve_app.codec.container import Header, seal, write_content, write_record
from flserve_app.codec.grouping import CHUNK_WORDS
from flserve_app.codec.ops import RAW, SAME, Layout
from flserve_app.codec.spread import spread
from flserve_app.codec.words import words_of

_SAMPLE_WORDS = 1 << 14  # large enough to be spread over cores
_SAMPLES = 4
_CLOSE = 1.1

Parts = Sequence[bytes | memoryview]
Over = Callable[[Callable[[slice], bytes], Sequence[slice], int], Iterable[bytes]]


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

    def record(spec: TensorSpec, over: Over = _alone) -> Parts:
        return write_record(SAME, ()) if spec.name in same else _record(_pair(target, base, spec), codec, over)

    for large, specs in groupby(target.specs.values(), key=lambda spec: spec.size > CHUNK_WORDS):
        if large:
            yield from (record(spec, spread) for spec in specs)
        else:
            several = list(specs)
            yield from spread(record, several, sum(spec.nbytes for spec in several))


def _alone(function: Callable[[slice], bytes], spans: Sequence[slice], nbytes: int) -> Iterable[bytes]:
    return map(function, spans)


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


def _record(pair: Pair, codec: Codec, over: Over) -> Parts:
    """Return the smallest record of a tensor."""
    best = write_record(RAW, [byte_view(pair.target)])
    offers = codec.offers(pair) if pair.target.size else ()
    for layout in _close(offers, pair, over):
        spans = _spans(pair.target.size, layout.chunk_words)
        bodies = list(over(_packer(layout, pair), spans, pair.target.nbytes))
        record = write_record(layout.op.code, write_content(layout.side, bodies))
        best = min(best, record, key=_size)
    return best


def _size(parts: Parts) -> int:
    return sum(map(len, parts))


def _spans(words: int, chunk_words: int) -> list[slice]:
    return [slice(start, min(start + chunk_words, words)) for start in range(0, words, chunk_words)]


def _packer(layout: Layout, pair: Pair) -> Callable[[slice], bytes]:
    def pack(span: slice) -> bytes:
        body = layout.pack(pair.target, pair.base, span)
        raw = pair.target[span]
        return body if len(body) < raw.nbytes else raw.tobytes()

    return pack


def _close(offers: Sequence[Layout], pair: Pair, over: Over) -> Sequence[Layout]:
    """Return the offers that come close to the best on a sample; all of them for a tensor of one chunk."""
    words = pair.target.size
    if len(offers) < 2 or words <= CHUNK_WORDS:
        return offers
    step = (words - _SAMPLE_WORDS) // (_SAMPLES - 1)
    spans = [slice(start, start + _SAMPLE_WORDS) for start in range(0, words - _SAMPLE_WORDS + 1, step)]
    nbytes = pair.target[: len(spans) * _SAMPLE_WORDS].nbytes
    sizes = [sum(map(len, over(_packer(layout, pair), spans, nbytes))) for layout in offers]
    return [layout for layout, size in zip(offers, sizes, strict=True) if size <= _CLOSE * min(sizes)]
