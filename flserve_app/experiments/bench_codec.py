"""`flserve bench codec`: codecs and their peers on consecutive FedAvg checkpoints of a CNN.

Every contender gets the same two checkpoints and the same number of threads. Sizes are bytes of what would be
sent, as a fraction of the target's tensors; speeds count the target's bytes, and are medians over rounds in
which all contenders take turns. What a contender gives back must be the target, bit for bit. Ours also
verifies digests while it decodes; the target's own digest is known before it is encoded, as it is in a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import numpy as np
from rich.table import Table

from flserve_app.artifact import Artifact
from flserve_app.artifact.threads import workers
from flserve_app.errors import FlserveError
from flserve_app.experiments.checkpoints import Checkpoints, as_bfloat16, federated_checkpoints
from flserve_app.experiments.console import report_console
from flserve_app.experiments.peers import Contender, contenders, flat_words

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was measured of one contender on one pair of checkpoints.

    Attributes:
        dtype: Logical dtype of the checkpoints.
        name: The contender.
        nbytes: Bytes it would send.
        fraction: The same as a fraction of the target's bytes.
        encode_mb_s: Target's megabytes (10**6 bytes) encoded a second.
        decode_mb_s: Target's megabytes decoded a second; for our codecs verified as well.
        encode_cpu: Seconds of all cores that a gigabyte (10**9 bytes) takes to encode, at least; other work on the
            machine slows down a codec more than it adds to this.
        decode_cpu: The same to decode.
    """

    dtype: str
    name: str
    nbytes: int
    fraction: float
    encode_mb_s: float
    decode_mb_s: float
    encode_cpu: float
    decode_cpu: float


def run(*, rounds: int, seed: int, repeats: int, task: str = "digits") -> list[Row]:
    """Train, then measure all contenders in float32 and in bfloat16.

    Args:
        rounds: Federated rounds before the one that is encoded.
        seed: Of the data, the initial weights and the training.
        repeats: Timings of each contender.
        task: Images the CNN is trained on, one of `checkpoints.WIDTHS`.

    Raises:
        MissingExtra: If a peer or the images are not installed.
        FlserveError: If a contender does not give back the target.
    """
    contenders(_nothing())  # A missing peer is found out before minutes are spent on training.
    pair = federated_checkpoints(rounds=rounds, seed=seed, task=task)
    pairs = (pair, as_bfloat16(pair))
    return [row for each in pairs for row in measure(each, contenders(each), repeats=repeats)]


def measure(pair: Checkpoints, everyone: Sequence[Contender], *, repeats: int) -> list[Row]:
    """Measure contenders on the pair of checkpoints that they were made for.

    Raises:
        FlserveError: If a contender does not give back the target.
    """
    pair.base.manifest, pair.target.manifest  # noqa: B018 digests are known in a run
    timings = [[_timed(contender, pair) for contender in everyone] for _ in range(repeats)]
    return [_row(contender, pair, turns) for contender, turns in zip(everyone, zip(*timings, strict=True), strict=True)]


def table(rows: Sequence[Row]) -> Table:
    """Return the rows as a table."""
    drawn = Table(title=f"Codecs on consecutive FedAvg checkpoints, {workers()} threads", title_justify="left")
    drawn.add_column("dtype", no_wrap=True)
    drawn.add_column("codec", no_wrap=True)
    for head in ("bytes", "of full", "encode MB/s", "decode MB/s", "CPU s/GB", "CPU s/GB"):
        drawn.add_column(head, justify="right")
    for row in rows:
        speeds = f"{row.encode_mb_s:.0f}", f"{row.decode_mb_s:.0f}", f"{row.encode_cpu:.2f}", f"{row.decode_cpu:.2f}"
        drawn.add_row(row.dtype, row.name, str(row.nbytes), f"{row.fraction:.4f}", *speeds)
    return drawn


def show(rows: Sequence[Row]) -> None:
    """Print the table on stdout."""
    report_console().print(table(rows))


def _nothing() -> Checkpoints:
    empty = Artifact({"w": np.zeros(1, np.float32)})
    return Checkpoints(dtype="float32", base=empty, target=empty)


@dataclass(frozen=True, slots=True)
class _Turn:
    """One encoding and decoding: bytes sent, and (seconds, seconds of all cores) of each."""

    sent: int
    encoding: tuple[float, float]
    decoding: tuple[float, float]


def _timed(contender: Contender, pair: Checkpoints) -> _Turn:
    encoding, parts = _seconds(contender.encode)
    decoding, found = _seconds(lambda: contender.decode(parts))
    words = flat_words(found, pair.dtype) if isinstance(found, Artifact) else found
    if not np.array_equal(words, flat_words(pair.target, pair.dtype)):
        raise FlserveError(f"{contender.name} does not give back the {pair.dtype} checkpoint")
    return _Turn(sum(map(len, parts)), encoding, decoding)


def _seconds(work: Callable[[], Result]) -> tuple[tuple[float, float], Result]:
    started, cpu = time.perf_counter(), time.process_time()
    result = work()
    return (time.perf_counter() - started, time.process_time() - cpu), result


def _row(contender: Contender, pair: Checkpoints, turns: Sequence[_Turn]) -> Row:
    sent, size = turns[0].sent, pair.target.nbytes
    return Row(
        dtype=pair.dtype,
        name=contender.name,
        nbytes=sent,
        fraction=sent / size,
        encode_mb_s=size / median(turn.encoding[0] for turn in turns) / 1e6,
        decode_mb_s=size / median(turn.decoding[0] for turn in turns) / 1e6,
        encode_cpu=min(turn.encoding[1] for turn in turns) / size * 1e9,
        decode_cpu=min(turn.decoding[1] for turn in turns) / size * 1e9,
    )
