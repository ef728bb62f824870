"""QSGD (Alistarh et al., NeurIPS 2017, arXiv:1610.02132), written from the paper.

The vector is cut into buckets; of each the scale is sent, a float32, and of each value its sign and its level, 0 to
2**(bits - 1) - 1. As in the paper's experiments the scale is the bucket's largest magnitude. Rounding is at random
between the two nearest levels, without bias; `nearest` is a variant with less error and with bias. The paper codes
levels in a fixed width or by Elias' codes; here a coder takes their place that is shorter (`small_integers`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flserve_app.experiments.lossy_peer import Flat, LossyPeer, flat_peer
from flserve_app.experiments.small_integers import packed, unpacked, unzigzag, zigzag

_SEED = 1


def qsgd(*, bits: int, bucket: int = 512, nearest: bool = False) -> LossyPeer:
    """Return QSGD.

    Args:
        bits: Of a value, its sign among them; 2 to 15.
        bucket: Values a scale.
        nearest: Round to the nearest level instead of at random.
    """
    levels = 2 ** (bits - 1) - 1

    def encode(vector: Flat) -> bytes:
        rows = np.pad(vector, (0, -vector.size % bucket)).reshape(-1, bucket)
        scales = np.abs(rows).max(axis=1)
        exact = rows / _nonzero(scales) * levels
        above = 0.5 if nearest else np.random.Generator(np.random.SFC64(_SEED)).random(rows.shape, np.float32)
        steps = np.floor(exact + above).astype(np.int64).clip(-levels, levels)
        head: bytes = scales.tobytes()
        return head + packed(zigzag(steps.ravel()[: vector.size]))

    def decode(data: bytes, count: int) -> Flat:
        buckets = -(-count // bucket)
        scales = np.frombuffer(data, np.float32, buckets)
        steps = unzigzag(unpacked(data[4 * buckets :], count)).astype(np.float32)
        return steps * np.repeat(scales / np.float32(levels), bucket)[:count]

    return flat_peer(f"QSGD {bits} bit{', nearest' * nearest}", encode, decode)


def _nonzero(scales: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.where(scales > 0, scales, np.float32(1))[:, None]
