"""A round in one line, for people: what a run shows as rounds end, and logs if nobody else observes."""

from __future__ import annotations

from logging import INFO

from flwr.common.logger import log

from flserve_app.strategy.ledger import RoundRow
from flserve_app.text import readable_bytes, share

MOST_METRICS = 3


def round_line(row: RoundRow) -> str:
    """Return a round in one line."""
    plans = ", ".join(f"{count} {kind}" for kind, count in row.plans.items()) or "none"
    return (
        f"round {row.round:>3}  v{row.version} {row.digest[:12]}  {_measured(row)}  "
        f"down {readable_bytes(row.bytes_down)} ({share(row.bytes_down, row.bytes_down_full)} of full)  "
        f"up {readable_bytes(row.bytes_up)} ({share(row.bytes_up, row.bytes_up_full)})  "
        f"sent {plans}  {row.seconds:.2f} s{'  finer steps' if row.coarse else ''}"
    )


def log_row(row: RoundRow) -> None:
    """Log a round's line: the observer of a strategy that is given none."""
    log(INFO, "flserve: %s", round_line(row))


def accuracy_text(central: float | None, clients: float | None) -> str:
    """Return the server's accuracy, or that of the clients where the server measures none."""
    if central is not None or clients is None:
        return "-" if central is None else f"{central:.4f}"
    return f"{clients:.4f} (clients)"


def _measured(row: RoundRow) -> str:
    """Return the accuracy; where there is none of that name, the first metrics that there are."""
    clients = row.metrics.get("client_accuracy")
    others = [(name, value) for name, value in row.metrics.items() if not name.startswith("train_")]
    if row.accuracy is not None or clients is not None or not others:
        return f"accuracy {accuracy_text(row.accuracy, clients)}"
    return "  ".join(f"{name} {value:.4g}" for name, value in others[:MOST_METRICS])
