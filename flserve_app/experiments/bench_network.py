"""`flserve bench network`: plain Flower and versions over links as slow as those to real clients.

A SuperLink and SuperNodes, each in a network namespace of its own with a shaped link (see `network`), train one
job with plain FedAvg and then with versions (see `race`): seconds a round and to an accuracy, and beside them
Flower's own floor over the same links, a round of queries that do nothing. A round cannot be shorter than that,
whatever is sent: nodes poll, and every message has a process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from flserve_app.compose.job import check
from flserve_app.compose.parts import model_of, task_spec
from flserve_app.compose.summary import readable_bytes
from flserve_app.experiments.byte_curve import MARGIN, WINDOW
from flserve_app.experiments.console import report_console
from flserve_app.experiments.network import shaped_network
from flserve_app.experiments.network_app import Measured, measured_of, write_app
from flserve_app.experiments.race import Race, Side, compose
from flserve_app.experiments.submitted_app import submit
from flserve_app.task.models import initial_artifact

ROUNDS, NODES, MBIT = 8, 2, 20.0
MORE = 2  # rounds with versions, in rounds of plain: what is rounded may take longer to learn
START_LIMIT_SECONDS = 300.0
ROUND_LIMIT_SECONDS = 60.0
SLOWEST = 3  # times what the links take at their rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was measured, and of what.

    Attributes:
        mbit: Rate of every link and direction, 10**6 bits a second.
        nodes: Number of SuperNodes.
        megabytes: Size of the model, 10**6 bytes.
        codec: Codec of delivery.
        uplink: Codec of the updates.
        strategy: Strategy of the side with versions.
        measured: The figures.
    """

    mbit: float
    nodes: int
    megabytes: float
    codec: str
    uplink: str
    strategy: str
    measured: Measured


def run(overrides: Sequence[str] = (), *, mbit: float = MBIT, nodes: int = NODES, rounds: int = ROUNDS) -> Report:
    """Measure.

    Args:
        overrides: Hydra's, as of `race.compose`.
        mbit: Rate of every link and direction, 10**6 bits a second.
        nodes: Number of SuperNodes.
        rounds: Rounds of plain Flower; with versions there are `MORE` times as many.

    Raises:
        ConfigError: If the job cannot be run, or a number is out of its range.
        DeliveryError: If a shaped network is not permitted here, the SuperLink does not start, or the run fails.
    """
    most = MORE * rounds
    app = compose(overrides, nodes=nodes, rounds=most, timeout=ROUND_LIMIT_SECONDS).app
    check(app, nodes, Path())  # its store is the run's own: no folder is looked at
    megabytes = initial_artifact(model_of(app).build(task_spec(app, nodes))).nbytes / 1e6
    with (
        shaped_network(nodes, mbit) as network,
        tempfile.TemporaryDirectory(
            prefix="flserve-bench-",
            ignore_cleanup_errors=True,  # Flower's processes may still write there while they end
        ) as folder,
    ):
        timeout = ROUND_LIMIT_SECONDS + SLOWEST * 2 * 8 * megabytes / mbit
        place = Path(folder) / "app"
        write_app(place, overrides=overrides, nodes=nodes, rounds=rounds, most_rounds=most, timeout=timeout)
        measured = measured_of(submit(place, network, START_LIMIT_SECONDS + (rounds + most) * timeout))
    return Report(
        mbit=mbit,
        nodes=nodes,
        megabytes=megabytes,
        codec=app.codec.name,
        uplink=app.uplink.name,
        strategy=app.strategy.name,
        measured=measured,
    )


def as_json(report: Report) -> dict[str, Any]:
    """Return the figures, and what follows from them, as one JSON object."""
    race = report.measured.race
    seconds = race.versions_seconds
    return {
        **asdict(report),
        "floor": median(report.measured.floor_seconds),
        "plain_round": race.plain.usual,
        "versions_round": race.versions.usual,
        "faster_round": race.plain.usual / race.versions.usual,
        "target": race.target,
        "plain_reached": race.plain.reached(race.target),
        "versions_reached": race.versions.reached(race.target),
        "plain_seconds": race.plain_seconds,
        "versions_seconds": seconds,
        "faster_to_target": None if seconds is None else race.plain_seconds / seconds,
    }


def show(report: Report) -> None:
    """Print both sides, their accuracy by round, and Flower's floor."""
    race, floor = report.measured.race, report.measured.floor_seconds
    console = report_console()
    console.print(_sides(report), _accuracies(race))
    least = 2 * 8 * report.megabytes / report.mbit
    console.print(
        f"Flower's floor over these links, a round of queries that do nothing: {median(floor):.1f} s (median of "
        f"{len(floor)}); the model there and back takes a link {least:.1f} s at least",
        soft_wrap=True,
    )


def _sides(report: Report) -> Table:
    race = report.measured.race
    caption = (
        f"reached {race.target:.4f}: in the mean of {WINDOW} rounds at most {100 * MARGIN:g} points below plain's last "
        "round, both by the same rule; seconds from the start of a side, greeting and evaluation included; bytes a "
        "round after the first, all clients, both ways"
    )
    title = f"{report.nodes} clients, {report.megabytes:.1f} MB, {report.mbit:g} Mbit/s each and each way"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("", no_wrap=True)
    for head in ("first round s", "round s", "payloads", "messages", "on the links", "reached in", "s to reach"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_row("plain FedAvg", *_cells(race.plain, race.target, f"{race.plain_seconds:.1f}"))
    seconds = race.versions_seconds
    delivery = f"{report.codec} / {report.uplink}, {report.strategy}"
    table.add_row(delivery, *_cells(race.versions, race.target, "-" if seconds is None else f"{seconds:.1f}"))
    faster = "-" if seconds is None else f"{race.plain_seconds / seconds:.1f} x"
    table.add_row("faster", "", f"{race.plain.usual / race.versions.usual:.1f} x", "", "", "", "", faster)
    return table


def _cells(side: Side, target: float, seconds: str) -> tuple[str, ...]:
    reached = side.reached(target)
    amounts = (side.curve.payload, side.curve.message, side.carried[1:])
    return (
        f"{side.first:.1f}",
        f"{side.usual:.1f}",
        *(readable_bytes(round((amount[-1] - amount[0]) / (len(amount) - 1))) for amount in amounts),
        f"not in {len(side.curve.accuracy)}" if reached is None else f"{reached} rounds",
        seconds,
    )


def _accuracies(race: Race) -> Table:
    table = Table(title="Accuracy by round, and the seconds it was there", title_justify="left")
    for head in ("round", "plain", "s", "with versions", "s"):
        table.add_column(head, justify="right", no_wrap=True)
    plain, versions = _points(race.plain), _points(race.versions)
    for number in range(max(len(plain), len(versions))):
        cells = (points[number] if number < len(points) else ("", "") for points in (plain, versions))
        table.add_row(f"{number + 1}", *(cell for pair in cells for cell in pair))
    return table


def _points(side: Side) -> list[tuple[str, str]]:
    pairs = zip(side.curve.accuracy, side.seconds[1:], strict=True)
    return [(f"{accuracy:.4f}", f"{seconds:.1f}") for accuracy, seconds in pairs]
