"""What a run shows: a progress bar on a terminal, lines elsewhere, and the closing summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from flserve_app.compose.summary import readable_bytes, share
from flserve_app.strategy import RoundRow


def round_line(row: RoundRow) -> str:
    """Return a round in one line."""
    accuracy = _accuracy(row.accuracy, row.metrics.get("client_accuracy"))
    plans = ", ".join(f"{count} {kind}" for kind, count in row.plans.items()) or "none"
    return (
        f"round {row.round:>3}  v{row.version} {row.digest[:12]}  accuracy {accuracy}  "
        f"down {readable_bytes(row.bytes_down)} ({share(row.bytes_down, row.bytes_down_full)} of full)  "
        f"up {readable_bytes(row.bytes_up)} ({share(row.bytes_up, row.bytes_up_full)})  "
        f"sent {plans}  {row.seconds:.2f} s"
    )


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Return the closing summary as a table."""
    table = Table(title="flserve run", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    if summary.get("resumed_from"):
        table.add_row("resumed from", summary["resumed_from"])
    table.add_row("versions", f"{summary['versions']} (latest v{summary['final_version']})")
    table.add_row("final accuracy", _accuracy(summary["final_accuracy"], summary.get("final_client_accuracy")))
    table.add_row("final digest", summary["final_digest"])
    table.add_row("clients by version", _by_version(summary["client_versions"]))
    for way, name in (("down", "bytes down"), ("up", "bytes up")):
        sent, full = summary[f"bytes_{way}"], summary[f"bytes_{way}_full"]
        message = readable_bytes(summary[f"bytes_{way}_message"])
        text = f"{readable_bytes(sent)} of {readable_bytes(full)} in full ({share(sent, full)}); messages {message}"
        table.add_row(name, text)
    table.add_row("seconds", f"{summary['seconds']:.1f}")
    table.add_row("folder", escape(summary["folder"]))
    return table


def sweep_table(jobs: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """Return the summaries of a sweep side by side; each job is (its overrides, its summary)."""
    table = Table(title=f"{len(jobs)} runs", title_justify="left")
    table.add_column("overrides", overflow="fold")
    for name in ("accuracy", "digest", "down", "up", "of full", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for overrides, summary in jobs:
        sent = summary["bytes_down"] + summary["bytes_up"]
        table.add_row(
            escape(overrides),
            _accuracy(summary["final_accuracy"], summary.get("final_client_accuracy")),
            summary["final_digest"][:12],
            readable_bytes(summary["bytes_down"]),
            readable_bytes(summary["bytes_up"]),
            share(sent, summary["bytes_down_full"] + summary["bytes_up_full"]),
            f"{summary['seconds']:.1f}",
        )
    return table


def _accuracy(central: float | None, clients: float | None) -> str:
    """Return the server's accuracy, or that of the clients where the server measures none."""
    if central is not None or clients is None:
        return "-" if central is None else f"{central:.4f}"
    return f"{clients:.4f} (clients)"


def _by_version(client_versions: Mapping[str, int]) -> str:
    if not client_versions:
        return "-"
    return ", ".join(f"v{number}: {clients}" for number, clients in client_versions.items())


@final
class Screen:
    """Shows a run's rounds as they end.

    Args:
        num_rounds: Rounds in all.
        line: How to show a line where there is no terminal.
        console: Where to show the bar and the summary.
    """

    def __init__(self, num_rounds: int, line: Callable[[str], None], console: Console | None = None) -> None:
        self._console = console or Console()
        self._line = line
        self._progress: Progress | None = None
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._bar = self._progress.add_task("rounds", total=num_rounds, status="waiting for clients")
            self._progress.start()

    def show(self, row: RoundRow) -> None:
        """Show a finished round."""
        if self._progress is None:
            self._line(round_line(row))
            return
        accuracy = "" if row.accuracy is None else f"accuracy {row.accuracy:.4f}"
        saved = share(row.bytes_down + row.bytes_up, row.bytes_down_full + row.bytes_up_full)
        self._progress.update(self._bar, completed=row.round, status=f"v{row.version} {accuracy} {saved} of full bytes")

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """End the bar and show the summary, if the run has one."""
        if self._progress is not None:
            self._progress.stop()
        if summary is not None:
            self._console.print(summary_table(summary))
