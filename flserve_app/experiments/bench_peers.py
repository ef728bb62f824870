"""`flserve bench peers`: what our rounding codecs take at the error of each of their peers.

The changes are real: of a CNN in a late round of FedAvg, the aggregate's and one client's. Each peer makes something of
a change; its error is NMSE (`frontier`), its size all that it would send. Beside it stands our smallest payload with no
more error, with its header, its digests and the tensors that are taken exactly. Speeds count the change's bytes, the
fastest of all turns; ours works on all cores and verifies what it decodes, the peers that are written here do neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.table import Table

from flserve_app.artifact import Artifact
from flserve_app.codec import Rounding, decode, encode_rounded, round_to
from flserve_app.errors import FlserveError
from flserve_app.experiments.checkpoints import Checkpoints, client_checkpoints, federated_checkpoints
from flserve_app.experiments.console import report_console
from flserve_app.experiments.eden import eden, rotated
from flserve_app.experiments.frontier import Frontier, change_of, nmse_of
from flserve_app.experiments.installed_peers import installed_peers
from flserve_app.experiments.lossy_peer import Change, LossyPeer
from flserve_app.experiments.qsgd import qsgd

OWN = (
    *(eden(bits=bits) for bits in (1, 2, 3, 4)),
    *(rotated(step=step) for step in (2, 1, 0.5, 0.25)),
    *(qsgd(bits=bits, nearest=nearest) for bits in (4, 8) for nearest in (False, True)),
)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Megabytes (10**6 bytes) of a change a second.

    Attributes:
        encode: Encoded.
        decode: Decoded.
    """

    encode: float
    decode: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A peer at one update, and ours at its error.

    Attributes:
        update: `aggregate` or `client`.
        peer: The peer.
        nmse: Its squared error over the squares of the change.
        bits: Bits a weight that it sends.
        speed: Of the peer.
        ours: Our setting.
        our_nmse: Its error, at most the peer's.
        our_bits: Bits a weight that it sends.
        our_speed: Of ours.
        ratio: Our bytes over the peer's.
    """

    update: str
    peer: str
    nmse: float
    bits: float
    speed: Speed
    ours: str
    our_nmse: float
    our_bits: float
    our_speed: Speed
    ratio: float


def run(*, rounds: int, seed: int, repeats: int, task: str, width: int | None = None) -> tuple[list[Row], list[str]]:
    """Train, then measure all peers on both updates.

    Args:
        rounds: Federated rounds before the one whose updates are sent.
        seed: Of the data, the initial weights and the training.
        repeats: Timings of each.
        task: Images the CNN is trained on, one of `checkpoints.WIDTHS`.
        width: Channels of its first layer; None for the task's own.

    Returns:
        The rows, and a line on each package that is not installed.

    Raises:
        MissingExtra: If the images are not installed.
    """
    installed, missing = installed_peers()
    aggregate = federated_checkpoints(rounds=rounds, seed=seed, task=task, width=width)
    client = client_checkpoints(aggregate.base, rounds=rounds, seed=seed, task=task, width=width)
    updates = {"aggregate": aggregate, "client": client}
    peers = (*OWN, *installed)
    return [row for name, each in updates.items() for row in measure(name, each, peers, repeats=repeats)], missing


def measure(name: str, update: Checkpoints, peers: Sequence[LossyPeer], *, repeats: int) -> list[Row]:
    """Measure peers, and ours at the error of each, on one update.

    Raises:
        FlserveError: If a payload of ours does not lead to what was published, or a peer gives other shapes.
    """
    change = change_of(update)
    frontier = Frontier(update)
    return [_row(name, update, change, frontier, peer, repeats) for peer in peers]


def show(rows: Sequence[Row], missing: Sequence[str]) -> None:
    """Print a table of each update on stdout, and what is not installed."""
    console = report_console()
    for update in dict.fromkeys(row.update for row in rows):
        drawn = Table(title=f"Ours at the error of each peer: the {update}'s update", title_justify="left")
        for head in ("peer", "NMSE", "bits", "MB/s", "ours", "NMSE", "bits", "MB/s", "ratio"):
            text = head in ("peer", "ours")
            drawn.add_column(head, justify="left" if text else "right", no_wrap=head != "ours")
        for row in rows:
            if row.update == update:
                drawn.add_row(*_columns(row))
        console.print(drawn)
    for line in missing:
        console.print(line, highlight=False, markup=False)


def _columns(row: Row) -> list[str]:
    return [
        row.peer,
        f"{row.nmse:.5f}",
        f"{row.bits:.3f}",
        f"{row.speed.encode:.0f} / {row.speed.decode:.0f}",
        row.ours,
        f"{row.our_nmse:.5f}",
        f"{row.our_bits:.3f}",
        f"{row.our_speed.encode:.0f} / {row.our_speed.decode:.0f}",
        f"{row.ratio:.3f}",
    ]


def _row(name: str, update: Checkpoints, change: Change, frontier: Frontier, peer: LossyPeer, repeats: int) -> Row:
    encoding, sent = _fastest(lambda: peer.encode(change), repeats)
    decoding, found = _fastest(lambda: peer.decode(sent, change), repeats)
    if {key: array.shape for key, array in found.items()} != {key: array.shape for key, array in change.items()}:
        raise FlserveError(f"{peer.name} does not give back tensors of the {name}'s shapes")
    nmse = nmse_of(found, change)
    ours = frontier.smallest(nmse)
    nbytes = update.target.nbytes
    weights = sum(array.size for array in change.values())
    return Row(
        update=name,
        peer=peer.name,
        nmse=nmse,
        bits=8 * sent.nbytes / weights,
        speed=Speed(encode=nbytes / encoding / 1e6, decode=nbytes / decoding / 1e6),
        ours=ours.name,
        our_nmse=ours.nmse,
        our_bits=8 * ours.nbytes / weights,
        our_speed=_our_speed(update, ours.rounding, repeats),
        ratio=ours.nbytes / sent.nbytes,
    )


def _our_speed(update: Checkpoints, rounding: Rounding, repeats: int) -> Speed:
    update.base.manifest  # noqa: B018 the base's digests are known in a run

    def encoded() -> tuple[Artifact, bytes]:
        rounded = round_to(update.target, update.base, rounding)
        return rounded.artifact, encode_rounded(rounded, update.base, rounding.kind)

    encoding, (published, payload) = _fastest(encoded, repeats)
    decoding, found = _fastest(lambda: decode(payload, update.base), repeats)
    if found != published:
        raise FlserveError(f"{rounding.kind} payload of {len(payload)} bytes does not lead to what was published")
    return Speed(encode=update.target.nbytes / encoding / 1e6, decode=update.target.nbytes / decoding / 1e6)


def _fastest(work: Callable[[], Result], repeats: int) -> tuple[float, Result]:
    """Return the least seconds of all turns, and the last result."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return min(seconds), result
