"""The two sides of `flserve bench round`, taking turns on one Grid.

Plain is Flower's FedAvg by itself, versioned is the same FedAvg inside `VersionedStrategy`; job, clients and
Grid are the same. A round is all of it: sampling, delivery, training, the way back, aggregation. The first round
of a turn, in which clients see the model for the first time, is left out for both.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from flserve_app.client.records import to_record
from flserve_app.compose.client_settings import KEY, ClientSettings
from flserve_app.compose.parts import model_of, task_spec
from flserve_app.config import AppConfig, load
from flserve_app.errors import ConfigError
from flserve_app.strategy import RoundRow, VersionedStrategy
from flserve_app.task.models import initial_artifact

PHASES = ("encode", "wait", "fetch", "train", "update", "decode", "publish")
CLIENTS = 4
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


def compose(job: str, codec: str) -> AppConfig:
    """Return a job's configuration, with a codec both ways.

    Raises:
        ConfigError: If the job or the codec is unknown.
    """
    if job not in JOBS:
        raise ConfigError(f"job {job!r} is unknown; known: {', '.join(JOBS)}")
    return load([*JOBS[job], f"num_clients={CLIENTS}", f"codec={codec}", f"uplink={codec}"]).app


def take_turns(grid: Grid, job: str, *, rounds: int, turns: int, codec: str, folder: Path | None = None) -> RoundCost:
    """Measure a job on a Grid whose `CLIENTS` nodes are there.

    Args:
        grid: What carries the messages.
        job: Name of the job.
        rounds: Counted rounds of a turn; one more comes before them.
        turns: How often plain and versioned take turns.
        codec: Delivery codec and uplink codec.
        folder: Where the versions are kept for the time of a turn; None for the usual temporary place.

    Raises:
        ConfigError: If the job or the codec is unknown.
    """
    app = compose(job, codec)
    initial = initial_artifact(model_of(app).build(task_spec(app, CLIENTS)))
    plain: list[float] = []
    rows: list[RoundRow] = []
    for _ in range(turns):
        plain.extend(_plain(grid, app, to_record(initial), rounds))
        rows.extend(_versioned(grid, app, to_record(initial), rounds, folder))
    return RoundCost(
        job=job,
        megabytes=initial.nbytes / 1e6,
        plain_seconds=tuple(plain),
        versioned_seconds=tuple(row.seconds for row in rows),
        phases={phase: median(getattr(row, f"{phase}_seconds") for row in rows) for phase in PHASES},
    )


def _plain(grid: Grid, app: AppConfig, initial: ArrayRecord, rounds: int) -> list[float]:
    """Return the seconds of plain rounds, without the first; a round ends when the next could begin."""
    ends: list[float] = []

    def note(_: int, __: ArrayRecord) -> MetricRecord | None:
        ends.append(time.perf_counter())
        return None

    _everyone().start(
        grid, initial, num_rounds=rounds + 1, timeout=app.timeout, train_config=told(app), evaluate_fn=note
    )
    return [after - before for before, after in pairwise(ends[1:])]


def _versioned(grid: Grid, app: AppConfig, initial: ArrayRecord, rounds: int, folder: Path | None) -> list[RoundRow]:
    rows: list[RoundRow] = []
    with tempfile.TemporaryDirectory(prefix="flserve-bench-", dir=folder) as place:
        strategy = VersionedStrategy(
            _everyone(),
            store=Path(place) / "store",
            codec=app.codec.name,
            uplink=app.uplink.name,
            num_clients=CLIENTS,
            observer=rows.append,
        )
        with strategy.registry:
            strategy.start(grid, initial, num_rounds=rounds + 1, timeout=app.timeout, train_config=told(app))
    return rows[2:]


def _everyone() -> FedAvg:
    return FedAvg(fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)


def told(app: AppConfig) -> ConfigRecord:
    """Return what the clients of a configuration are told with every message to train."""
    settings = ClientSettings(
        spec=task_spec(app, app.num_clients),
        model=model_of(app),
        epochs=app.train.epochs,
        batch_size=app.train.batch_size,
        lr=app.train.lr,
        momentum=app.train.momentum,
        proximal=app.train.proximal,
    )
    return ConfigRecord({KEY: settings.to_json()})
