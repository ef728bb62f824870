"""DRIVE and EDEN (Vargaftik et al., arXiv:2105.08339 and arXiv:2108.08842), written from the papers.

The vector is rotated at random: signs from a seed, then a Hadamard transform, after which its values are as good as
normal. Each is replaced by the nearest centroid of the Lloyd-Max quantiser of N(0, 1); with 1 bit that is DRIVE. A
float32 scale goes along: the one with the least error, as what is compared is the error of one update. (The papers'
unbiased scale makes it larger.) The vector is cut into powers of two, each with a scale of its own; the last part is
padded.

`rotated` has uniform steps and an entropy coder in place of the centroids, which at high rates is within 0.26 bit of
what is possible for normal values (Gish and Pierce, IEEE Trans. Inf. Theory 14, 1968).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from math import erf, exp, inf, pi, sqrt

import numpy as np
import numpy.typing as npt

from flserve_app.experiments.lossy_peer import Flat, LossyPeer, flat_peer
from flserve_app.experiments.small_integers import Codes, packed, unpacked, unzigzag, zigzag

_SEED = 2
_LEAST_PART = 1 << 10
_MOST_PART = 1 << 20
_LLOYD_TURNS = 1000


def eden(*, bits: int) -> LossyPeer:
    """Return EDEN with so many bits a value, 1 to 8; its indices are coded where that is shorter than their bits."""
    values = np.array(lloyd_max(bits), np.float32)
    edges = (values[1:] + values[:-1]) / 2

    def indices(part: Flat) -> Codes:
        return np.searchsorted(edges, part).astype(np.uint16)

    return _rotating(f"{'DRIVE' if bits == 1 else 'EDEN'} {bits} bit", indices, lambda codes: values[codes])


def rotated(*, step: float) -> LossyPeer:
    """Return the rotation with entropy-coded steps of so many standard deviations."""

    def codes_of(part: Flat) -> Codes:
        return zigzag(np.rint(part / np.float32(step)).astype(np.int64))

    def values_of(codes: Codes) -> Flat:
        return unzigzag(codes).astype(np.float32) * np.float32(step)

    return _rotating(f"rotated, steps {step:g}", codes_of, values_of)


@cache
def lloyd_max(bits: int) -> tuple[float, ...]:
    """Return the 2**bits centroids of the quantiser of N(0, 1) with the least squared error, ascending.

    By Lloyd's iteration (IEEE Trans. Inf. Theory 28, 1982), with the integrals in closed form.
    """
    count = 2**bits
    centroids = [3 * (2 * index + 1 - count) / count for index in range(count)]
    for _ in range(_LLOYD_TURNS):
        edges = [-inf, *((a + b) / 2 for a, b in pairwise(centroids)), inf]
        centroids = [_mean(low, high) for low, high in pairwise(edges)]
    return tuple(centroids)


def _mean(low: float, high: float) -> float:
    """Return the mean of N(0, 1) between two values."""

    def density(value: float) -> float:
        return exp(-value * value / 2) / sqrt(2 * pi)

    return 2 * (density(low) - density(high)) / (erf(high / sqrt(2)) - erf(low / sqrt(2)))


def _rotating(name: str, codes_of: Callable[[Flat], Codes], values_of: Callable[[Codes], Flat]) -> LossyPeer:
    def encode(vector: Flat) -> bytes:
        scales, codes = [], []
        for start, size in _parts(vector.size):
            part = vector[start : start + size]
            turned = _hadamard(np.pad(part, (0, size - part.size)) * _signs(start, size))
            sigma = np.sqrt(np.mean(turned * turned, dtype=np.float64))
            found = codes_of((turned / np.float32(sigma or 1)).astype(np.float32))
            values = values_of(found)
            norm = float(np.dot(values, values))
            scales.append(float(np.dot(values, turned)) / norm if norm else 0.0)
            codes.append(found)
        return np.array(scales, np.float32).tobytes() + packed(np.concatenate(codes))

    def decode(data: bytes, count: int) -> Flat:
        parts = list(_parts(count))
        scales = np.frombuffer(data, np.float32, len(parts))
        codes = unpacked(data[scales.nbytes :], sum(size for _, size in parts))
        turned = [
            _hadamard(values_of(codes[start : start + size])) * _signs(start, size) * scale
            for (start, size), scale in zip(parts, scales, strict=True)
        ]
        return np.concatenate(turned)[:count]

    return flat_peer(name, encode, decode)


def _parts(count: int) -> Iterator[tuple[int, int]]:
    """Yield start and size of the parts, each a power of two."""
    start = 0
    while start < count:
        left = count - start
        size = min(_MOST_PART, 1 << (left.bit_length() - 1)) if left >= _LEAST_PART else 1 << (left - 1).bit_length()
        yield start, size
        start += size


def _signs(start: int, size: int) -> npt.NDArray[np.float32]:
    random = np.random.Generator(np.random.SFC64([_SEED, start]))
    signs: npt.NDArray[np.float32] = random.integers(0, 2, size, np.int8).astype(np.float32) * 2 - 1
    return signs


def _hadamard(vector: Flat) -> Flat:
    """Return the orthonormal transform of a vector whose size is a power of two; it is its own inverse."""
    width = 1
    while width < vector.size:
        pairs = vector.reshape(-1, 2, width)
        vector = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
        width *= 2
    flat: Flat = vector.ravel() * np.float32(1 / sqrt(width))
    return flat
