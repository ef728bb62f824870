"""`flserve bench round`: what versions cost or save a round, against plain Flower.

Both sides run the same job with the same clients in the same simulation: Flower's FedAvg by itself, and the
same FedAvg inside `VersionedStrategy`. They take turns, a few rounds each, and the medians of the round times
are compared; the first round of a turn, in which clients see the model for the first time, is left out for
both. What is compared is a whole round: sampling, delivery, training, the way back, aggregation.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from rich.console import Console
from rich.table import Table

from flserve_app.client.records import to_record
from flserve_app.compose.apps import make_client_app
from flserve_app.compose.client_settings import KEY, ClientSettings
from flserve_app.compose.parts import model_of, task_spec
from flserve_app.config import AppConfig, load
from flserve_app.experiments.engine import federate
from flserve_app.strategy import RoundRow, VersionedStrategy, count_nodes
from flserve_app.task.models import initial_artifact

PHASES = ("encode", "wait", "fetch", "train", "update", "decode", "publish")
CLIENTS = 4
WAIT_SECONDS = 120.0
JOBS = {
    "small": ("task=synthetic", "model=mlp", "train.epochs=1", "train.lr=0.01", "train.momentum=0.0"),
    "50 MB": ("task=synthetic", "model=mlp", "model.arguments.hidden=290000", "train.epochs=1", "train.lr=0.01"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundCost:
    """What a round of one job took.

    Attributes:
        job: Name of the job.
        megabytes: Size of the model, 10**6 bytes.
        plain_seconds: Rounds of Flower's FedAvg.
        versioned_seconds: Rounds of the same with versions.
        phases: Median seconds of each phase of a versioned round; `fetch`, `train` and `update` are the slowest
            client's and part of `wait`.
    """

    job: str
    megabytes: float
    plain_seconds: tuple[float, ...]
    versioned_seconds: tuple[float, ...]
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def plain(self) -> float:
        """Median seconds of a plain round."""
        return median(self.plain_seconds)

    @property
    def versioned(self) -> float:
        """Median seconds of a versioned round."""
        return median(self.versioned_seconds)


def run(*, rounds: int, turns: int, engine: str = "simulation", codec: str = "lossless") -> list[RoundCost]:
    """Measure every job.

    Args:
        rounds: Counted rounds of a turn; one more comes before them.
        turns: How often plain and versioned take turns.
        engine: What the clients run in.
        codec: Delivery codec and uplink codec.
    """
    return [_measure(name, overrides, rounds, turns, engine, codec) for name, overrides in JOBS.items()]


def show(costs: Sequence[RoundCost]) -> None:
    """Print the comparison and where a versioned round's time goes."""
    table = _table(
        f"A round of {CLIENTS} clients, medians",
        ("model", "MB", "rounds", "plain s", "flserve s", "more ms", "ratio"),
    )
    phases = _table("Where a round with versions spends its time, s", ("model", *PHASES))
    for cost in costs:
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
    Console().print(table, phases)


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _measure(name: str, overrides: Sequence[str], rounds: int, turns: int, engine: str, codec: str) -> RoundCost:
    app = load([*overrides, f"num_clients={CLIENTS}", f"codec={codec}", f"uplink={codec}"]).app
    plain: list[float] = []
    versioned: list[float] = []
    rows: list[RoundRow] = []
    initial = initial_artifact(model_of(app).build(task_spec(app, CLIENTS)))

    def serve(grid: Grid) -> None:
        count_nodes(grid, WAIT_SECONDS)
        for _ in range(turns):
            plain.extend(_plain(grid, app, to_record(initial), rounds))
            found = _versioned(grid, app, to_record(initial), rounds)
            rows.extend(found)
            versioned.extend(row.seconds for row in found)

    federate(engine, serve, make_client_app(), CLIENTS)
    phases = {phase: median(getattr(row, f"{phase}_seconds") for row in rows) for phase in PHASES}
    return RoundCost(
        job=name,
        megabytes=initial.nbytes / 1e6,
        plain_seconds=tuple(plain),
        versioned_seconds=tuple(versioned),
        phases=phases,
    )


def _plain(grid: Grid, app: AppConfig, initial: ArrayRecord, rounds: int) -> list[float]:
    """Return the seconds of plain rounds, without the first; a round ends when the next could begin."""
    ends: list[float] = []

    def note(_: int, __: ArrayRecord) -> MetricRecord | None:
        ends.append(time.perf_counter())
        return None

    _everyone().start(
        grid, initial, num_rounds=rounds + 1, timeout=app.timeout, train_config=_told(app), evaluate_fn=note
    )
    return [after - before for before, after in pairwise(ends[1:])]


def _versioned(grid: Grid, app: AppConfig, initial: ArrayRecord, rounds: int) -> list[RoundRow]:
    rows: list[RoundRow] = []
    with tempfile.TemporaryDirectory(prefix="flserve-bench-") as folder:
        strategy = VersionedStrategy(
            _everyone(),
            store=Path(folder) / "store",
            codec=app.codec.name,
            uplink=app.uplink.name,
            num_clients=CLIENTS,
            observer=rows.append,
        )
        with strategy.registry:
            strategy.start(grid, initial, num_rounds=rounds + 1, timeout=app.timeout, train_config=_told(app))
    return rows[2:]


def _everyone() -> FedAvg:
    return FedAvg(fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)


def _told(app: AppConfig) -> ConfigRecord:
    settings = ClientSettings(
        spec=task_spec(app, CLIENTS),
        model=model_of(app),
        epochs=app.train.epochs,
        batch_size=app.train.batch_size,
        lr=app.train.lr,
        momentum=app.train.momentum,
    )
    return ConfigRecord({KEY: settings.to_json()})
