"""One job from its configuration to its summary: what `flwr run` and `flserve run` have in common.

The run is recorded in the store before its first version and closed however it ends, and every round's row is
on disk before the next begins. A model with private tensors is evaluated by its clients alone: nobody else has all
of it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from logging import INFO
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord
from flwr.common.logger import log
from flwr.serverapp import Grid

from flserve_app.client.records import to_record
from flserve_app.compose.client_settings import KEY, ClientSettings
from flserve_app.compose.codecs import check_codecs, codec_of, schedules_of
from flserve_app.compose.folder import RunFolder
from flserve_app.compose.parts import CentralEvaluation, model_of, task_spec
from flserve_app.compose.privacy import told as told_of_privacy
from flserve_app.compose.roles import check_roles, roles_of
from flserve_app.compose.stores import open_store, serving_of
from flserve_app.compose.strategies import inner_strategy
from flserve_app.compose.summary import summarise
from flserve_app.config import AppConfig, Composed
from flserve_app.delivery import CacheInfo
from flserve_app.errors import DeliveryError
from flserve_app.registry import Registry
from flserve_app.strategy import RoundRow, VersionedStrategy, check_name, count_nodes
from flserve_app.task import client_data
from flserve_app.task.models import initial_artifact

Observer = Callable[[RoundRow], None]


def run_job(grid: Grid, composed: Composed, path: Path, observer: Observer) -> dict[str, Any]:
    """Run a configured experiment on a Grid.

    Args:
        grid: Flower's Grid.
        composed: The configuration.
        path: The run folder.
        observer: Called with every finished round.

    Returns:
        The summary, as it stands in `summary.json`.

    Raises:
        FlserveError: Whatever keeps the run from being done.
    """
    started = time.perf_counter()
    app = composed.app
    folder = RunFolder(path)
    clients = app.num_clients or count_nodes(grid, app.wait_seconds)
    settled = {**composed.resolved, "num_clients": clients}
    folder.write_config(settled)
    rows: list[RoundRow] = []

    def note(row: RoundRow) -> None:
        rows.append(row)
        folder.append(row)
        observer(row)

    with open_store(app, folder.path) as registry:
        check_name(registry, model_name(app), resume=app.resume)
        run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        registry.start_run(run, model_name(app), config=settled)
        try:
            payloads = _federate(grid, app, registry, clients, run, note)
        except BaseException:
            registry.finish_run(run, "failed")
            raise
        registry.finish_run(run, "finished")
        summary = summarise(
            rows,
            versions=len(registry.versions(model_name(app))),
            seconds=time.perf_counter() - started,
            payloads=asdict(payloads),
            **_facts(app, folder, run, clients),
        )
    folder.write_summary(summary)
    if app.num_rounds and rows and not any(row.clients for row in rows[1:]) and summary["failures"]:
        raise DeliveryError(
            f"no round trained: {summary['failures']} messages failed and none was answered; see {folder.path}"
        )
    return summary


def check(app: AppConfig, clients: int, folder: Path) -> None:
    """Refuse what cannot be run, before anything is started.

    Raises:
        FlserveError: As `run_job`.
    """
    spec = task_spec(app, clients)
    initial = initial_artifact(model_of(app).build(spec))
    client_data(spec, 0)
    strategy = inner_strategy(app.strategy, clients)
    check_codecs(app, strategy)
    check_roles(app, strategy, initial)
    if app.store is not None:
        with open_store(app, folder) as registry:
            check_name(registry, model_name(app), resume=app.resume)


def model_name(app: AppConfig) -> str:
    """Return the name a job publishes under."""
    return app.model_name or f"{app.task.name}-{app.model.name}"


def _facts(app: AppConfig, folder: RunFolder, run: str, clients: int) -> dict[str, Any]:
    return {
        "run": run,
        "folder": str(folder.path),
        "store": str(folder.path / "store" if app.store is None else Path(app.store).expanduser().absolute()),
        "model_name": model_name(app),
        "codec": app.codec.name,
        "uplink": app.uplink.name,
        "seed": app.seed,
        "clients": clients,
    }


def _federate(grid: Grid, app: AppConfig, registry: Registry, clients: int, run: str, note: Observer) -> CacheInfo:
    spec, model = task_spec(app, clients), model_of(app)
    evaluation, roles = CentralEvaluation(model, spec), roles_of(app)
    central = not roles.private(evaluation.initial)
    if not central:
        log(
            INFO, "flserve: the server evaluates no private tensors; strategy.clients_per_evaluation lets clients do so"
        )
    settings = ClientSettings(
        spec=spec,
        model=model,
        epochs=app.train.epochs,
        batch_size=app.train.batch_size,
        lr=app.train.lr,
        momentum=app.train.momentum,
        proximal=app.train.proximal,
    )
    strategy = VersionedStrategy(
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
    told = {KEY: settings.to_json()}
    strategy.start(
        grid=grid,
        initial_arrays=to_record(evaluation.initial),
        num_rounds=app.num_rounds,
        timeout=app.timeout,
        train_config=ConfigRecord({**told, **told_of_privacy(app.strategy.dp)}),
        evaluate_config=ConfigRecord(dict(told)),
        evaluate_fn=evaluation if central else None,
    )
    return strategy.cache_info()
