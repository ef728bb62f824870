"""`flserve bench round`: what versions cost or save a round, against plain Flower.

Both sides run the same job with the same clients in the same federation, taking turns (see `turns`), and the
medians of the round times are compared. The federation is
- Flower's simulation engine, where messages travel in memory: bytes cost nothing there, coding costs time;
- this process (`inprocess`), for quick looks;
- a SuperLink with SuperNodes on loopback that is started for it (`superlink`): messages travel in chunks over
  HTTP, both sides poll, and every message has a process of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from flwr.serverapp import Grid
from rich.table import Table

from flserve_app.compose.apps import make_client_app
from flserve_app.errors import ConfigError
from flserve_app.experiments.console import report_console
from flserve_app.experiments.engine import federate
from flserve_app.experiments.network import loopback
from flserve_app.experiments.round_app import Measured, measured_of, write_app
from flserve_app.experiments.submitted_app import submit
from flserve_app.experiments.turns import CLIENTS, JOBS, PHASES, RoundCost, compose, take_turns
from flserve_app.strategy import count_nodes

# Counted rounds of a turn, and turns: a few minutes each, at most.
ENGINES = {"simulation": (5, 3), "inprocess": (5, 3), "superlink": (2, 2)}
WAIT_SECONDS = 120.0
ROUND_LIMIT_SECONDS = 60.0
START_LIMIT_SECONDS = 300.0


def run(
    *,
    engine: str,
    rounds: int | None = None,
    turns: int | None = None,
    codec: str = "lossless",
    jobs: Sequence[str] = (),
) -> Measured:
    """Measure jobs.

    Args:
        engine: What the clients run in, a key of `ENGINES`.
        rounds: Counted rounds of a turn, one more comes before them; None for what suits the engine.
        turns: How often plain and versioned take turns; None for what suits the engine.
        codec: Delivery codec and uplink codec.
        jobs: Keys of `JOBS`; none for all.

    Raises:
        ConfigError: If the engine, a job or the codec is unknown.
        DeliveryError: If the SuperLink does not start, or the run on it fails.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine {engine!r} is unknown; known: {', '.join(ENGINES)}")
    jobs = tuple(jobs) or tuple(JOBS)
    for job in jobs:
        compose(job, codec)  # what is wrong is said before anything starts
    usual_rounds, usual_turns = ENGINES[engine]
    rounds, turns = rounds or usual_rounds, turns or usual_turns
    if engine == "superlink":
        return _on_superlink(jobs, rounds, turns, codec)
    costs = tuple(_in_engine(engine, job, rounds, turns, codec) for job in jobs)
    return Measured(floor_seconds=(), costs=costs)


def show(measured: Measured) -> None:
    """Print the comparison, where a versioned round's time goes, and Flower's floor if it was measured."""
    table = _table(
        f"A round of {CLIENTS} clients, medians",
        ("model", "MB", "rounds", "plain s", "flserve s", "more ms", "ratio"),
    )
    phases = _table("Where a round with versions spends its time, s", ("model", *PHASES))
    for cost in measured.costs:
        table.add_row(
            cost.job,
            f"{cost.megabytes:.2f}",
            f"{len(cost.plain_seconds)}",
            f"{cost.plain:.3f}",
            f"{cost.versioned:.3f}",
            f"{1000 * (cost.versioned - cost.plain):+.0f}",
            f"{cost.versioned / cost.plain:.2f}",
        )
        phases.add_row(cost.job, *(f"{cost.phases[phase]:.3f}" for phase in PHASES))
    console = report_console()
    console.print(table, phases)
    if measured.floor_seconds:
        floor = f"{median(measured.floor_seconds):.3f} s (median of {len(measured.floor_seconds)})"
        console.print(f"Flower's floor, a round of queries that do nothing: {floor}", soft_wrap=True)


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _in_engine(engine: str, job: str, rounds: int, turns: int, codec: str) -> RoundCost:
    costs: list[RoundCost] = []

    def serve(grid: Grid) -> None:
        count_nodes(grid, WAIT_SECONDS)
        costs.append(take_turns(grid, job, rounds=rounds, turns=turns, codec=codec))

    federate(engine, serve, make_client_app(), CLIENTS)
    return costs[0]


def _on_superlink(jobs: Sequence[str], rounds: int, turns: int, codec: str) -> Measured:
    limit = START_LIMIT_SECONDS + ROUND_LIMIT_SECONDS * 2 * len(jobs) * turns * (rounds + 1)
    # Flower's processes may still write there while they end.
    with tempfile.TemporaryDirectory(prefix="flserve-bench-", ignore_cleanup_errors=True) as folder:
        app = Path(folder) / "app"
        write_app(app, jobs=jobs, rounds=rounds, turns=turns, codec=codec)
        return measured_of(submit(app, loopback(CLIENTS), limit))
