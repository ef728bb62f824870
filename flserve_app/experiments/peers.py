"""What else makes a small file of two checkpoints: peers of the codec, on the same bytes.

Each peer sees all tensors as one flat array of words, which spares it any cost a tensor, works on as many
threads as our codecs do, and does not verify what it gives back. Where its own format has no delta, it gets
the XOR or the integer difference of the two versions, which are computed within the measured time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import zstandard
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, standalone

from flserve_app.artifact import Artifact, dtype_named
from flserve_app.artifact.threads import workers
from flserve_app.codec import decode, encode
from flserve_app.codec.spread import spread
from flserve_app.codec.words import Words, residual, restore, words_of
from flserve_app.errors import MissingExtra
from flserve_app.experiments.checkpoints import Checkpoints

_PIECE_WORDS = 1 << 18
_PCODEC = ChunkConfig(compression_level=8, mode_spec=ModeSpec.classic(), delta_spec=DeltaSpec.no_op())


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to bring a holder of a base to a target.

    Attributes:
        name: What it is called in the table.
        encode: Returns the parts that would be sent.
        decode: Returns the target from the parts, as an artifact or as its words (flat).
    """

    name: str
    encode: Callable[[], list[bytes]]
    decode: Callable[[list[bytes]], Artifact | Words]


def contenders(pair: Checkpoints) -> list[Contender]:
    """Return our codecs and all peers, ready for a pair of checkpoints.

    Raises:
        MissingExtra: If a peer is not installed.
    """
    blosc2, zipnn = _peer("blosc2"), _peer("zipnn")
    base, target = flat_words(pair.base, pair.dtype), flat_words(pair.target, pair.dtype)
    return [
        *(_ours(pair, codec) for codec in ("full", "lossless", "lossless-small")),
        _pcodec(base, target, pair.dtype),
        _blosc(blosc2, base, target, pair.dtype, integers=True),
        _blosc(blosc2, base, target, pair.dtype, integers=False),
        _zipnn(zipnn, base, target, pair.dtype),
        _patch_from(base, target),
    ]


def _peer(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra(f"{name} is not installed: pip install 'flserve[bench]'") from error


def flat_words(artifact: Artifact, dtype: str) -> Words:
    """Return all tensors' words, one after another."""
    return np.concatenate([words_of(array, dtype_named(dtype)) for array in artifact.values()])


def _ours(pair: Checkpoints, codec: str) -> Contender:
    return Contender(
        name=codec,
        encode=lambda: [encode(pair.target, pair.base, codec)],
        decode=lambda parts: decode(parts[0], pair.base),
    )


def _pieces(words: Words) -> list[slice]:
    return [slice(start, start + _PIECE_WORDS) for start in range(0, words.size, _PIECE_WORDS)]


def _pcodec(base: Words, target: Words, dtype: str) -> Contender:
    kind, spans = dtype_named(dtype), _pieces(target)

    def pack(span: slice) -> bytes:
        return bytes(standalone.simple_compress(residual(target[span], base[span], kind), _PCODEC))

    def unpack(parts: list[bytes]) -> Words:
        out = np.empty_like(target)

        def one(job: tuple[slice, bytes]) -> None:
            words = np.empty_like(out[job[0]])
            standalone.simple_decompress_into(job[1], words)
            restore(words, base[job[0]], kind, out[job[0]])

        list(spread(one, zip(spans, parts, strict=True), target.nbytes))
        return out

    return Contender(
        name="pcodec on difference", encode=lambda: list(spread(pack, spans, target.nbytes)), decode=unpack
    )


def _blosc(blosc2: Any, base: Words, target: Words, dtype: str, *, integers: bool) -> Contender:
    kind = dtype_named(dtype)
    settings = {"codec": blosc2.Codec.ZSTD, "clevel": 1, "filters": [blosc2.Filter.SHUFFLE]}
    blosc2.set_nthreads(workers())

    def pack() -> list[bytes]:
        words = residual(target, base, kind) if integers else target ^ base
        return [blosc2.compress2(words, typesize=target.itemsize, **settings)]

    def unpack(parts: list[bytes]) -> Words:
        words = np.frombuffer(blosc2.decompress2(parts[0]), target.dtype)
        if not integers:
            return words ^ base
        out = np.empty_like(target)
        restore(words.copy(), base, kind, out)
        return out

    how = "difference" if integers else "XOR"
    return Contender(name=f"blosc2 zstd on {how}", encode=pack, decode=unpack)


def _zipnn(zipnn: Any, base: Words, target: Words, dtype: str) -> Contender:
    def coder() -> Any:
        return zipnn.ZipNN(input_format="byte", bytearray_dtype=dtype, threads=workers())

    def pack() -> list[bytes]:
        return [bytes(coder().compress((target ^ base).tobytes()))]

    def unpack(parts: list[bytes]) -> Words:
        return np.frombuffer(coder().decompress(parts[0]), target.dtype) ^ base

    return Contender(name="ZipNN on XOR", encode=pack, decode=unpack)


def _patch_from(base: Words, target: Words) -> Contender:
    window = max(20, (2 * target.nbytes).bit_length())
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, window_log=window, enable_ldm=True, threads=workers()
    )
    reference = zstandard.ZstdCompressionDict(base.tobytes(), dict_type=zstandard.DICT_TYPE_RAWCONTENT)

    def pack() -> list[bytes]:
        return [zstandard.ZstdCompressor(compression_params=parameters, dict_data=reference).compress(target.tobytes())]

    def unpack(parts: list[bytes]) -> Words:
        reader = zstandard.ZstdDecompressor(dict_data=reference, max_window_size=1 << window)
        return np.frombuffer(reader.decompress(parts[0]), target.dtype)

    return Contender(name="zstd --patch-from", encode=pack, decode=unpack)
