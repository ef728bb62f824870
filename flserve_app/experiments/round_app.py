"""The server of the app that `flserve bench round --engine superlink` submits.

It measures the floor, and lets plain and versioned take turns at every job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid

from flserve_app.experiments.submitted_app import leave_result, measure_floor, write_project
from flserve_app.experiments.turns import CLIENTS, RoundCost, compose, take_turns


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the app measured.

    Attributes:
        floor_seconds: Rounds of a query that does nothing.
        costs: What a round of each job took.
    """

    floor_seconds: tuple[float, ...]
    costs: tuple[RoundCost, ...]


def write_app(folder: Path, *, jobs: Sequence[str], rounds: int, turns: int, codec: str) -> None:
    """Write the app, and with it what it is to measure, into a folder that does not exist yet."""
    write_project(folder, __name__, {"jobs": ",".join(jobs), "rounds": rounds, "turns": turns, "codec": codec})


def measured_of(found: Any) -> Measured:
    """Return what the app left as a value."""
    return Measured(floor_seconds=tuple(found["floor_seconds"]), costs=tuple(_cost(entry) for entry in found["costs"]))


def serve(grid: Grid, context: Context) -> None:
    """Measure what the app's configuration names, and write it down.

    Raises:
        FlserveError: If it cannot be measured; the reason is written down, too.
    """
    config: Any = context.run_config
    folder = Path(config["folder"])
    leave_result(folder, lambda: _measure(grid, config, folder))


def _measure(grid: Grid, config: Any, folder: Path) -> Measured:
    jobs = config["jobs"].split(",")
    for job in jobs:
        compose(job, config["codec"])
    floor = measure_floor(grid, CLIENTS)
    costs = tuple(
        take_turns(grid, job, rounds=config["rounds"], turns=config["turns"], codec=config["codec"], folder=folder)
        for job in jobs
    )
    return Measured(floor_seconds=floor, costs=costs)


def _cost(entry: dict[str, Any]) -> RoundCost:
    return RoundCost(
        job=entry["job"],
        megabytes=entry["megabytes"],
        plain_seconds=tuple(entry["plain_seconds"]),
        versioned_seconds=tuple(entry["versioned_seconds"]),
        phases=entry["phases"],
    )
