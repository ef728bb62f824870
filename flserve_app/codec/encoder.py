"""From artifacts to a payload.

Each tensor takes the layout with the fewest bytes of those its codec offers. Large tensors are packed over all
cores, chunk by chunk; small ones side by side. The same artifacts give the same bytes. Parts of a payload are
made as they are taken: besides them there is in memory the content of one tensor, at most as large as the
tensor for every layout offered, and a constant a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import Any

from flserve_app.artifact import Artifact, TensorSpec, byte_view, dtype_named
from flserve_app.codec.codecs import Codec, Pair, codec_named, on_grids
from flserve_app.codec.container import Header, seal, write_content, write_record
from flserve_app.codec.ops import RAW, SAME, TIED, Layout
from flserve_app.codec.rounding import Rounded, round_to
from flserve_app.codec.spread import spread
from flserve_app.codec.ties import places_of
from flserve_app.codec.wire import varint
from flserve_app.codec.words import words_of

_SMALL_WORDS = 1 << 16  # a tensor that one thread deals with
_JOINED_BYTES = 1 << 24  # of a target whose payload is copied once more, as asking for memory bit by bit takes longer

Parts = Sequence[bytes | memoryview]


def encode(
    target: Artifact, base: Artifact | None = None, codec: str | Codec = "lossless", *, ties: bool = True
) -> bytes:
    """Return a payload that takes a holder of `base` (or of nothing) to `target`.

    Under a codec that rounds, and with a base, it takes the holder to the target as that codec rounds it by default.

    Args:
        target: What the receiver shall hold.
        base: What it holds; None makes a payload that needs nothing, as the codec `full` always does.
        codec: Name of a codec in `CODECS`, or a codec.
        ties: Whether a tensor that is the same as an earlier one may refer to it, which releases before did not know.

    Raises:
        CodecError: If there is no codec of that name.
    """
    return _joined(encode_parts(target, base, codec, ties=ties), target.nbytes)


def encode_rounded(rounded: Rounded, base: Artifact, codec: str | Codec = "grid", *, ties: bool = True) -> bytes:
    """Return a payload that takes a holder of `base` to what was rounded, by steps on the grids it lies on.

    Args:
        rounded: What the receiver shall hold; tensors without a step travel as the codec offers.
        base: What it holds, and what the change was taken from.
        codec: Codec, or the name of one, that stands in the header.
        ties: As of `encode`.

    Raises:
        CodecError: If there is no codec of that name.
    """
    return _joined(encode_rounded_parts(rounded, base, codec, ties=ties), rounded.artifact.nbytes)


def encode_parts(
    target: Artifact, base: Artifact | None = None, codec: str | Codec = "lossless", *, ties: bool = True
) -> Iterator[bytes | memoryview]:
    """Return the payload that `encode` gives in parts, for a file that need not be in memory as a whole.

    Raises:
        CodecError: If there is no codec of that name.
    """
    chosen = codec_named(codec) if isinstance(codec, str) else codec
    if chosen.rounding is not None and base is not None:
        return encode_rounded_parts(round_to(target, base, chosen.rounding), base, chosen, ties=ties)
    return _sealed(target, base, chosen, ties)


def encode_rounded_parts(
    rounded: Rounded, base: Artifact, codec: str | Codec = "grid", *, ties: bool = True
) -> Iterator[bytes | memoryview]:
    """Return the payload that `encode_rounded` gives in parts, as `encode_parts` does.

    Raises:
        CodecError: If there is no codec of that name.
    """
    chosen = codec_named(codec) if isinstance(codec, str) else codec
    return _sealed(rounded.artifact, base, on_grids(chosen, rounded.steps), ties)


def _sealed(target: Artifact, base: Artifact | None, chosen: Codec, ties: bool) -> Iterator[bytes | memoryview]:
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
    return seal(header, _records(target, held, chosen, places_of(target) if ties else {}))


def _joined(parts: Iterable[bytes | memoryview], nbytes: int) -> bytes:
    if nbytes <= _JOINED_BYTES:
        return b"".join(parts)
    payload = BytesIO()
    payload.writelines(parts)
    return payload.getvalue()


@dataclass(frozen=True, slots=True, eq=False)
class _Draft:
    """A tensor, and the layouts it is to be packed in."""

    pair: Pair
    layouts: Sequence[Layout]

    def jobs(self) -> Iterator[Callable[[], bytes]]:
        """Yield what makes each body, layout by layout."""
        words = self.pair.target.size
        for layout in self.layouts:
            for start in range(0, words, layout.chunk_words):
                span = slice(start, min(start + layout.chunk_words, words))
                yield lambda layout=layout, span=span: _pack(layout, self.pair, span)  # type: ignore[misc]


def _records(target: Artifact, base: Artifact | None, codec: Codec, places: Mapping[str, int]) -> Iterator[Parts]:
    """Yield one record a tensor, in order; those with a place refer to what stands there."""
    same = _unchanged(target, base)
    told = {name: write_record(TIED, [varint(at)]) for name, at in places.items()}
    told |= {name: write_record(SAME, ()) for name in same}
    drafts: dict[str, _Draft] = {}

    def draft(spec: TensorSpec) -> _Draft:
        # Jobs are taken ahead of their results: a draft is made for whichever comes first.
        if spec.name not in drafts:
            drafts[spec.name] = _draft(_pair(target, base, spec), codec)
        return drafts[spec.name]

    def jobs() -> Iterator[Callable[[], bytes | Parts]]:
        for spec in target.specs.values():
            if spec.name in told:
                continue
            if _is_small(spec):
                yield lambda spec=spec: _small_record(_pair(target, base, spec), codec)  # type: ignore[misc]
            else:
                yield from draft(spec).jobs()

    results: Iterator[Any] = spread(_call, jobs(), target.nbytes)
    for spec in target.specs.values():
        if spec.name in told:
            yield told[spec.name]
        elif _is_small(spec):
            yield next(results)
        else:
            yield _smallest(draft(spec), results)
            del drafts[spec.name]


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
        name=spec.name,
        dtype=dtype,
        row=words.size // spec.shape[0] if spec.size and spec.shape else words.size,
        target=words,
        base=words_of(base[spec.name], dtype) if base is not None and alike else None,
    )


def _is_small(spec: TensorSpec) -> bool:
    return spec.size <= _SMALL_WORDS


def _draft(pair: Pair, codec: Codec) -> _Draft:
    return _Draft(pair, codec.offers(pair) if pair.target.size else ())


def _small_record(pair: Pair, codec: Codec) -> Parts:
    draft = _draft(pair, codec)
    return _smallest(draft, (job() for job in draft.jobs()))


def _pack(layout: Layout, pair: Pair, span: slice) -> bytes:
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


def _call(job: Callable[[], bytes | Parts]) -> bytes | Parts:
    return job()


def _size(parts: Parts) -> int:
    return sum(map(len, parts))
