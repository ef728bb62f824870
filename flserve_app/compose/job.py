"""One job from its configuration to its summary: what `flwr run` and `flserve run` have in common.

Nothing is written before all that can be refused was looked at, with the model's name leased. The run is recorded in
the store before its first version and closed however it ends, and every round's row is on disk before the next begins.
A model with private tensors is evaluated by its clients alone: nobody else has all of it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from logging import INFO
from pathlib import Path
from typing import Any, final

from flwr.app import ConfigRecord
from flwr.common.logger import log
from flwr.serverapp import Grid

from flserve_app.client.records import to_record
from flserve_app.compose.client_settings import KEY, ClientSettings
from flserve_app.compose.codecs import check_codecs, codec_of, schedules_of
from flserve_app.compose.folder import NO_FILES, RunFolder
from flserve_app.compose.parts import CentralEvaluation, model_of, task_spec
from flserve_app.compose.privacy import told as told_of_privacy
from flserve_app.compose.resumption import check_resumable, check_store_to_resume, clients_before, tell_nothing_found
from flserve_app.compose.roles import check_roles, roles_of
from flserve_app.compose.stores import open_store, serving_of, store_path
from flserve_app.compose.strategies import inner_strategy
from flserve_app.compose.summary import summarise
from flserve_app.config import AppConfig, Composed
from flserve_app.delivery import CacheInfo
from flserve_app.errors import DeliveryError, Interrupted, StoreError
from flserve_app.registry import Registry
from flserve_app.strategy import RoundRow, VersionedStrategy, count_nodes
from flserve_app.task import client_data
from flserve_app.task.models import initial_artifact

Observer = Callable[[RoundRow], None]


def run_job(
    grid: Grid, composed: Composed, path: Path, observer: Observer, also: Mapping[str, str] = NO_FILES
) -> dict[str, Any]:
    """Run a configured experiment on a Grid.

    Args:
        grid: Flower's Grid.
        composed: The configuration.
        path: The run folder.
        observer: Called with every finished round.
        also: Further files that say how it was started, by their paths in the folder.

    Returns:
        The summary, as it stands in `summary.json`.

    Raises:
        FlserveError: Whatever keeps the run from being done.
    """
    started = time.perf_counter()
    app = composed.app
    folder = RunFolder(path)
    folder.check(composed.resolved)
    check_store_to_resume(app, folder.path)
    rows: list[RoundRow] = []

    def note(row: RoundRow) -> None:
        rows.append(row)
        folder.append(row)
        observer(row)

    run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    with open_store(app, folder.path) as registry, registry.leases.hold(model_name(app), run):
        before = clients_before(registry, model_name(app)) if app.resume else None
        clients = app.num_clients or before or count_nodes(grid, app.wait_seconds)
        settled = {**composed.resolved, "num_clients": clients}
        latest = check_resumable(registry, model_name(app), settled)
        if app.resume and latest is None:
            tell_nothing_found(registry, model_name(app))
        job = _Job(app, registry, clients, run, note)
        with folder.admitted(settled, also), _recorded(registry, run, model_name(app), settled):
            payloads = job.federate(grid)
        summary = summarise(
            rows,
            versions=len(registry.versions(model_name(app))),
            seconds=time.perf_counter() - started,
            payloads=asdict(payloads),
            resumed_from=None if latest is None else latest.name,
            **_facts(app, folder, run, clients),
        )
    folder.write_summary(summary)
    if app.num_rounds and rows and not any(row.clients for row in rows[1:]) and summary["failures"]:
        raise DeliveryError(
            f"no round trained: {summary['failures']} messages failed and none was answered; see {folder.path}"
        )
    return summary


def check(app: AppConfig, clients: int, folder: Path) -> None:
    """Refuse what cannot be run, before anything is started or written.

    Raises:
        FlserveError: As `run_job`.
    """
    settled = {**asdict(app), "num_clients": clients}
    RunFolder(folder).check(settled)
    check_store_to_resume(app, folder)
    spec = task_spec(app, clients)
    initial = initial_artifact(model_of(app).build(spec))
    client_data(spec, 0)
    strategy = inner_strategy(app.strategy, clients)
    check_codecs(app, strategy)
    check_roles(app, strategy, initial)
    if os.path.exists(store_path(app, folder)):  # a path that cannot be looked at is refused when it is opened
        with open_store(app, folder) as registry:
            registry.leases.check_free(model_name(app))
            check_resumable(registry, model_name(app), settled)


def model_name(app: AppConfig) -> str:
    """Return the name a job publishes under."""
    return app.model_name or f"{app.task.name}-{app.model.name}"


def _facts(app: AppConfig, folder: RunFolder, run: str, clients: int) -> dict[str, Any]:
    return {
        "run": run,
        "folder": str(folder.path),
        "store": str(store_path(app, folder.path).absolute()),
        "model_name": model_name(app),
        "codec": app.codec.name,
        "uplink": app.uplink.name,
        "seed": app.seed,
        "clients": clients,
    }


@contextmanager
def _recorded(registry: Registry, run: str, model: str, settled: Mapping[str, Any]) -> Iterator[None]:
    """Record a run in the store for a block, and how it ended."""
    registry.start_run(run, model, config=settled)
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit | Interrupted)
        # Where that cannot be written any more, why the run ended is what matters.
        with suppress(StoreError):
            registry.finish_run(run, "interrupted" if stopped else "failed")
        raise
    registry.finish_run(run, "finished")


@final
class _Job:
    """The parts of one run: all that can be refused is refused when they are made."""

    def __init__(self, app: AppConfig, registry: Registry, clients: int, run: str, note: Observer) -> None:
        spec, model = task_spec(app, clients), model_of(app)
        self._app = app
        self._evaluation, roles = CentralEvaluation(model, spec), roles_of(app)
        self._central = not roles.private(self._evaluation.initial)
        self._settings = ClientSettings(
            spec=spec,
            model=model,
            epochs=app.train.epochs,
            batch_size=app.train.batch_size,
            lr=app.train.lr,
            momentum=app.train.momentum,
            proximal=app.train.proximal,
            optimizer=app.train.optimizer,
        )
        self._strategy = VersionedStrategy(
            inner_strategy(app.strategy, clients),
            store=registry,
            codec=codec_of(app.codec, "codec"),
            uplink=codec_of(app.uplink, "uplink"),
            schedules=schedules_of(app.strategy),
            model_name=model_name(app),
            seed=app.seed,
            run=run,
            serving=serving_of(model, spec),
            resume=app.resume,
            num_clients=clients,
            wait_seconds=app.wait_seconds,
            observer=note,
            late=app.strategy.late,
            staleness=app.strategy.staleness,
            nonfinite=app.strategy.nonfinite,
            roles=dict(roles.rules),
        )

    def federate(self, grid: Grid) -> CacheInfo:
        """Run the rounds; returns the counters of the payloads."""
        if not self._central:
            log(
                INFO,
                "flserve: the server evaluates no private tensors; strategy.clients_per_evaluation lets clients do so",
            )
        told = {KEY: self._settings.to_json()}
        self._strategy.start(
            grid=grid,
            initial_arrays=to_record(self._evaluation.initial),
            num_rounds=self._app.num_rounds,
            timeout=self._app.timeout,
            train_config=ConfigRecord({**told, **told_of_privacy(self._app.strategy.dp)}),
            evaluate_config=ConfigRecord(dict(told)),
            evaluate_fn=self._evaluation if self._central else None,
        )
        return self._strategy.cache_info()
