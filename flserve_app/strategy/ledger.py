"""What a round cost and who took part, counted as it happens.

Bytes are lengths of what was sent, never estimates: *payload* bytes are the encoded models alone, *message*
bytes all that Flower carries, *full* bytes what the same messages' arrays take as plain .npy streams, as
Flower sends them. Training and evaluation both count. Greetings count in message bytes alone.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from flserve_app.codec.finer import Loss
from flserve_app.strategy.coarse import Coarse, Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRow:
    """One round, as it stands in `history.jsonl`.

    Attributes:
        round: Round number; 0 is what happened before the first.
        version: Number of the newest version after the round.
        digest: Hex digest of that version.
        accuracy: Central accuracy of that version, if it was evaluated.
        loss: Central loss of that version, if it was evaluated.
        metrics: Aggregated metrics of the round, by name.
        clients: Train replies that were aggregated.
        failures: Messages without a usable reply.
        late: Replies to earlier rounds that were rebased and aggregated.
        dropped_late: Replies to earlier rounds that were dropped.
        skipped: Why training or evaluation could not be aggregated; empty if they could.
        client_versions: Clients by the version they last worked with (version number as text).
        plans: Messages by plan kind (those of `delivery.Plan`, and `plain`), resends (`resend`) included.
        bytes_down: Payload bytes to the clients.
        bytes_up: Payload bytes from the clients.
        bytes_down_message: Message bytes to the clients.
        bytes_up_message: Message bytes from the clients.
        bytes_down_full: What the models down take in full.
        bytes_up_full: What the models up take in full.
        encode_seconds: Server time to make payloads.
        decode_seconds: Server time to decode and verify updates.
        publish_seconds: Server time to store the new version.
        fetch_seconds: The longest time a client took to decode, verify and install.
        train_seconds: The longest time a client's handler took.
        update_seconds: The longest time a client took to encode its update.
        wait_seconds: Time the server waited for replies.
        seconds: Wall time of the round.
        lost_down: Share of the change that rounding left out of the version, in squares; feedback sends it later.
        lost_up: The same of the updates, the most of any.
        coarse: Where rounding as it was asked for was too coarse, and how much finer it was done; empty for nowhere.
    """

    round: int
    version: int
    digest: str
    accuracy: float | None = None
    loss: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    clients: int = 0
    failures: int = 0
    client_versions: dict[str, int] = field(default_factory=dict)
    plans: dict[str, int] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    bytes_down_message: int = 0
    bytes_up_message: int = 0
    bytes_down_full: int = 0
    bytes_up_full: int = 0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    publish_seconds: float = 0.0
    fetch_seconds: float = 0.0
    train_seconds: float = 0.0
    update_seconds: float = 0.0
    wait_seconds: float = 0.0
    seconds: float = 0.0
    late: int = 0
    dropped_late: int = 0
    skipped: str = ""
    lost_down: float = 0.0
    lost_up: float = 0.0
    coarse: str = ""


@final
class Ledger:
    """Counts one round; `take` hands the counts over and begins the next.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._bytes: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._plans: Counter[str] = Counter()
        self._failures = 0
        self._late: Counter[str] = Counter()
        self._longest: defaultdict[str, float] = defaultdict(float)
        self._began = clock()
        self._coarse = Coarse()

    def sent(self, direction: Direction, *, payload: int, message: int, full: int) -> None:
        """Count one message's bytes."""
        self._bytes[f"bytes_{direction}"] += payload
        self._bytes[f"bytes_{direction}_message"] += message
        self._bytes[f"bytes_{direction}_full"] += full

    def spent(self, phase: str, seconds: float) -> None:
        """Count server time in a phase: `encode`, `decode`, `publish`, `wait`."""
        self._seconds[f"{phase}_seconds"] += seconds

    def planned(self, kind: str) -> None:
        """Count one message by its plan."""
        self._plans[kind] += 1

    def failed(self) -> None:
        """Count one message without a usable reply."""
        self._failures += 1

    def rounded(self, direction: Direction, loss: Loss) -> None:
        """Note what rounding did to a version (`down`), or to an update as its client says (`up`)."""
        self._coarse.note(direction, loss)

    def late(self, *, used: bool) -> None:
        """Count one reply to an earlier round."""
        self._late["late" if used else "dropped_late"] += 1

    def answered(self, *, fetch: float, train: float, update: float) -> None:
        """Note how long a client says it took to fetch, to train (its handler) and to encode its update, in seconds.

        Nothing took longer than the round.
        """
        most = self._clock() - self._began
        for phase, seconds in (("fetch", fetch), ("train", train), ("update", update)):
            self._longest[f"{phase}_seconds"] = max(self._longest[f"{phase}_seconds"], min(seconds, most))

    def take(self) -> dict[str, object]:
        """Return the counts as fields of a `RoundRow`, and start from zero."""
        counts: dict[str, object] = {
            **self._bytes,
            **self._seconds,
            "plans": dict(sorted(self._plans.items())),
            "failures": self._failures,
            **self._late,
            **self._longest,
            **self._coarse.take(),
        }
        self._clear()
        return counts

    def _clear(self) -> None:
        self._bytes.clear()
        self._seconds.clear()
        self._plans.clear()
        self._failures = 0
        self._late.clear()
        self._longest.clear()
        self._began = self._clock()
