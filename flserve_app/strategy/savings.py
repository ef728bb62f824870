"""What a run saved, in one line: bytes of models that travelled, beside what the same models take in full."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Self

from flserve_app.registry import Registry
from flserve_app.store import Version
from flserve_app.strategy.ledger import RoundRow
from flserve_app.text import plain, readable_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """Bytes of a run's models on their way, each with what they take in full."""

    down: int = 0
    down_full: int = 0
    up: int = 0
    up_full: int = 0

    def with_row(self, row: RoundRow) -> Self:
        """Return the sums with one round more."""
        return type(self)(
            down=self.down + row.bytes_down,
            down_full=self.down_full + row.bytes_down_full,
            up=self.up + row.bytes_up,
            up_full=self.up_full + row.bytes_up_full,
        )

    def text(self) -> str:
        """Return the sums as a sentence without an end."""
        ways = (("down", self.down, self.down_full), ("up", self.up, self.up_full))
        said = [_way(way, sent, full) for way, sent, full in ways if full or sent]
        return ", ".join(said) or "no models travelled"


def closing(savings: Savings, version: Version, registry: Registry) -> str:
    """Return what is said at the end of a run: what was saved, and where its versions are."""
    command = f"flserve log --store {shlex.quote(plain(registry.database.place))}"
    if len(registry.models()) > 1:  # among several the command wants to be told which
        command += f" --model {shlex.quote(version.model)}"
    return (
        f"models: {savings.text()}; model {version.model!r} is at version {version.number}: {command} shows all of them"
    )


def _way(way: str, sent: int, full: int) -> str:
    saved = f"{1 - sent / full:.0%} saved" if sent < full else "nothing saved"
    return f"{readable_bytes(sent)} {way} instead of {readable_bytes(full)} ({saved})"
