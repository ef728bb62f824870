"""The server of the app that `flserve bench network` submits: the floor, then both sides of a race."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid

from flserve_app.experiments.byte_curve import Curve
from flserve_app.experiments.network import carried_bytes
from flserve_app.experiments.race import Race, Side, compose, run_plain, run_versions
from flserve_app.experiments.submitted_app import leave_result, measure_floor, write_project


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the app measured.

    Attributes:
        floor_seconds: Rounds of a query that does nothing, over the same links.
        race: Both sides.
    """

    floor_seconds: tuple[float, ...]
    race: Race


def write_app(
    folder: Path, *, overrides: Sequence[str], nodes: int, rounds: int, most_rounds: int, timeout: float
) -> None:
    """Write the app, and with it what it is to measure, into a folder that does not exist yet.

    Args:
        folder: The folder.
        overrides: Hydra's, as of `race.compose`.
        nodes: Number of SuperNodes.
        rounds: Rounds of plain Flower.
        most_rounds: Rounds with versions.
        timeout: Seconds to wait for the replies of a round.
    """
    counts = {"nodes": nodes, "rounds": rounds, "most_rounds": most_rounds, "timeout": timeout}
    write_project(folder, __name__, {"overrides": json.dumps(list(overrides)), **counts})


def measured_of(found: Any) -> Measured:
    """Return what the app left as a value."""
    sides = {name: _side(found["race"][name]) for name in ("plain", "versions")}
    return Measured(floor_seconds=tuple(found["floor_seconds"]), race=Race(**sides))


def serve(grid: Grid, context: Context) -> None:
    """Measure what the app's configuration names, and write it down.

    Raises:
        FlserveError: If it cannot be measured; the reason is written down, too.
    """
    config: Any = context.run_config
    folder = Path(config["folder"])
    leave_result(folder, lambda: _measure(grid, config, folder))


def _measure(grid: Grid, config: Any, folder: Path) -> Measured:
    nodes = config["nodes"]
    overrides = json.loads(config["overrides"])
    composed = compose(overrides, nodes=nodes, rounds=config["most_rounds"], timeout=config["timeout"])
    floor = measure_floor(grid, nodes)
    plain = run_plain(grid, composed, config["rounds"], carried_bytes)
    versions = run_versions(grid, composed, folder / "run", carried_bytes)
    return Measured(floor_seconds=floor, race=Race(plain=plain, versions=versions))


def _side(found: Mapping[str, Any]) -> Side:
    curve = Curve(**{name: tuple(values) for name, values in found["curve"].items()})
    return Side(curve=curve, seconds=tuple(found["seconds"]), carried=tuple(found["carried"]))
