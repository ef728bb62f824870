"""The jobs of a sweep side by side: a table for people, and the same as CSV beside the sweep.

A job is told from the others by what was swept, so there is a column for each key whose values differ. A job that
failed has its row too, with the reason in the place of figures. Pure functions of the jobs.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from rich.markup import escape
from rich.table import Table

from flserve_app.compose.summary import BYTES
from flserve_app.strategy.row_line import accuracy_text
from flserve_app.text import plain, readable_bytes, share

MOST_CELL = 2000
_KEPT = ("final_accuracy", "final_client_accuracy", "final_loss", "final_digest", "failures", *BYTES, "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job of a sweep.

    Attributes:
        number: Its number in the sweep, from 0.
        overrides: What it was started with, as `key=value`.
        summary: Its summary; None if it failed.
        error: Why it failed; empty if it did not.
    """

    number: int
    overrides: Sequence[str]
    summary: Mapping[str, Any] | None = None
    error: str = ""

    @property
    def values(self) -> dict[str, str]:
        """Its overrides by their keys, the last of each."""
        return {key.lstrip("+~"): value for key, _, value in (each.partition("=") for each in self.overrides)}


def swept_keys(jobs: Sequence[Job]) -> list[str]:
    """Return the keys whose values differ between jobs, in the order they were given; all of them if none does."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.values))
    return [key for key in keys if len({job.values.get(key) for job in jobs}) > 1] or keys


def sweep_table(jobs: Sequence[Job]) -> Table:
    """Return the jobs as a table."""
    failed = sum(job.summary is None for job in jobs)
    keys = swept_keys(jobs)
    table = Table(title=f"{len(jobs)} runs" + (f", {failed} failed" if failed else ""), title_justify="left")
    table.add_column("job", justify="right", no_wrap=True)
    for key in keys:
        table.add_column(escape(plain(key)), overflow="fold")
    for name in ("accuracy", "digest", "down", "up", "of full", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for job in jobs:
        told = (escape(plain(job.values.get(key, ""), MOST_CELL)) for key in keys)
        table.add_row(str(job.number), *told, *_figures(job.summary))
    return table


def sweep_csv(jobs: Sequence[Job]) -> str:
    """Return the jobs as CSV: what was swept, the state, the figures of the summary in full, and the run's folder."""
    keys = swept_keys(jobs)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["job", *keys, "state", *_KEPT, "folder", "error"])
    for job in jobs:
        summary = job.summary or {}
        told = [job.values.get(key, "") for key in keys]
        kept = [summary.get(name, "") for name in (*_KEPT, "folder")]
        writer.writerow([job.number, *told, "finished" if job.summary else "failed", *kept, job.error])
    return text.getvalue()


def failures_sentence(jobs: Sequence[Job]) -> str:
    """Return in one line which jobs failed, and why the first did; empty if none did."""
    failed = [job for job in jobs if job.summary is None]
    if not failed:
        return ""
    keys = swept_keys(jobs)
    first = failed[0]
    told = " ".join(f"{key}={first.values[key]}" for key in keys if key in first.values)
    which = f" ({', '.join(str(job.number) for job in failed)})" if failed[1:] else ""
    return f"{len(failed)} of {len(jobs)} jobs failed{which}: job {first.number} ({told}): {first.error}"


def _figures(summary: Mapping[str, Any] | None) -> list[str]:
    if summary is None:
        return ["failed", "", "", "", "", ""]
    sent = summary["bytes_down"] + summary["bytes_up"]
    return [
        accuracy_text(summary["final_accuracy"], summary.get("final_client_accuracy")),
        summary["final_digest"][:12],
        readable_bytes(summary["bytes_down"]),
        readable_bytes(summary["bytes_up"]),
        share(sent, summary["bytes_down_full"] + summary["bytes_up_full"]),
        f"{summary['seconds']:.1f}",
    ]
