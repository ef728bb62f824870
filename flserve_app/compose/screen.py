"""What a run shows: a progress bar on a terminal, lines elsewhere, and the closing summary."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from flserve_app.compose.summary import readable_bytes, share
from flserve_app.strategy import RoundRow, round_line
from flserve_app.strategy.row_line import accuracy_text


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Return the closing summary as a table."""
    table = Table(title="flserve run", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    if summary.get("resumed_from"):
        table.add_row("resumed from", summary["resumed_from"])
    table.add_row("versions", f"{summary['versions']} (latest v{summary['final_version']})")
    table.add_row("final accuracy", accuracy_text(summary["final_accuracy"], summary.get("final_client_accuracy")))
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


def summary_line(summary: Mapping[str, Any]) -> str:
    """Return the closing summary in one line, for one job of many."""
    accuracy = accuracy_text(summary["final_accuracy"], summary.get("final_client_accuracy"))
    sent = summary["bytes_down"] + summary["bytes_up"]
    saved = share(sent, summary["bytes_down_full"] + summary["bytes_up_full"])
    digest = summary["final_digest"][:12]
    return f"v{summary['final_version']} {digest}  accuracy {accuracy}  {saved} of full  {summary['seconds']:.1f} s"


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
        self._streams: list[tuple[logging.StreamHandler[Any], Any]] = []
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar = self._progress.add_task("rounds", total=num_rounds, status="waiting for clients")
            self._progress.start()
            self._through_bar()

    def show(self, row: RoundRow) -> None:
        """Show a finished round; on a terminal its line stays above the bar."""
        if self._progress is None:
            self._line(round_line(row))
            return
        self._progress.console.print(round_line(row), soft_wrap=True, highlight=False, markup=False)
        central, clients = row.accuracy, row.metrics.get("client_accuracy")
        accuracy = "" if central is None and clients is None else f" accuracy {accuracy_text(central, clients)}"
        saved = share(row.bytes_down + row.bytes_up, row.bytes_down_full + row.bytes_up_full)
        self._progress.update(self._bar, completed=row.round, status=f"v{row.version}{accuracy} {saved} of full bytes")

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """End the bar and show the summary, if the run has one."""
        if self._progress is not None:
            for handler, stream in self._streams:
                handler.setStream(stream)
            self._streams.clear()
            self._progress.stop()
        if summary is not None:
            self._console.print(summary_table(summary))

    def _through_bar(self) -> None:
        """Let Flower's log go above the bar: it took hold of stderr before the bar put itself in between."""
        for handler in logging.getLogger("flwr").handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.__stderr__, sys.__stdout__):
                self._streams.append((handler, handler.stream))
                handler.setStream(sys.stderr)
