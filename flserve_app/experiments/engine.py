"""Where a run is started: Flower's simulation engine, or this process, behind one function.

Flower's Python entry point is marked for removal in favour of its command line, which needs a SuperLink and
packs the project for every run; nothing but this file knows about it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from flserve_app.errors import DeliveryError, FlserveError, Interrupted
from flserve_app.experiments.inprocess import InProcessGrid

CPUS_A_CLIENT = 1
STOP_SECONDS = 20.0  # enough to end what is between two looks at the Grid


def federate(engine: str, serve: Callable[[Grid], None], client_app: ClientApp, num_clients: int) -> None:
    """Run a federation of simulated nodes.

    Args:
        engine: `simulation` or `inprocess`.
        serve: What the server does with its Grid.
        client_app: What every node runs.
        num_clients: Number of nodes.

    Raises:
        FlserveError: Whatever `serve` raised, or that the engine did not run it.
    """
    with _quiet():
        if engine == "inprocess":
            with InProcessGrid(client_app, num_clients) as grid:
                serve(grid)
        else:
            _simulate(serve, client_app, num_clients)


def _simulate(serve: Callable[[Grid], None], client_app: ClientApp, num_clients: int) -> None:
    server_app = ServerApp()
    served: list[bool] = []
    serving: list[threading.Thread] = []
    stopping = threading.Event()

    @server_app.main()
    def main(grid: Grid, _: Context) -> None:
        serving.append(threading.current_thread())
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
    except KeyboardInterrupt:
        # Only this thread is told. The server's would wait for clients that are gone, a timeout a round.
        stopping.set()
        for thread in serving:
            thread.join(STOP_SECONDS)
        raise
    if not served:
        raise DeliveryError("the simulation engine stopped before the run ended")


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
