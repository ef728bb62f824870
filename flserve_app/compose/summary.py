"""The closing summary of a run: pure functions of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flserve_app.strategy import RoundRow
from flserve_app.text import readable_bytes, share

__all__ = ["BYTES", "readable_bytes", "share", "summarise"]

BYTES = (
    "bytes_down",
    "bytes_up",
    "bytes_down_message",
    "bytes_up_message",
    "bytes_down_full",
    "bytes_up_full",
)


def summarise(
    rows: Sequence[RoundRow], *, versions: int, seconds: float, payloads: Mapping[str, int], **facts: Any
) -> dict[str, Any]:
    """Return what `summary.json` holds.

    Args:
        rows: All rounds, the last one last.
        versions: Versions of the model in the store.
        seconds: Wall time of the run.
        payloads: Counters of the payloads: `encodes`, `reads`, `hits`, and `held_bytes` at the end.
        facts: Further fields, put first.
    """
    last = rows[-1]
    totals = {name: sum(getattr(row, name) for row in rows) for name in BYTES}
    return {
        **facts,
        "rounds": last.round,
        "versions": versions,
        "final_version": last.version,
        "final_digest": last.digest,
        "final_accuracy": last.accuracy,
        "final_loss": last.loss,
        "final_client_accuracy": last.metrics.get("client_accuracy"),
        "client_versions": last.client_versions,
        "failures": sum(row.failures for row in rows),
        **totals,
        "payloads": dict(payloads),
        "seconds": round(seconds, 3),
    }
