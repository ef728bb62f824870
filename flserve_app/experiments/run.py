"""`flserve run`: one experiment, or a sweep of them, as a Hydra app.

Hydra composes, makes the run folder and sweeps; the job is the same as under `flwr run`. Hydra's own error
screens are replaced by one sentence: whatever it objects to is raised as `ConfigError`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from flwr.serverapp import Grid
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flserve_app.client.policy import SitePolicy
from flserve_app.compose.apps import make_client_app
from flserve_app.compose.client_limits import is_place, place_of
from flserve_app.compose.folder import NO_FILES
from flserve_app.compose.job import check, run_job
from flserve_app.compose.screen import Screen, sweep_table
from flserve_app.config import AppConfig, Composed, checked, conf_dir, one_sentence, register_schemas
from flserve_app.errors import ConfigError, FlserveError, StoreError
from flserve_app.experiments.console import report_console
from flserve_app.experiments.engine import federate

DEFAULT_CLIENTS = 10
PLAIN_WIDTH = 120


def run(overrides: Sequence[str]) -> None:
    """Run what the overrides describe; `-m` sweeps.

    Raises:
        ConfigError: If the configuration does not compose.
        FlserveError: Whatever keeps a run from being done.
    """
    register_schemas()
    logging.getLogger("numexpr").setLevel(logging.WARNING)  # else its thread count is news in every run
    done: list[tuple[str, dict[str, Any]]] = []
    failed: list[FlserveError] = []

    started: list[DictConfig] = []

    def job(config: DictConfig) -> float | None:
        started.append(config)
        try:
            summary = _job(config)
        except FlserveError as error:  # a sweep goes on with its other jobs
            failed.append(error)
            return None
        except OSError as error:
            failed.append(StoreError(one_sentence(error)))
            return None
        done.append((" ".join(HydraConfig.get().overrides.task), summary))
        accuracy: float | None = summary["final_accuracy"]
        return accuracy

    try:
        with _called("flserve run", overrides):
            hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_sentence(error)) from error
    except (ValueError, OSError) as error:
        if started:
            raise
        # Hydra's way to refuse some overrides, or a run folder that cannot be made
        raise ConfigError(one_sentence(error)) from error
    if len(done) > 1:
        report_console(PLAIN_WIDTH).print(sweep_table(done))
    if failed:
        raise failed[0]


def run_simulated(composed: Composed, folder: Path, also: Mapping[str, str] = NO_FILES) -> dict[str, Any]:
    """Run one composed experiment over simulated clients.

    Args:
        composed: The configuration.
        folder: The run folder.
        also: Further files that say how it was started, by their paths in the folder.

    Returns:
        The summary.
    """
    clients = composed.app.num_clients or DEFAULT_CLIENTS
    check(composed.app, clients, folder)
    console = report_console(PLAIN_WIDTH)
    screen = Screen(composed.app.num_rounds, partial(console.print, soft_wrap=True, highlight=False), console)
    summaries: list[dict[str, Any]] = []

    def serve(grid: Grid) -> None:
        summaries.append(run_job(grid, composed, folder, screen.show, also))

    try:
        federate(composed.app.engine, serve, make_client_app(), clients, _allowed(composed.app, clients))
    finally:
        screen.close(summaries[0] if summaries else None)
    return summaries[0]


def _allowed(app: AppConfig, clients: int) -> dict[str, str]:
    """Return what the user's own simulated clients may do: what the user just asked for."""
    least = SitePolicy()
    allowed = {
        "FLSERVE_MAX_CLIENTS": str(max(clients, least.max_clients)),
        "FLSERVE_MAX_EPOCHS": str(max(app.train.epochs, least.max_epochs)),
    }
    allowed = {name: value for name, value in allowed.items() if not os.environ.get(name)}
    if app.task.name == "hub" and is_place(app.task.hub.dataset):
        folders = filter(None, (os.environ.get("FLSERVE_DATA_FOLDERS"), str(place_of(app.task.hub.dataset).absolute())))
        allowed["FLSERVE_DATA_FOLDERS"] = os.pathsep.join(folders)
    return allowed


def _job(config: DictConfig) -> dict[str, Any]:
    output = HydraConfig.get().runtime.output_dir
    return run_simulated(checked(config, output), Path(output), _started_by(config))


def _started_by(config: DictConfig) -> dict[str, str]:
    """Return the files that Hydra keeps beside a job, unless it was told to write them itself."""
    settings = HydraConfig.get()
    if settings.output_subdir is not None:
        return {}
    only_hydra = OmegaConf.create({"hydra": settings})
    kept = {"config": config, "hydra": only_hydra, "overrides": settings.overrides.task}
    return {f".hydra/{name}.yaml": OmegaConf.to_yaml(part) for name, part in kept.items()}


@contextmanager
def _called(name: str, arguments: Sequence[str]) -> Iterator[None]:
    """Let Hydra, which reads the process's own arguments, see these, and raise its errors as they are."""
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [name, *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR") if full is None else os.environ.update(HYDRA_FULL_ERROR=full)
