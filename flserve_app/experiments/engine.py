"""Where a run is started: Flower's simulation engine, or this process, behind one function.

Flower's Python entry point is marked for removal in favour of its command line, which needs a SuperLink and
packs the project for every run; nothing but this file knows about it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from flserve_app.errors import DeliveryError, FlserveError, Interrupted
from flserve_app.experiments.inprocess import InProcessGrid
from flserve_app.experiments.stopping import keep_signals

CPUS_A_CLIENT = 1
LOOK_SECONDS = 0.2
STOP_SECONDS = 3.0  # enough to end what is between two looks at the Grid
NOTHING_MORE: Mapping[str, str] = MappingProxyType({})


def federate(
    engine: str,
    serve: Callable[[Grid], None],
    client_app: ClientApp,
    num_clients: int,
    allowed: Mapping[str, str] = NOTHING_MORE,
) -> None:
    """Run a federation of simulated nodes.

    Args:
        engine: `simulation` or `inprocess`.
        serve: What the server does with its Grid.
        client_app: What every node runs.
        num_clients: Number of nodes.
        allowed: What the user, who owns these nodes, allows them beside the site policy's defaults: environment
            variables of it.

    Raises:
        FlserveError: Whatever `serve` raised, or that the engine did not run it.
    """
    with _quiet(), _allowing(allowed):
        if engine == "inprocess":
            with InProcessGrid(client_app, num_clients) as grid:
                serve(grid)
        else:
            _simulate(serve, client_app, num_clients)


def _simulate(serve: Callable[[Grid], None], client_app: ClientApp, num_clients: int) -> None:
    """Run the engine in a thread of its own, so that this one hears signals, which Ray would take over."""
    stopping = threading.Event()
    outcome: Future[None] = Future()

    def simulate() -> None:
        try:
            _run_engine(serve, client_app, num_clients, stopping)
            outcome.set_result(None)
        except BaseException as error:  # noqa: BLE001 it is raised again where it is waited for
            outcome.set_exception(error)

    # What is waited for is the outcome: a join that a signal interrupts takes the thread for ended.
    threading.Thread(target=simulate, name="flserve-simulation", daemon=True).start()
    try:
        while not outcome.done():
            wait([outcome], LOOK_SECONDS)
            keep_signals()
    except KeyboardInterrupt:
        stopping.set()
        _end(outcome)
        raise
    outcome.result()


def _run_engine(
    serve: Callable[[Grid], None], client_app: ClientApp, num_clients: int, stopping: threading.Event
) -> None:
    server_app = ServerApp()
    served: list[bool] = []

    @server_app.main()
    def main(grid: Grid, _: Context) -> None:
        serve(_until(stopping, grid))
        served.append(True)

    backend = {
        "client_resources": {"num_cpus": CPUS_A_CLIENT, "num_gpus": 0.0},
        "init_args": {"log_to_driver": False, "logging_level": "ERROR"},
    }
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns at every start
    try:
        run_simulation(server_app, client_app, num_clients, backend_config=backend)  # type: ignore[arg-type]
    except FlserveError:
        raise
    except RuntimeError as error:
        raise DeliveryError(f"the simulation engine failed: {error}") from error
    if not served:
        raise DeliveryError("the simulation engine stopped before the run ended")


def _end(outcome: Future[None]) -> None:
    """Wait for an engine that was told to stop; where a client trains on, its process is ended."""
    wait([outcome], STOP_SECONDS)
    if not outcome.done():
        import ray

        logging.getLogger("flwr").setLevel(logging.CRITICAL)  # what ends now ends on purpose
        ray.shutdown()
        wait([outcome], STOP_SECONDS)


def _until(stopping: threading.Event, grid: Grid) -> Grid:
    """Return a Grid of Flower's that raises `Interrupted` once the run is to stop; it stays of Flower's own class."""
    for name in ("get_node_ids", "push_messages", "pull_messages"):
        setattr(grid, name, partial(_unless, stopping, getattr(grid, name)))
    return grid


def _unless(stopping: threading.Event, ask: Callable[..., Any], *args: Any, **options: Any) -> Any:
    if stopping.is_set():
        raise Interrupted("the run was told to stop")
    return ask(*args, **options)


@contextmanager
def _allowing(allowed: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the block: this process's clients, and the workers it starts, read them."""
    before = {name: os.environ.get(name) for name in allowed}
    os.environ.update(allowed)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Flower's progress lines off the screen for the block; warnings of flserve stay."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.addFilter(_ours_or_severe)
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeFilter(_ours_or_severe)


def _ours_or_severe(record: logging.LogRecord) -> bool:
    return record.levelno > logging.WARNING or str(record.msg).startswith("flserve")
