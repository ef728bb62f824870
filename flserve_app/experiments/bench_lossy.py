"""`flserve bench lossy`: what the rounding codecs make of an update, and how fast they are.

Sizes are those of whole payloads, for consecutive FedAvg checkpoints of a CNN. Beside each stands the order-0 entropy
of the steps, summed over the tensors: what an ideal coder would need that knows each tensor's distribution for nothing,
but takes each element by itself; no headers, and no tensors that are taken exactly. Speeds are of a larger
model, whose rows and columns move alike (`even`) or by different scales (`uneven`); the fastest of all turns. Encoding
is rounding (with the digest of what is published) and packing; what is decoded is verified.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from rich.table import Table

from flserve_app.artifact import Artifact
from flserve_app.artifact.threads import workers
from flserve_app.codec import Rounded, Rounding, decode, encode_rounded, round_to
from flserve_app.errors import FlserveError
from flserve_app.experiments.checkpoints import federated_checkpoints
from flserve_app.experiments.console import report_console

SETTINGS = {
    "topk 0.25 %": Rounding(kind="topk", share=0.0025),
    "topk 0.5 %": Rounding(kind="topk", share=0.005),
    "topk 1 %": Rounding(kind="topk", share=0.01),
    "topk 1 % ternary": Rounding(kind="topk", share=0.01, levels=1),
    "grid 8 sigma": Rounding(kind="grid", multiple=8),
    "grid 4 sigma": Rounding(kind="grid", multiple=4),
    "grid 1 sigma": Rounding(kind="grid", multiple=1),
}
TIMED = ("topk 0.5 %", "topk 1 %", "grid 4 sigma", "grid 1 sigma")
_SIDE = 1024  # of the square tensors of the model that is timed

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What one setting makes of an update.

    Attributes:
        name: The setting.
        nbytes: Bytes of the payload.
        entropy: Order-0 entropy of the steps in bytes.
        moved: Share of the elements that move.
        full: Bytes of the model.
    """

    name: str
    nbytes: int
    entropy: float
    moved: float
    full: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast one setting is.

    Attributes:
        name: The setting and the kind of update.
        fraction: Bytes of the payload, as a fraction of the model's.
        encode_mb_s: Model's megabytes (10**6 bytes) rounded and packed a second.
        decode_mb_s: Model's megabytes decoded and verified a second.
        encode_cpu: Seconds of all cores that a gigabyte (10**9 bytes) takes to encode.
        decode_cpu: The same to decode.
    """

    name: str
    fraction: float
    encode_mb_s: float
    decode_mb_s: float
    encode_cpu: float
    decode_cpu: float


def sizes(*, rounds: int, seed: int, task: str, width: int) -> list[Size]:
    """Train, then encode the last round's change with every setting.

    Args:
        rounds: Federated rounds before the one that is encoded.
        seed: Of the data, the initial weights and the training.
        task: Images the CNN is trained on, one of `checkpoints.WIDTHS`.
        width: Channels of its first layer.

    Raises:
        MissingExtra: If the images are not installed.
    """
    pair = federated_checkpoints(rounds=rounds, seed=seed, task=task, width=width)
    return [size(name, pair.target, pair.base) for name in SETTINGS]


def size(name: str, target: Artifact, base: Artifact) -> Size:
    """Return what a setting makes of an update."""
    rounded = round_to(target, base, SETTINGS[name])
    steps = [_steps(rounded, base, tensor) for tensor in rounded.steps]
    return Size(
        name=name,
        nbytes=len(encode_rounded(rounded, base, SETTINGS[name].kind)),
        entropy=sum(map(_entropy, steps)),
        moved=sum(map(np.count_nonzero, steps)) / sum(array.size for array in target.values()),
        full=target.nbytes,
    )


def speeds(*, megabytes: int, repeats: int) -> list[Speed]:
    """Time some settings on a synthetic model, about so many megabytes large."""
    count = max(1, round(megabytes * 1e6 / (4 * _SIDE**2)))
    base = Artifact({f"layer{index}": _normal(index, 0.03) for index in range(count)})
    found = []
    for kind in ("even", "uneven"):
        moves = (_normal(count + index, 1e-4) * _scale(index, kind) for index in range(count))
        target = Artifact({name: base[name] + move for name, move in zip(base, moves, strict=True)})
        found += [_speed(name, kind, target, base, repeats) for name in TIMED]
    return found


def show(found: Sequence[Size], timed: Sequence[Speed]) -> None:
    """Print both tables on stdout."""
    drawn = Table(title="One round of a CNN", title_justify="left")
    for head in ("setting", "bytes", "order-0 entropy", "moved", "fewer"):
        drawn.add_column(head, justify="left" if head == "setting" else "right", no_wrap=True)
    for row in found:
        columns = f"{row.nbytes}", f"{row.entropy:.0f}", f"{row.moved:.2%}", f"{row.full / row.nbytes:.0f}x"
        drawn.add_row(row.name, *columns)
    fast = Table(title=f"A synthetic model, {workers()} threads", title_justify="left")
    for head in ("setting", "of full", "encode MB/s", "decode MB/s", "CPU s/GB", "CPU s/GB"):
        fast.add_column(head, justify="left" if head == "setting" else "right", no_wrap=True)
    for one in timed:
        rates = f"{one.encode_mb_s:.0f}", f"{one.decode_mb_s:.0f}", f"{one.encode_cpu:.2f}", f"{one.decode_cpu:.2f}"
        fast.add_row(one.name, f"{one.fraction:.5f}", *rates)
    console = report_console()
    console.print(drawn)
    console.print(fast)


def _speed(name: str, kind: str, target: Artifact, base: Artifact, repeats: int) -> Speed:
    base.manifest  # noqa: B018 the base's digests are known in a run
    turns = [_turn(SETTINGS[name], target, base) for _ in range(repeats)]
    encode, decoding, encode_cpu, decode_cpu, sent = (min(each) for each in zip(*turns, strict=True))
    return Speed(
        name=f"{name}, {kind}",
        fraction=sent / target.nbytes,
        encode_mb_s=target.nbytes / encode / 1e6,
        decode_mb_s=target.nbytes / decoding / 1e6,
        encode_cpu=encode_cpu / target.nbytes * 1e9,
        decode_cpu=decode_cpu / target.nbytes * 1e9,
    )


def _turn(rounding: Rounding, target: Artifact, base: Artifact) -> tuple[float, float, float, float, int]:
    """Return seconds to encode and decode, seconds of all cores of each, and the payload's bytes."""

    def encoded() -> tuple[Artifact, bytes]:
        rounded = round_to(target, base, rounding)
        return rounded.artifact, encode_rounded(rounded, base, rounding.kind)

    encoding, encode_cpu, (published, payload) = _timed(encoded)
    decoding, decode_cpu, found = _timed(lambda: decode(payload, base))
    if found != published:
        raise FlserveError(f"{rounding.kind} payload of {len(payload)} bytes does not lead to what was published")
    return encoding, decoding, encode_cpu, decode_cpu, len(payload)


def _timed(work: Callable[[], Result]) -> tuple[float, float, Result]:
    started, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - started, time.process_time() - cpu, result


def _steps(rounded: Rounded, base: Artifact, name: str) -> np.ndarray:
    moves = rounded.artifact[name].astype(np.float64) - base[name]
    steps: np.ndarray = np.rint(moves / rounded.steps[name])
    return steps


def _entropy(steps: np.ndarray) -> float:
    """Return the order-0 entropy in bytes."""
    counts = np.unique(steps, return_counts=True)[1]
    return float(-(counts * np.log2(counts / steps.size)).sum() / 8)


def _normal(seed: int, scale: float) -> np.ndarray:
    random = np.random.Generator(np.random.SFC64(seed))
    values: np.ndarray = random.standard_normal((_SIDE, _SIDE), dtype=np.float32) * np.float32(scale)
    return values


def _scale(seed: int, kind: str) -> np.ndarray:
    random = np.random.Generator(np.random.SFC64(seed))
    octaves = random.integers(-5, 1, (_SIDE, 1)) + random.integers(-5, 1, _SIDE)
    scales: np.ndarray = np.exp2(octaves * (kind == "uneven")).astype(np.float32)
    return scales
